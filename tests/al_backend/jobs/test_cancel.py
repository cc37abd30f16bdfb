"""Cancelling: what stops, what starts again and why, on a real Redis and a real registry."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rq.job import Job, JobStatus

from al_backend import cycle
from al_backend.jobs.cancel import TrainingWatch, cancel, note_labels
from al_backend.jobs.client import job_status, overview, request_ranking, request_training
from al_backend.jobs.context import job_name
from al_backend.jobs.current import cancelled_training, current_ranking, owed_ranking
from al_backend.jobs.documents import (
    PUBLISHED,
    RANK_CANCEL,
    TRAIN_CANCEL,
    fail_attempt,
    now,
    read_attempt,
    start_attempt,
    withdraw_attempt,
)
from al_backend.jobs.liveness import ensure_job, in_flight, taken_job
from al_backend.jobs.queues import QueueName, Queues
from al_backend.registry import Ranking, Registry
from model.errors import TrainingCancelled
from tests.al_backend.sample_version import sample_version

pytestmark = pytest.mark.redis

PROJECT = 7
OTHER = 71  # its job names begin like those of the project
V1, V2 = "yolov5n-v1-aaaaaa", "yolov5n-v2-bbbbbb"
LONG_AGO = datetime(2026, 1, 1, tzinfo=timezone.utc)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(str(tmp_path / "registry"))


@pytest.fixture
def running(queues: Queues) -> Iterator[Job]:
    """A training that a living worker has taken."""
    enqueue_training(queues)
    queues.queue(QueueName.TRAIN).remove("train-7")
    job = Job.fetch("train-7", connection=queues.connection, serializer=queues.serializer)
    job.started_at = now()
    job.save()
    job.set_status(JobStatus.STARTED)
    with taken_job(queues.connection, job.id):
        yield job


def enqueue_training(queues: Queues, project: int = PROJECT, *, decided_at: datetime | None = None) -> None:
    ensure_job(
        queues,
        QueueName.TRAIN,
        job_name("train", project),
        "al_backend.jobs.training.train",
        project,
        False,
        timeout=60,
        meta={"project": project, "kind": "train", "decided_at": (decided_at or now()).isoformat()},
    )


def enqueue_shard(queues: Queues, ranking: str, index: int, project: int = PROJECT, kind: str = "score") -> None:
    ensure_job(
        queues,
        QueueName.SCORE,
        job_name(kind, project, ranking, index),
        "al_backend.jobs.ranking.score_shard",
        project,
        ranking,
        index,
        timeout=60,
        meta={"project": project, "kind": "score", "ranking": ranking},
    )


def add_version(registry: Registry, folder: Path, name: str = V1, *, snapshot_at: datetime | None = None) -> None:
    weights = folder / name
    weights.mkdir()
    (weights / "weights").write_bytes(b"w")
    version = sample_version(name, PROJECT, now(), snapshot_at=snapshot_at or now())
    registry.add_version(version, weights)
    registry.promote(PROJECT, name, reason="gate")


def add_ranking(registry: Registry, name: str, version: str = V1) -> Ranking:
    ranking = Ranking(
        id=name,
        project=PROJECT,
        version=version,
        model_version=name,
        strategy={},
        context={},
        created_at=now(),
        tasks=3,
        shard_size=1,
        shards=3,
    )
    registry.create_ranking(ranking, pl.DataFrame({"task_id": [1, 2, 3], "shard": [0, 1, 2]}))
    return ranking


def published(registry: Registry, ranking: str) -> None:
    registry.write_document(PROJECT, PUBLISHED, {"ranking": ranking, "model_version": ranking, "version": V1})


def documents(registry: Registry) -> list[dict[str, Any] | None]:
    return [registry.read_document(PROJECT, name) for name in (TRAIN_CANCEL, RANK_CANCEL)]


# A training


def test_nothing_in_work_is_said_and_changes_nothing(registry: Registry, queues: Queues, tmp_path: Path) -> None:
    add_version(registry, tmp_path)
    add_ranking(registry, V1)
    published(registry, V1)
    report = cancel(queues, registry, PROJECT)
    assert (report.training, report.ranking, report.removed_jobs) == (None, None, 0)
    assert str(report).startswith("Nothing to cancel: project 7")
    assert documents(registry) == [None, None]
    assert overview(queues)["jobs"] == []


def test_a_waiting_training_is_taken_out_of_the_queue_and_no_other(registry: Registry, queues: Queues) -> None:
    enqueue_training(queues)
    enqueue_training(queues, OTHER)
    report = cancel(queues, registry, PROJECT)
    assert (report.training, report.removed_jobs) == ("waiting", 1)
    assert not in_flight(queues, QueueName.TRAIN, "train-7")
    assert in_flight(queues, QueueName.TRAIN, "train-71")
    assert cancel(queues, registry, PROJECT).training is None


def test_a_running_training_notices_at_its_next_step(registry: Registry, queues: Queues, running: Job) -> None:
    watch = TrainingWatch(registry, PROJECT, datetime.fromisoformat(running.meta["decided_at"]))
    watch.check()
    report = cancel(queues, registry, PROJECT)
    assert (report.training, report.removed_jobs) == ("running", 0)
    assert "active version stays" in str(report)
    with pytest.raises(TrainingCancelled, match="by hand"):
        watch.check(always=True)
    before = documents(registry)
    assert cancel(queues, registry, PROJECT).training == "stopping"
    assert documents(registry) == before


def test_redis_losing_everything_does_not_undo_it(registry: Registry, queues: Queues, running: Job) -> None:
    watch = TrainingWatch(registry, PROJECT, datetime.fromisoformat(running.meta["decided_at"]))
    cancel(queues, registry, PROJECT)
    queues.connection.flushall()
    with pytest.raises(TrainingCancelled):
        watch.check()
    assert cancelled_training(registry, PROJECT) is not None


def test_a_training_that_was_decided_on_later_is_not_meant(registry: Registry, queues: Queues, running: Job) -> None:
    cancel(queues, registry, PROJECT)
    TrainingWatch(registry, PROJECT, now()).check()


def test_looking_costs_a_training_next_to_nothing(registry: Registry, queues: Queues, running: Job) -> None:
    seconds = iter([0.0, 0.03, 0.5, 1.6, 1.63])  # a registry that takes 30 ms to answer
    watch = TrainingWatch(registry, PROJECT, now() - timedelta(minutes=1), clock=lambda: next(seconds))
    watch.check()
    cancel(queues, registry, PROJECT)
    watch.check()  # 0.47 s later: not asked yet
    with pytest.raises(TrainingCancelled):
        watch.check()


def test_a_cancelled_training_counts_as_no_attempt(registry: Registry) -> None:
    withdraw_attempt(registry, PROJECT, start_attempt(registry, PROJECT, "digest"))
    assert start_attempt(registry, PROJECT, "digest").count == 1
    attempt = read_attempt(registry, PROJECT)
    assert attempt is not None
    assert attempt.error is None


def test_a_failed_training_is_not_tried_again(registry: Registry, queues: Queues) -> None:
    fail_attempt(registry, PROJECT, start_attempt(registry, PROJECT, "digest"), "OSError: the disk is full")
    assert cancel(queues, registry, PROJECT).training == "retry"
    assert cancel(queues, registry, PROJECT).training is None


def test_a_training_that_ended_is_nothing_to_cancel(registry: Registry, queues: Queues, tmp_path: Path) -> None:
    start_attempt(registry, PROJECT, "digest")
    add_version(registry, tmp_path)
    assert cancel(queues, registry, PROJECT).training is None


def test_a_request_that_waits_is_void(registry: Registry, queues: Queues) -> None:
    request = request_training(registry, queues, PROJECT)
    assert job_status(registry, queues, request) == "queued"
    assert cancel(queues, registry, PROJECT).training == "requested"
    assert job_status(registry, queues, request) == "canceled"
    again = request_training(registry, queues, PROJECT)
    assert job_status(registry, queues, again) == "queued"
    assert cancel(queues, registry, PROJECT).training == "requested"


def test_only_the_training_or_only_the_ranking(registry: Registry, queues: Queues, tmp_path: Path) -> None:
    add_version(registry, tmp_path, snapshot_at=LONG_AGO)
    add_ranking(registry, V1)
    enqueue_training(queues)
    assert cancel(queues, registry, PROJECT, training=False).training is None
    assert in_flight(queues, QueueName.TRAIN, "train-7")
    report = cancel(queues, registry, PROJECT, ranking=False)
    assert (report.training, report.ranking) == ("waiting", None)


def test_labels_are_noted_for_the_cancellation_that_they_belong_to(registry: Registry, queues: Queues) -> None:
    enqueue_training(queues)
    cancel(queues, registry, PROJECT)
    first = cancelled_training(registry, PROJECT)
    assert first is not None
    assert first.labels is None
    note_labels(registry, PROJECT, first, {3: "digest"})
    noted = cancelled_training(registry, PROJECT)
    assert noted == cycle.CancelledTraining(first.at, {"3": "digest"})
    enqueue_training(queues)
    cancel(queues, registry, PROJECT)
    second = cancelled_training(registry, PROJECT)
    assert second is not None
    assert second.labels is None


# A ranking


def test_the_waiting_shards_of_a_ranking_are_removed_and_the_published_one_counts_again(
    registry: Registry, queues: Queues, tmp_path: Path
) -> None:
    add_version(registry, tmp_path)
    add_ranking(registry, V1)
    published(registry, V1)
    newest = add_ranking(registry, f"{V1}+r2")
    for index in range(3):
        enqueue_shard(queues, newest.id, index)
    enqueue_shard(queues, newest.id, 0, kind="closer")
    enqueue_shard(queues, V1, 0)
    enqueue_shard(queues, newest.id, 0, project=OTHER)
    report = cancel(queues, registry, PROJECT)
    assert (report.ranking, report.removed_jobs) == (newest.id, 4)
    assert {job["id"] for job in overview(queues)["jobs"] if job["kind"] == "score"} == {
        job_name("score", PROJECT, V1, 0),
        job_name("score", OTHER, newest.id, 0),
    }
    current = current_ranking(registry, PROJECT)
    assert current.cancelled == newest.id
    assert current.ranking is not None
    assert current.ranking.id == V1
    before = documents(registry)
    assert cancel(queues, registry, PROJECT).ranking is None
    assert documents(registry) == before


def test_the_first_ranking_cancelled_leaves_none(registry: Registry, queues: Queues, tmp_path: Path) -> None:
    add_version(registry, tmp_path)
    add_ranking(registry, V1)
    request = request_ranking(registry, queues, PROJECT)
    assert cancel(queues, registry, PROJECT).ranking == V1
    assert current_ranking(registry, PROJECT).ranking is None
    assert job_status(registry, queues, request) == "canceled"


def test_promoting_the_version_again_takes_the_cancellation_back(
    registry: Registry, queues: Queues, tmp_path: Path
) -> None:
    add_version(registry, tmp_path)
    add_version(registry, tmp_path, V2)
    add_ranking(registry, V2, V2)
    cancel(queues, registry, PROJECT)
    assert current_ranking(registry, PROJECT).cancelled == V2
    registry.rollback(PROJECT)
    assert current_ranking(registry, PROJECT).cancelled is None
    registry.promote(PROJECT, V2, reason="by hand")
    current = current_ranking(registry, PROJECT)
    assert current.cancelled is None
    assert current.ranking is not None
    assert current.ranking.id == V2


def test_a_requested_ranking_is_void_and_a_later_request_is_not(
    registry: Registry, queues: Queues, tmp_path: Path
) -> None:
    add_version(registry, tmp_path)
    add_ranking(registry, V1)
    published(registry, V1)
    request = request_ranking(registry, queues, PROJECT)
    assert cancel(queues, registry, PROJECT).ranking == "requested"
    assert cancel(queues, registry, PROJECT).ranking is None
    assert job_status(registry, queues, request) == "canceled"
    assert job_status(registry, queues, request_ranking(registry, queues, PROJECT)) == "queued"


def test_a_cancellation_that_came_too_late_changes_nothing(registry: Registry, queues: Queues, tmp_path: Path) -> None:
    add_version(registry, tmp_path)
    ranking = add_ranking(registry, V1)
    cancel(queues, registry, PROJECT)
    published(registry, ranking.id)  # by the job that had just looked for the last time
    assert current_ranking(registry, PROJECT).cancelled is None


def test_a_request_that_an_earlier_version_met_is_nothing_to_cancel(
    registry: Registry, queues: Queues, tmp_path: Path
) -> None:
    add_version(registry, tmp_path)
    request_ranking(registry, queues, PROJECT, strategy="random")
    add_ranking(registry, V1)
    published(registry, V1)
    add_version(registry, tmp_path, V2)  # active now, not yet ranked
    assert cancel(queues, registry, PROJECT).ranking is None
    assert documents(registry) == [None, None]


def test_a_request_is_owed_until_any_ranking_meets_it_or_a_person_cancels_it(
    registry: Registry, queues: Queues, tmp_path: Path
) -> None:
    assert owed_ranking(registry, PROJECT, registry.rankings(PROJECT)) is None
    add_version(registry, tmp_path)
    add_ranking(registry, V1)
    request_ranking(registry, queues, PROJECT, strategy="random", budget=3)
    owed = owed_ranking(registry, PROJECT, registry.rankings(PROJECT))
    assert owed is not None
    assert owed.overrides == {"strategy": "random", "budget": 3}
    published(registry, V1)
    cancel(queues, registry, PROJECT)
    assert owed_ranking(registry, PROJECT, registry.rankings(PROJECT)) is None
    request_ranking(registry, queues, PROJECT)
    again = owed_ranking(registry, PROJECT, registry.rankings(PROJECT))
    assert again is not None
    assert again.overrides == {}
    add_ranking(registry, f"{V1}+r2")
    assert owed_ranking(registry, PROJECT, registry.rankings(PROJECT)) is None
