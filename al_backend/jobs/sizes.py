"""How much is done at a time, where that decides how long somebody else waits."""

from __future__ import annotations

WINDOW = 32
"""Shards of one ranking that are in the queue at a time: another project waits for no more, some seconds each."""

BLOCK = 5_000
"""Rows of an order that are made into predictions at a time."""

RETIRE_SLICE = 50
"""Predictions deleted in one job: about five seconds, so that a publication behind it does not wait long."""
