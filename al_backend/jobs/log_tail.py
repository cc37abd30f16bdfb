"""The last lines that a job wrote, where a page can read them: logs of workers are on other machines."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import redis
from rq import get_current_job

from al_backend.jobs.queues import Queues
from al_backend.masking import masked

LINES = 200
_KEPT = 86_400
_LONGEST = 500


def log_key(job_id: str) -> str:
    """Redis key of a job's last lines, newest first."""
    return f"al:log:{job_id}"


@contextmanager
def keeping_log(connection: redis.Redis) -> Iterator[None]:
    """Keep what is logged while the block runs, if it runs in a job; a new run of a job begins anew."""
    job = get_current_job()
    if job is None:
        yield
        return
    handler = _Tail(connection, log_key(job.id))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        connection.delete(log_key(job.id))
        yield
    finally:
        root.removeHandler(handler)


def log_tail(queues: Queues, job_id: str, lines: int = LINES) -> list[str]:
    """The last lines of a job, oldest first; empty when it wrote none, or a day ago."""
    found = cast("list[bytes]", queues.connection.lrange(log_key(job_id), 0, lines - 1))
    return [line.decode("utf-8", "replace") for line in reversed(found)]


class _Tail(logging.Handler):
    """Writes to a Redis list; a Redis that does not answer costs the line, not the job."""

    def __init__(self, connection: redis.Redis, key: str) -> None:
        super().__init__(logging.INFO)
        self._connection = connection
        self._key = key
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        """Add one line."""
        try:
            line = masked(self.format(record))[:_LONGEST]
            with self._connection.pipeline() as together:
                together.lpush(self._key, line)
                together.ltrim(self._key, 0, LINES - 1)
                together.expire(self._key, _KEPT)
                together.execute()
        except redis.RedisError:
            self.handleError(record)
