"""Moments that several machines compare, by Redis' clock: their own may differ by minutes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta, timezone

import redis

_AHEAD: ContextVar[timedelta] = ContextVar("ahead", default=timedelta(0))


def now(connection: redis.Redis | None = None) -> datetime:
    """This moment, UTC.

    Args:
        connection: whose clock to ask; None takes ours, inside `by_clock_of` corrected.
    """
    if connection is None:
        return datetime.now(timezone.utc) + _AHEAD.get()
    seconds, micros = connection.time()
    return datetime.fromtimestamp(int(seconds), timezone.utc) + timedelta(microseconds=int(micros))


@contextmanager
def by_clock_of(connection: redis.Redis) -> Iterator[None]:
    """Correct our clock, for this thread, by how far Redis' is ahead as the block begins."""
    before = datetime.now(timezone.utc)
    theirs = now(connection)
    ours = before + (datetime.now(timezone.utc) - before) / 2
    token = _AHEAD.set(theirs - ours)
    try:
        yield
    finally:
        _AHEAD.reset(token)
