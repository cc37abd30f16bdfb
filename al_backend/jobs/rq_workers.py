"""RQ's workers, which say from the moment they take a job that it is in hand.

A job itself says so only once its code runs, and before that a process may have to start and to import torch: tens of
seconds on a busy machine, in which the job would look lost and be started a second time.

A module of its own, because the process of a training imports its worker's class by name.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rq import Queue
from rq.job import Job
from rq.worker import BaseWorker, SimpleWorker, SpawnWorker

from al_backend.jobs.liveness import taken_job


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
    def execute_job(self, job: Job, queue: Queue) -> None:
        """Work on a job that was just taken from a queue."""
        with taken_job(self.connection, job.id):
            super().execute_job(job, queue)


class WarmWorker(_SaysWhatItTakes, SimpleWorker):
    """Works on jobs in its own process, which keeps its detectors."""

    def answer_waiting(self, queue: Queue) -> None:
        """Work on all jobs of a queue that wait in this moment, in the middle of the job in hand."""
        # Named twice, because of a single queue RQ moves the job to a list that only a worker of one queue clears.
        while found := Queue.dequeue_any([queue, queue], None, connection=self.connection, serializer=self.serializer):
            job, origin = found
            with _own_timeout_kept():
                self.execute_job(job, origin)


class FreshWorker(_SaysWhatItTakes, SpawnWorker):
    """Starts a process for every job and waits for its end."""
