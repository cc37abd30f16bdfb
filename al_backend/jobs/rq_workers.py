"""RQ's workers, which say from the moment they take a job that it is in hand, log what it is about, and count it.

A job itself says that it runs only once its code does, and before that a process may have to start and to import
torch: tens of seconds on a busy machine, in which the job would look lost and be started a second time.

A module of its own, because the process of a training imports its worker's class by name.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from rq import Queue
from rq.executions import Execution
from rq.job import Job
from rq.worker import BaseWorker, SimpleWorker, SpawnWorker

from al_backend import logs, metrics
from al_backend.errors import ConfigError
from al_backend.jobs import telemetry
from al_backend.jobs.liveness import taken_job
from al_backend.settings import load_settings

logger = logging.getLogger(__name__)

KILLED = "Killed"
"""Reason of a failure that left no error: the process of the job is gone."""

FUNCTIONS = frozenset(
    f"al_backend.jobs.{name}"
    for name in (
        "candidates.choose",
        "cold_start.cold_start",
        "live.predict",
        "publish.publish",
        "publish.retire",
        "ranking.score_new",
        "ranking.score_shard",
        "reconcile.reconcile",
        "tidy.tidy",
        "training.train",
    )
)
"""What a worker calls; a new kind of job has to be added here."""


class OurJob(Job):
    """A job that calls a function of ours and nothing else.

    JSON instead of pickle is not enough: a job names the function that it calls, and whoever may write to Redis could
    name any function of any installed package.
    """

    def perform(self) -> Any:
        """Call the job's function.

        Raises:
            ConfigError: it is none of the functions that this backend enqueues.
        """
        name = self.func_name or ""
        if self.instance is not None or name not in FUNCTIONS:
            raise ConfigError(f"Job {self.id} asks for {name[:100]!r}, which is no job of this backend; who wrote it?")
        return super().perform()

    def restore(self, raw_data: Any) -> None:
        """Read the job as Redis has it, but no callbacks and no webhooks: these name functions and addresses, too."""
        super().restore(raw_data)
        self._success_callback_name = self._failure_callback_name = self._stopped_callback_name = None
        self.webhooks = []


@contextmanager
def _own_timeout_kept() -> Iterator[None]:
    """A process has one alarm clock, which the job in the block sets and clears."""
    handler, started = signal.getsignal(signal.SIGALRM), time.monotonic()
    left = signal.alarm(0)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, handler)
        if left:
            signal.alarm(max(1, left - int(time.monotonic() - started)))


class _SaysWhatItTakes(BaseWorker):
    job_class = OurJob
    _raised: str | None = None

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Work on a job that was just taken from a queue."""
        with taken_job(self.connection, job.id), _about(job):
            super().execute_job(job, queue)

    def perform_job(self, job: Job, queue: Queue, execution: Execution) -> bool:
        """Do the work itself, in the process that does it."""
        started = time.monotonic()
        with _about(job):
            finished = super().perform_job(job, queue, execution)
            if finished:
                self._note_end(_kind(job), time.monotonic() - started)
        return finished

    def _note_end(self, kind: str, seconds: float) -> None:
        # What a look has started it says itself; most start nothing.
        logger.log(logging.DEBUG if kind == "reconcile" else logging.INFO, "%s finished in %.1f s", kind, seconds)
        telemetry.add(self.connection, metrics.JOBS, kind=kind, outcome="finished")
        telemetry.observe(self.connection, metrics.JOB_SECONDS, seconds, kind=kind)

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """Log an error, and remember its class for the count."""
        self._raised = exc_info[0].__name__ if exc_info and exc_info[0] is not None else None
        super().handle_exception(job, *exc_info)

    def handle_job_failure(
        self,
        job: Job,
        queue: Queue,
        started_job_registry: Any = None,
        exc_string: str = "",
        execution: Execution | None = None,
    ) -> None:
        """Note the failure; called where the error was raised, or for a process that was killed, by its parent."""
        kind = _kind(job)
        telemetry.add(self.connection, metrics.JOBS, kind=kind, outcome="failed")
        telemetry.add(self.connection, metrics.FAILURES, kind=kind, reason=self._raised or KILLED)
        self._raised = None
        super().handle_job_failure(job, queue, started_job_registry, exc_string, execution)


class WarmWorker(_SaysWhatItTakes, SimpleWorker):
    """Works on jobs in its own process, which keeps its detectors."""

    def answer_waiting(self, queue: Queue) -> None:
        """Work on all jobs of a queue that wait in this moment, in the middle of the job in hand."""
        # Named twice, because of a single queue RQ moves the job to a list that only a worker of one queue clears.
        while found := Queue.dequeue_any(
            [queue, queue], None, connection=self.connection, job_class=self.job_class, serializer=self.serializer
        ):
            job, origin = found
            with _own_timeout_kept():
                self.execute_job(job, origin)


class FreshWorker(_SaysWhatItTakes, SpawnWorker):
    """Starts a process for every job and waits for its end."""

    def main_work_horse(self, job: Job, queue: Queue) -> None:
        """Where the process of a job begins: it has inherited no logging."""
        logs.configure(load_settings())
        super().main_work_horse(job, queue)


def _about(job: Job) -> AbstractContextManager[None]:
    meta = job.meta
    return logs.bound(
        project=meta.get("project"),
        job=job.id,
        kind=meta.get("kind"),
        version=meta.get("ranking"),  # a ranking is named like the model version that it is published as
        request=meta.get("request"),
    )


def _kind(job: Job) -> str:
    return str(job.meta.get("kind") or "other")
