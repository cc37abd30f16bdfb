"""RQ's workers, which say from the moment they take a job that it is in hand.

A job itself says so only once its code runs, and before that a process may have to start and to import torch: tens of
seconds on a busy machine, in which the job would look lost and be started a second time.

A module of its own, because the process of a training imports its worker's class by name.
"""

from __future__ import annotations

from typing import Any

from rq import Queue
from rq.job import Job
from rq.worker import BaseWorker, SimpleWorker, SpawnWorker

from al_backend.errors import ConfigError
from al_backend.jobs.liveness import taken_job

FUNCTIONS = frozenset(
    f"al_backend.jobs.{name}"
    for name in (
        "candidates.choose",
        "live.predict",
        "publish.publish",
        "publish.retire",
        "ranking.score_new",
        "ranking.score_shard",
        "reconcile.reconcile",
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


class _SaysWhatItTakes(BaseWorker):
    job_class = OurJob

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Work on a job that was just taken from a queue."""
        with taken_job(self.connection, job.id):
            super().execute_job(job, queue)


class WarmWorker(_SaysWhatItTakes, SimpleWorker):
    """Works on jobs in its own process, which keeps its detectors."""


class FreshWorker(_SaysWhatItTakes, SpawnWorker):
    """Starts a process for every job and waits for its end."""
