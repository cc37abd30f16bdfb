"""Who is alive and what is really in flight, known within seconds of a kill.

RQ notices a killed worker only after minutes, and a SimpleWorker tells nothing while it works. So every worker process
and every running job refreshes an entry of its own from a thread; an entry whose process is gone counts as dead at once
on the same machine, and after `EXPIRY` seconds elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import redis
from rq.exceptions import DuplicateJobError, InvalidJobOperation, NoSuchJobError
from rq.job import Job, JobStatus

from al_backend.jobs.queues import QueueName, Queues
from al_backend.jobs.tries import is_due

logger = logging.getLogger(__name__)

EXPIRY = 15.0
"""Seconds after which an entry that is not refreshed counts as dead."""

_PERIOD = 1.0
_FORGOTTEN = 4 * _PERIOD  # seconds; a process that imports torch may miss a beat
_TAKING = 2.0  # seconds, many times what a worker needs from taking a job to its first heartbeat
_TURN = 10_000  # milliseconds, several times `_TAKING`; a process killed in its turn is waited for no longer
_WORKERS = "al:workers"
_SINCE = "al:since"


def job_key(job_id: str) -> str:
    """Redis key under which the process that runs a job refreshes its entry."""
    return f"al:running:{job_id}"


def taken_key(job_id: str) -> str:
    """Redis key under which the worker that took a job refreshes its entry, until the job has ended."""
    return f"al:taken:{job_id}"


def place() -> str:
    """This machine and process namespace, so that process ids are compared only where they mean the same."""
    namespace = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()}/{os.readlink(namespace) if namespace.exists() else ''}"


class Beat:
    """Refreshes an entry from a thread for as long as the `with` block runs.

    Args:
        connection: Redis.
        write: called every few seconds with the connection; it writes the entry.
        clear: called once at the end.
    """

    def __init__(
        self,
        connection: redis.Redis,
        write: Callable[[redis.Redis], object],
        clear: Callable[[redis.Redis], object],
    ) -> None:
        self._connection = connection
        self._write = write
        self._clear = clear
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Beat:
        self._write(self._connection)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=_PERIOD)
        try:
            self._clear(self._connection)
        except redis.RedisError as error:
            logger.warning("Could not clear a heartbeat, it expires in %.0f s: %s", EXPIRY, error)

    def _run(self) -> None:
        while not self._stop.wait(_PERIOD):
            try:
                self._write(self._connection)
            except redis.RedisError as error:
                logger.warning("Heartbeat not written, Redis does not answer: %s", error)


def running_job(connection: redis.Redis, job_id: str) -> Beat:
    """A heartbeat that says that this process works on a job."""
    return _this_process(connection, job_key(job_id))


def taken_job(connection: redis.Redis, job_id: str) -> Beat:
    """A heartbeat that says that this worker took a job, which another process may run."""
    return _this_process(connection, taken_key(job_id))


def _this_process(connection: redis.Redis, key: str) -> Beat:
    value = json.dumps({"place": place(), "pid": os.getpid()})
    return Beat(
        connection,
        lambda redis_: redis_.set(key, value, ex=int(EXPIRY)),
        lambda redis_: redis_.delete(key),
    )


def living_worker(connection: redis.Redis, queue_names: Iterable[QueueName], **details: str) -> Beat:
    """A heartbeat that says that this process takes jobs from these queues."""
    member = json.dumps(
        {"place": place(), "pid": os.getpid(), "queues": [name.value for name in queue_names], **details},
        sort_keys=True,
    )
    return Beat(
        connection,
        lambda redis_: redis_.zadd(_WORKERS, {member: _now(redis_)}),
        lambda redis_: redis_.zrem(_WORKERS, member),
    )


def workers(connection: redis.Redis) -> list[dict[str, Any]]:
    """The living worker processes: `{"place", "pid", "queues", ...}` each; dead ones are forgotten on the way."""
    now = _now(connection)
    connection.zremrangebyscore(_WORKERS, 0, now - EXPIRY)
    members = cast("list[bytes]", connection.zrangebyscore(_WORKERS, now - EXPIRY, "+inf"))
    found = [json.loads(member) for member in members]
    return [worker for worker in found if process_lives(worker)]


def has_worker(connection: redis.Redis, name: QueueName) -> bool:
    """Whether a living process takes jobs from the queue."""
    return any(name.value in worker["queues"] for worker in workers(connection))


def remembers(connection: redis.Redis) -> bool:
    """Whether Redis knows all work in progress; False for a moment after it was emptied or started anew.

    A training that runs goes on when Redis loses everything, and says so again with its next heartbeat. Whoever looked
    before that would start the same training once more.
    """
    now = _now(connection)
    connection.set(_SINCE, now, nx=True)
    since = cast("bytes | None", connection.get(_SINCE))
    return since is not None and now - float(since) >= _FORGOTTEN


def in_flight(queues: Queues, name: QueueName, job_id: str) -> bool:
    """Whether a job is waiting in its queue or being worked on by a living process."""
    return bool(which_in_flight(queues, name, [job_id]))


def which_in_flight(queues: Queues, name: QueueName, job_ids: Sequence[str]) -> set[str]:
    """Those of some jobs that wait in their queue or are being worked on by a living process.

    A handful of requests to Redis, however many jobs there are.
    """
    found: set[str] = set()
    rest = list(job_ids)
    deadline = time.monotonic() + _TAKING
    while rest:
        entries = _entries(queues.connection, rest)
        found |= {job for job in rest if any(map(process_lives, entries[job]))}
        # Before the queue, because a job that leaves it between the two looks has begun by then.
        states = _states(queues, [job for job in rest if job not in found])
        found |= _waiting(queues, name, [job for job in states if states[job][0] == JobStatus.QUEUED])
        found |= {job for job, state in states.items() if _has_just_begun(state) and not entries[job]}
        # Between two steps a job gets into its queue, or gets its first heartbeat; both happen at once.
        rest = [job for job, state in states.items() if state[0] == JobStatus.QUEUED and job not in found]
        rest = [job for job in rest if not entries[job]]
        if rest and time.monotonic() >= deadline:
            break
        if rest:
            time.sleep(0.05)
    return found


def _waiting(queues: Queues, name: QueueName, job_ids: Sequence[str]) -> set[str]:
    queue = queues.queue(name)
    if len(job_ids) == 1:
        return {job for job in job_ids if queue.get_job_position(job) is not None}
    return set(job_ids) & set(queue.get_job_ids()) if job_ids else set()


def _states(queues: Queues, job_ids: Sequence[str]) -> dict[str, tuple[JobStatus | None, datetime | None]]:
    """Status and beginning of each job; both None where Redis knows no such job."""
    if not job_ids:
        return {}
    jobs = Job.fetch_many(list(job_ids), connection=queues.connection, serializer=queues.serializer)
    return {
        job_id: (None, None) if job is None else (job.get_status(refresh=False), job.started_at)
        for job_id, job in zip(job_ids, jobs, strict=True)
    }


def _has_just_begun(state: tuple[JobStatus | None, datetime | None]) -> bool:
    status, started_at = state
    return status == JobStatus.STARTED and started_at is not None and time.time() - started_at.timestamp() < EXPIRY


def _entries(connection: redis.Redis, job_ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Per job, of the worker that took it and of the process that runs it, those that are there."""
    keys = [key for job in job_ids for key in (taken_key(job), job_key(job))]
    found = iter(cast("list[bytes | None]", connection.mget(keys)))
    pairs = {job: (next(found), next(found)) for job in job_ids}
    return {job: [json.loads(entry) for entry in pair if entry is not None] for job, pair in pairs.items()}


