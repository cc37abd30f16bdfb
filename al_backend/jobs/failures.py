"""The last failure of each kind of work, kept in Redis: so it can be said while the registry cannot be written."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import redis

logger = logging.getLogger(__name__)

_KEPT = 86_400
_LENGTH = 1000


def failures_key(project_id: int) -> str:
    """Redis key of a project's last failures, by kind of work."""
    return f"al:failures:{project_id}"


@contextmanager
def keeping_failure(connection: redis.Redis, project_id: int, kind: str) -> Iterator[None]:
    """Remember the error that the block ends with, for a day or until the same kind of work succeeds."""
    key = failures_key(project_id)
    try:
        yield
    except Exception as error:
        _tell(connection, key, kind, f"{type(error).__name__}: {error}"[:_LENGTH])
        raise
    _tell(connection, key, kind, None)


def last_failures(connection: redis.Redis, project_id: int) -> dict[str, str]:
    """What the last work of each kind failed with; kinds that succeeded since are not in it."""
    stored = cast("dict[bytes, bytes]", connection.hgetall(failures_key(project_id)))
    return {kind.decode(): error.decode() for kind, error in sorted(stored.items())}


def _tell(connection: redis.Redis, key: str, kind: str, error: str | None) -> None:
    try:
        if error is None:
            connection.hdel(key, kind)
        else:
            connection.hset(key, kind, error)
            connection.expire(key, _KEPT)
    except redis.RedisError as lost:
        logger.warning("Redis does not take what became of a %s job: %s", kind, lost)
