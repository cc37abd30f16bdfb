"""What the web server and the command line ask of the workers, over a real Redis and a real registry."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rq.job import Job, JobStatus
from rq.timeouts import TimerDeathPenalty
from rq.worker import SimpleWorker

from al_backend.errors import NoWorker
from al_backend.jobs import client, live
from al_backend.jobs.client import (
    PredictionFailed,
    enqueue_due_looks,
    enqueue_reconcile,
    error_key,
    job_status,
    last_error,
    look_later,
    overview,
    pending_key,
    predict,
    request_ranking,
    request_training,
)
from al_backend.jobs.documents import PUBLISHED, RANK_REQUEST, TRAIN_REQUEST, fail_attempt, now, start_attempt
from al_backend.jobs.liveness import ensure_job, living_worker, running_job
from al_backend.jobs.queues import QueueName, Queues
from al_backend.registry import Ranking, Registry
from tests.al_backend.sample_version import sample_version

pytestmark = pytest.mark.redis

PROJECT = 7
TASK = {"id": 3, "data": {"image": "a.jpg"}, "annotations": [{"id": 1}], "predictions": []}
ANSWER = {"result": [], "score": 0.5, "model_version": "v1"}


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(str(tmp_path / "registry"))


def add_version(registry: Registry, folder: Path, snapshot_at: datetime, number: int = 1) -> None:
    weights = folder / f"weights-{number}"
    weights.mkdir()
    (weights / "weights").write_bytes(b"w")
    version = sample_version(f"yolov5n-v{number}-aaaaaa", PROJECT, now(), snapshot_at=snapshot_at)
    registry.add_version(version, weights)


def add_ranking(registry: Registry, name: str) -> None:
    ranking = Ranking(
        id=name,
        project=PROJECT,
        version="yolov5n-v1-aaaaaa",
        model_version=name,
        strategy={},
        context={},
        created_at=now(),
        tasks=0,
        shard_size=4,
        shards=0,
    )
    registry.create_ranking(ranking, pl.DataFrame(schema={"task_id": pl.Int64}))


class ThreadWorker(SimpleWorker):
    """RQ's own worker without signals, which only a main thread may have."""

    death_penalty_class = TimerDeathPenalty

    def _install_signal_handlers(self) -> None:
        pass


@contextmanager
def inference_worker(queues: Queues, jobs: int = 1) -> Iterator[None]:
    """A living worker that takes `jobs` jobs of the queue `predict`."""

    def work() -> None:
        queue = queues.queue(QueueName.PREDICT)
        deadline = time.monotonic() + 30
        while not queue.count and time.monotonic() < deadline:
            time.sleep(0.01)
        worker = ThreadWorker([queue], connection=queues.connection, serializer=queues.serializer)
        worker.work(burst=True, max_jobs=jobs, logging_level="ERROR")

    with living_worker(queues.connection, (QueueName.PREDICT,)):
        thread = threading.Thread(target=work)
        thread.start()
        yield
        thread.join()


# Reconciles


def test_however_many_ask_one_reconcile_waits(queues: Queues) -> None:
    start = threading.Barrier(10)
    answers: list[bool] = []

    def ask(number: int) -> None:
        start.wait()
        answers.append(enqueue_reconcile(queues, PROJECT, f"event {number}"))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [False] * 9 + [True]
    (job,) = queues.queue(QueueName.RECONCILE).jobs
    assert job.func_name == "al_backend.jobs.reconcile.reconcile"
    assert job.args[0] == PROJECT


def test_each_project_has_a_reconcile_of_its_own_and_a_new_one_once_it_has_begun(queues: Queues) -> None:
    assert enqueue_reconcile(queues, PROJECT, "one")
    assert enqueue_reconcile(queues, PROJECT + 1, "one")
    queues.connection.delete(pending_key(PROJECT))  # what a reconcile does first
    assert enqueue_reconcile(queues, PROJECT, "two")
    assert [job.args[0] for job in queues.queue(QueueName.RECONCILE).jobs] == [PROJECT, PROJECT + 1, PROJECT]


def test_a_reconcile_that_left_the_queue_and_never_began_is_asked_for_again(queues: Queues) -> None:
    enqueue_reconcile(queues, PROJECT, "one")
    queue = queues.queue(QueueName.RECONCILE)
    a_while_later = 3000
    queues.connection.expire(pending_key(PROJECT), a_while_later)
    assert not enqueue_reconcile(queues, PROJECT, "two"), "it still waits, behind much other work"
    queue.remove(queue.job_ids[0])  # taken by a worker that was killed in that moment
    assert enqueue_reconcile(queues, PROJECT, "three")
    assert queue.count == 1


