"""How often a piece of work was tried, and from when on it may be tried again.

A try is counted before it begins, so one whose worker was killed or whose time was over counts, too. Work that ended
well is forgotten. Kept in Redis: emptied, it begins anew.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import cast

import redis

from al_backend.jobs.patience import Postponed

logger = logging.getLogger(__name__)

WAITS = (0.0, 5.0, 15.0, 30.0, 60.0, 120.0)
"""Seconds after the first, second, ... failed try before the next; the last one counts for all later tries."""

_KEPT = 86_400.0
_LENGTH = 500


@dataclass(frozen=True, slots=True)
class Tries:
    """The tries of one piece of work that has not ended well since.

    Attributes:
        what: it is, for people; "" for nothing to tell them.
        count: tries begun.
        postponed: of them, those that were given up for a reason that passes by itself.
        due: when the next try may begin, as a Unix time.
        at: of the last change, likewise.
        error: of the last try; None when it runs, or was killed.
        ranking: that it belongs to, if it does.
    """

    what: str
    count: int = 0
    postponed: int = 0
    due: float = 0.0
    at: float = 0.0
    error: str | None = None
    ranking: str | None = None

    @property
    def failed(self) -> int:
        """Tries before the present one that ended badly for a reason of their own."""
        return self.count - self.postponed - 1

    @property
    def sentence(self) -> str | None:
        """What a person should know about it; None while it was tried in vain no more than once."""
        in_vain = self.count - (self.error is None)
        if in_vain < 2 or not self.what:
            return None
        why = self.error or "its worker was killed, or its time was over"
        return f"{self.what} was tried {in_vain} times in vain ({why}); it is tried again, less and less often."


def tries_key(project_id: int) -> str:
    """Redis key of a project's tries, by job id."""
    return f"al:tries:{project_id}"


@contextmanager
def counting_try(
    connection: redis.Redis, project_id: int, job_id: str, what: str, ranking: str | None = None
) -> Iterator[None]:
    """Around a try of the work that a job is named after; forgotten when it ends without an error."""
    now = time.time()
    before = _read(connection, project_id, job_id) or Tries(what, ranking=ranking)
    begun = replace(before, count=before.count + 1, due=now + _wait(before.count + 1), at=now, error=None)
    _write(connection, project_id, job_id, begun)
    try:
        yield
    except Exception as error:
        now = time.time()
        failed = replace(
            begun,
            postponed=begun.postponed + isinstance(error, Postponed),
            due=now + _wait(begun.count),
            at=now,
            error=f"{type(error).__name__}: {error}"[:_LENGTH],
        )
        _write(connection, project_id, job_id, failed)
        raise
    _write(connection, project_id, job_id, None)


def tries_of(connection: redis.Redis, project_id: int) -> dict[str, Tries]:
    """The tries of all the work of a project that has not ended well since, by job id."""
    stored = cast("dict[bytes, bytes]", connection.hgetall(tries_key(project_id)))
    found = {job_id.decode(): Tries(**json.loads(value)) for job_id, value in sorted(stored.items())}
    old = [job_id for job_id, tries in found.items() if tries.at < time.time() - _KEPT]
    if old:
        connection.hdel(tries_key(project_id), *old)
    return {job_id: tries for job_id, tries in found.items() if job_id not in old}


def in_vain(connection: redis.Redis, project_id: int, ranking_id: str | None) -> list[str]:
    """Sentences about work that was tried again and again; of shards those of one ranking."""
    found = tries_of(connection, project_id).values()
    return [tries.sentence for tries in found if tries.sentence and tries.ranking in (None, ranking_id)]


def tries_begun(connection: redis.Redis, project_id: int, job_id: str) -> Tries:
    """Those of one piece of work; none where it was never tried, or ended well."""
    return _read(connection, project_id, job_id) or Tries("")


def put_off(connection: redis.Redis, project_id: int) -> set[str]:
    """Ids of the jobs whose next try may not begin yet."""
    now = time.time()
    return {job_id for job_id, tries in tries_of(connection, project_id).items() if tries.due > now}


def is_due(connection: redis.Redis, project_id: int, job_id: str) -> bool:
    """Whether a job may be enqueued now, as far as its former tries are concerned."""
    tries = _read(connection, project_id, job_id)
    return tries is None or tries.due <= time.time()


def wait_until(connection: redis.Redis, project_id: int, job_id: str, moment: float, tries: Tries) -> None:
    """Let a job's next try begin no sooner than a moment, as a Unix time."""
    _write(connection, project_id, job_id, replace(tries, due=moment, at=time.time()))


def forget_tries(connection: redis.Redis, project_id: int) -> None:
    """Let everything of a project be tried at once: a person asks for it."""
    connection.delete(tries_key(project_id))


def _wait(count: int) -> float:
    return WAITS[min(count, len(WAITS)) - 1]


def _read(connection: redis.Redis, project_id: int, job_id: str) -> Tries | None:
    stored = cast("bytes | None", connection.hget(tries_key(project_id), job_id))
    return None if stored is None else Tries(**json.loads(stored))


def _write(connection: redis.Redis, project_id: int, job_id: str, tries: Tries | None) -> None:
    key = tries_key(project_id)
    try:
        if tries is None:
            connection.hdel(key, job_id)
        else:
            connection.hset(key, job_id, json.dumps(asdict(tries)))
            connection.expire(key, int(_KEPT))
    except redis.RedisError as lost:
        logger.warning("Redis does not take how often %s was tried: %s", job_id, lost)
