"""How much is done at a time, where that decides how long somebody else waits."""

from __future__ import annotations

WINDOW = 128
"""Shards of one ranking that are in the queue at a time: with all of them, other projects would wait for the last."""

BLOCK = 5_000
"""Rows of an order that are made into predictions at a time."""

RETIRE_SLICE = 50
"""Predictions deleted in one job: about five seconds, so that a publication behind it does not wait long."""
