"""RQ's workers, which say from the moment they take a job that it is in hand.

A job itself says so only once its code runs, and before that a process may have to start and to import torch: tens of
seconds on a busy machine, in which the job would look lost and be started a second time.

A module of its own, because the process of a training imports its worker's class by name.
"""

from __future__ import annotations

from rq import Queue
from rq.job import Job
from rq.worker import BaseWorker, SimpleWorker, SpawnWorker

from al_backend.jobs.liveness import taken_job


class _SaysWhatItTakes(BaseWorker):
    def execute_job(self, job: Job, queue: Queue) -> None:
        """Work on a job that was just taken from a queue."""
        with taken_job(self.connection, job.id):
            super().execute_job(job, queue)


class WarmWorker(_SaysWhatItTakes, SimpleWorker):
    """Works on jobs in its own process, which keeps its detectors."""


class FreshWorker(_SaysWhatItTakes, SpawnWorker):
    """Starts a process for every job and waits for its end."""
