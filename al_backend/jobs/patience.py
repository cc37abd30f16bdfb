"""How long work is put off whose failure may pass by itself."""

from __future__ import annotations

import time
from typing import cast

import redis

from al_backend.errors import BackendError

PATIENCE = 90.0
"""Seconds from the first failure on: three looks at a project, longer than Label Studio needs to start again."""

_FORGOTTEN = 3600


def may_try_again(connection: redis.Redis, what: str) -> bool:
    """Whether work that has just failed for a passing reason should be done once more, rather than with what there is.

    Args:
        connection: Redis, which keeps the first failure for an hour; emptied it begins anew.
        what: identity of the work.

    Returns:
        True within `PATIENCE` seconds of the first failure.
    """
    key = f"al:failed:{what}"
    now = time.time()
    connection.set(key, now, nx=True, ex=_FORGOTTEN)
    first = cast("bytes | None", connection.get(key))
    return first is None or now - float(first) < PATIENCE


class Postponed(BackendError):
    """Work was given up for a reason that passes by itself; it is done at a later look."""