def any_in_flight(queues: Queues, name: QueueName, prefix: str) -> bool:
    """Whether a job whose id starts with `prefix` is in flight."""
    queue = queues.queue(name)
    ids = {*queue.get_job_ids(), *queue.started_job_registry.get_job_ids(cleanup=False)}
    return bool(which_in_flight(queues, name, sorted(job_id for job_id in ids if job_id.startswith(prefix))))


def ensure_job(
    queues: Queues,
    name: QueueName,
    job_id: str,
    function: str,
    *args: Any,
    timeout: int,
    meta: dict[str, Any] | None = None,
) -> bool:
    """Enqueue a job unless it is in flight already, or has failed a moment ago; remains of a former one are replaced.

    Args:
        queues: where.
        name: of the queue.
        job_id: identity of the work; only `[A-Za-z0-9_-]`.
        function: dotted name of the job; it and `args` travel as JSON.
        args: plain values.
        timeout: seconds after which the job is stopped.
        meta: shown by `/jobs`; its `project` is the one whose tries count, see `tries.py`.

    Returns:
        Whether it was enqueued now; False also when somebody else does so in this moment.
    """
    project = (meta or {}).get("project")
    if project is not None and not is_due(queues.connection, int(project), job_id):
        return False
    turn = f"al:ensuring:{job_id}"
    # Looking, clearing away, enqueueing: who came in between would clear away what was just enqueued.
    if not queues.connection.set(turn, 1, nx=True, px=_TURN):
        return False
    try:
        return not in_flight(queues, name, job_id) and _enqueue(queues, name, job_id, function, args, timeout, meta)
    finally:
        queues.connection.delete(turn)


def _enqueue(
    queues: Queues,
    name: QueueName,
    job_id: str,
    function: str,
    args: tuple[Any, ...],
    timeout: int,
    meta: dict[str, Any] | None,
) -> bool:
    with contextlib.suppress(NoSuchJobError, InvalidJobOperation):  # gone, or expiring in this moment
        Job.fetch(job_id, connection=queues.connection, serializer=queues.serializer).delete()
    try:
        queues.queue(name).enqueue(
            function,
            args=args,
            job_id=job_id,
            unique=True,
            job_timeout=timeout,
            result_ttl=600,
            failure_ttl=86_400,
            meta=meta or {},
        )
    except DuplicateJobError:
        logger.debug("Job %s was enqueued by somebody else in the same moment", job_id)
        return False
    return True


def _now(connection: redis.Redis) -> float:
    """Redis' own clock, so that machines with different clocks agree."""
    seconds, micros = connection.time()
    return float(seconds) + float(micros) / 1e6


def process_lives(entry: dict[str, Any]) -> bool:
    """Whether the process of an entry (`{"place", "pid"}`) may be alive; one of another machine always may."""
    if entry["place"] != place():
        return True
    try:
        os.kill(int(entry["pid"]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(int(entry["pid"]))


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return False
