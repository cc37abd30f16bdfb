"""In which order the worker processes take jobs."""

from __future__ import annotations

import pytest
from rq.job import Job

from al_backend.jobs.queues import QueueName, Queues
from al_backend.jobs.rq_workers import WarmWorker
from al_backend.jobs.workers import GROUPS

pytestmark = pytest.mark.redis


def taken(queues: Queues, kind: str, waiting: list[QueueName]) -> list[str]:
    """The queues of all waiting jobs, in the order in which a worker of this kind finishes them."""
    jobs = [queues.queue(name).enqueue("builtins.abs", -number) for number, name in enumerate(waiting)]
    worker = WarmWorker(
        [queues.queue(name) for name in GROUPS[kind]],
        connection=queues.connection,
        serializer=queues.serializer,
        job_class=Job,  # ours would refuse the stand-in
    )
    worker.work(burst=True, logging_level="ERROR")
    began = {}
    for job in jobs:
        job.refresh()
        assert job.is_finished
        assert job.started_at is not None
        began[job.started_at] = job.origin
    return [began[moment] for moment in sorted(began)]


def test_a_publication_keeps_no_look_waiting_and_no_look_a_publication() -> None:
    kinds = {name: kind for kind, names in GROUPS.items() for name in names}
    assert kinds[QueueName.RECONCILE] != kinds[QueueName.PUBLISH]
    assert set(kinds) == set(QueueName)


def test_a_person_who_waits_comes_before_the_ranking(queues: Queues) -> None:
    predict, score = QueueName.PREDICT, QueueName.SCORE
    assert taken(queues, "inference", [score] * 3 + [predict] * 2) == ["predict"] * 2 + ["score"] * 3