def test_a_reconcile_that_has_just_left_the_queue_is_about_to_begin(queues: Queues) -> None:
    enqueue_reconcile(queues, PROJECT, "one")
    queue = queues.queue(QueueName.RECONCILE)
    queue.remove(queue.job_ids[0])
    assert not enqueue_reconcile(queues, PROJECT, "two")


def test_a_look_in_a_moment_is_enqueued_when_it_is_due(queues: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = queues.queue(QueueName.RECONCILE)
    look_later(queues, PROJECT, "a training ended")
    enqueue_due_looks(queues)
    assert queue.count == 0, "not yet"
    monkeypatch.setattr(client, "_LATER", -0.1)
    look_later(queues, PROJECT, "a training ended")
    enqueue_due_looks(queues)
    assert [job.args for job in queue.jobs] == [[PROJECT, "a training ended"]]
    queues.connection.delete(pending_key(PROJECT))
    enqueue_due_looks(queues)
    assert queue.count == 1, "once is enough"


def test_the_last_error_is_text(queues: Queues) -> None:
    assert last_error(queues, PROJECT) is None
    queues.connection.set(error_key(PROJECT), "LabelStudioError: Grüße")
    assert last_error(queues, PROJECT) == "LabelStudioError: Grüße"


# Predictions


def test_without_a_worker_a_prediction_fails_at_once(queues: Queues) -> None:
    started = time.monotonic()
    with pytest.raises(NoWorker, match="al-backend worker"):
        predict(queues, PROJECT, [TASK])
    assert time.monotonic() - started < 2
    assert queues.queue(QueueName.PREDICT).count == 0


def test_a_worker_for_other_queues_does_not_predict(queues: Queues) -> None:
    with living_worker(queues.connection, (QueueName.TRAIN, QueueName.SCORE)), pytest.raises(NoWorker):
        predict(queues, PROJECT, [TASK])


def test_no_tasks_need_no_worker(queues: Queues) -> None:
    assert predict(queues, PROJECT, []) == []


def test_the_workers_answer_comes_back(queues: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def answer(project_id: int, tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        asked.append((project_id, tasks))
        return [ANSWER] * len(tasks)

    monkeypatch.setattr(live, "predict", answer)
    with inference_worker(queues):
        assert predict(queues, PROJECT, [TASK, {"data": {}}], timeout=30) == [ANSWER, ANSWER]
    only_what_is_needed = [{"id": 3, "data": {"image": "a.jpg"}}, {"id": None, "data": {}}]
    assert asked == [(PROJECT, only_what_is_needed)]


def test_the_reason_of_a_failure_comes_back(queues: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(project_id: int, tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        raise RuntimeError("the weights are gone")

    monkeypatch.setattr(live, "predict", fail)
    with inference_worker(queues), pytest.raises(PredictionFailed, match=r"RuntimeError: the weights are gone$"):
        predict(queues, PROJECT, [TASK], timeout=30)


def test_a_worker_that_dies_meanwhile_ends_the_wait(queues: Queues) -> None:
    worker = living_worker(queues.connection, (QueueName.PREDICT,))
    worker.__enter__()

    def die() -> None:
        queue = queues.queue(QueueName.PREDICT)
        while not queue.count:
            time.sleep(0.01)
        worker.__exit__(None, None, None)

    thread = threading.Thread(target=die)
    thread.start()
    started = time.monotonic()
    with pytest.raises(NoWorker):
        predict(queues, PROJECT, [TASK], timeout=60)
    thread.join()
    assert time.monotonic() - started < 20
    assert queues.queue(QueueName.PREDICT).count == 0, "nobody needs the answer any more"


def test_a_worker_that_takes_too_long_is_not_waited_for(queues: Queues) -> None:
    with (
        living_worker(queues.connection, (QueueName.PREDICT,)),
        pytest.raises(PredictionFailed, match="within 1 s; look at /jobs"),
    ):
        predict(queues, PROJECT, [TASK], timeout=1)
    assert queues.queue(QueueName.PREDICT).count == 0


# Requests and their status


def test_ids_that_nobody_knows(queues: Queues, registry: Registry) -> None:
    for unknown in ("train-7", "request-train-7-1700000000000", "request-rank-7-1700000000000", "a b", "", "x" * 300):
        assert job_status(registry, queues, unknown) is None, unknown


def test_the_status_of_a_job_is_that_of_its_queue(queues: Queues, registry: Registry) -> None:
    ensure_job(queues, QueueName.TRAIN, "train-7", "al_backend.jobs.training.train", 7, False, timeout=60)
    assert job_status(registry, queues, "train-7") == "queued"
    job = Job.fetch("train-7", connection=queues.connection, serializer=queues.serializer)
    for status in (JobStatus.STARTED, JobStatus.FINISHED, JobStatus.FAILED):
        job.set_status(status)
        assert job_status(registry, queues, "train-7") == status.value


def begin_training(queues: Queues, *, started_at: datetime) -> None:
    """The training job as a worker has it in hand since `started_at`, apart from its heartbeat."""
    ensure_job(queues, QueueName.TRAIN, "train-7", "al_backend.jobs.training.train", 7, False, timeout=60)
    queues.queue(QueueName.TRAIN).remove("train-7")
    job = Job.fetch("train-7", connection=queues.connection, serializer=queues.serializer)
    job.meta["began_at"] = started_at.isoformat()
    job.save()
    job.set_status(JobStatus.STARTED)


def test_a_requested_training_from_queued_to_finished(queues: Queues, registry: Registry, tmp_path: Path) -> None:
    request = request_training(registry, queues, PROJECT, from_scratch=True)
    document = registry.read_document(PROJECT, TRAIN_REQUEST)
    assert document is not None
    assert (document["id"], document["from_scratch"]) == (request, True)
    assert queues.queue(QueueName.RECONCILE).count == 1
    assert job_status(registry, queues, request) == "queued"
    begin_training(queues, started_at=now())
    with running_job(queues.connection, "train-7"):
        assert job_status(registry, queues, request) == "started"
    add_version(registry, tmp_path, snapshot_at=now())
    assert job_status(registry, queues, request) == "finished"


def test_a_training_that_began_before_the_request_does_not_serve_it(
    queues: Queues, registry: Registry, tmp_path: Path
) -> None:
    before = now() - timedelta(seconds=5)
    begin_training(queues, started_at=before)
    with running_job(queues.connection, "train-7"):
        request = request_training(registry, queues, PROJECT)
        assert job_status(registry, queues, request) == "queued"
    add_version(registry, tmp_path, snapshot_at=before)
    assert job_status(registry, queues, request) == "queued"
    add_version(registry, tmp_path, snapshot_at=now(), number=2)
    assert job_status(registry, queues, request) == "finished"


def test_a_failed_training_fails_the_requests_before_it_and_no_later_ones(queues: Queues, registry: Registry) -> None:
    first = request_training(registry, queues, PROJECT)
    fail_attempt(registry, PROJECT, start_attempt(registry, PROJECT, "digest"), "CUDA is out of memory")
    assert job_status(registry, queues, first) == "failed"
    second = request_training(registry, queues, PROJECT)
    assert job_status(registry, queues, second) == "queued"


def test_a_requested_ranking_from_queued_to_finished(queues: Queues, registry: Registry) -> None:
    add_ranking(registry, "yolov5n-v1-aaaaaa")
    registry.write_document(PROJECT, PUBLISHED, {"ranking": "yolov5n-v1-aaaaaa"})
    time.sleep(0.002)  # requests are told apart by the millisecond
    request = request_ranking(registry, queues, PROJECT, strategy="random")
    document = registry.read_document(PROJECT, RANK_REQUEST)
    assert document is not None
    assert document["overrides"] == {"strategy": "random"}
    assert job_status(registry, queues, request) == "queued"
    add_ranking(registry, "yolov5n-v1-aaaaaa+r2")
    assert job_status(registry, queues, request) == "started"
    registry.write_document(PROJECT, PUBLISHED, {"ranking": "yolov5n-v1-aaaaaa+r2"})
    assert job_status(registry, queues, request) == "finished"


def test_a_later_request_stands_for_the_earlier_one(queues: Queues, registry: Registry) -> None:
    first = request_training(registry, queues, PROJECT)
    time.sleep(0.002)
    second = request_training(registry, queues, PROJECT)
    assert first != second
    assert job_status(registry, queues, first) == job_status(registry, queues, second) == "queued"
    assert queues.queue(QueueName.RECONCILE).count == 1


# Overview


def test_the_overview_of_idle_queues(queues: Queues) -> None:
    assert overview(queues) == {"queues": {name.value: {"depth": 0, "workers": []} for name in QueueName}, "jobs": []}


def test_the_overview_shows_workers_and_what_waits_and_runs(queues: Queues) -> None:
    begin_training(queues, started_at=datetime.now(timezone.utc))
    enqueue_reconcile(queues, PROJECT, "event")
    with living_worker(queues.connection, (QueueName.RECONCILE, QueueName.PUBLISH), kind="cycle"):
        shown = overview(queues)
    assert shown["queues"]["reconcile"]["depth"] == 1
    assert [worker["queues"] for worker in shown["queues"]["publish"]["workers"]] == [["reconcile", "publish"]]
    assert shown["queues"]["train"]["workers"] == []
    (waiting,) = [job for job in shown["jobs"] if job["queue"] == "reconcile"]
    assert (waiting["project"], waiting["kind"], waiting["status"]) == (PROJECT, "reconcile", "queued")
    assert waiting["enqueued_at"] is not None
    assert waiting["started_at"] is None
