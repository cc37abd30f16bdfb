"""Who lives and what is in flight, on a real Redis: what a kill leaves must not look alive."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import pytest
from rq.job import Job, JobStatus

from al_backend.jobs import liveness
from al_backend.jobs.liveness import (
    EXPIRY,
    ensure_job,
    has_worker,
    in_flight,
    job_key,
    living_worker,
    place,
    remembers,
    running_job,
    taken_job,
    taken_key,
    workers,
)
from al_backend.jobs.queues import QueueName, Queues
from al_backend.jobs.rq_workers import FreshWorker, WarmWorker

pytestmark = pytest.mark.redis

FUNCTION = "al_backend.jobs.training.train"
JOB = "train-7"


@pytest.fixture
def zombie() -> Iterator[int]:
    """Process id of a child that has ended and that nobody has waited for."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    yield process.pid
    process.wait()


@pytest.fixture
def dead() -> int:
    """Process id of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def ensure(queues: Queues, *args: object) -> bool:
    return ensure_job(queues, QueueName.TRAIN, JOB, FUNCTION, *args, timeout=60, meta={"project": 7})


def alive(queues: Queues) -> bool:
    return in_flight(queues, QueueName.TRAIN, JOB)


def the_job(queues: Queues) -> Job:
    return Job.fetch(JOB, connection=queues.connection, serializer=queues.serializer)


def taken(queues: Queues, *, seconds_ago: float = 0.0) -> Job:
    """The job as a worker leaves it that took it from the queue and then did nothing more."""
    ensure(queues)
    queues.queue(QueueName.TRAIN).remove(JOB)
    job = the_job(queues)
    job.started_at = datetime.now(timezone.utc) - timedelta(seconds=seconds_ago)
    job.save()
    job.set_status(JobStatus.STARTED)
    return job


def entry(pid: int, where: str | None = None) -> str:
    return json.dumps({"place": where or place(), "pid": pid})


def test_an_emptied_redis_knows_nothing_of_running_work_for_a_moment(
    queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = 1000.0
    monkeypatch.setattr(liveness, "_now", lambda _: seconds)
    assert not remembers(queues.connection)
    seconds += 3.9
    assert not remembers(queues.connection)
    seconds += 0.2
    assert remembers(queues.connection)
    queues.connection.flushall()
    assert not remembers(queues.connection)


def test_a_running_job_says_so_again_before_an_emptied_redis_is_believed(queues: Queues) -> None:
    assert not remembers(queues.connection)
    with running_job(queues.connection, JOB):
        queues.connection.flushall()
        assert not alive(queues)
        while not remembers(queues.connection):
            time.sleep(0.2)
        assert alive(queues)


def test_a_job_that_nobody_knows_is_not_in_flight(queues: Queues) -> None:
    assert not alive(queues)


def test_a_job_is_enqueued_once_while_it_waits(queues: Queues) -> None:
    assert ensure(queues, 7, False)
    assert not ensure(queues, 7, True)
    assert queues.queue(QueueName.TRAIN).job_ids == [JOB]
    job = the_job(queues)
    assert job.args == [7, False]
    assert job.meta == {"project": 7}
    assert alive(queues)


def test_many_who_ask_at_once_enqueue_one_job(queues: Queues) -> None:
    answers: list[bool] = []
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait()
        answers.append(ensure(queues))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    assert any(answers)
    assert queues.queue(QueueName.TRAIN).job_ids == [JOB]


@pytest.mark.parametrize("status", [JobStatus.FINISHED, JobStatus.FAILED, JobStatus.STOPPED])
def test_the_remains_of_an_ended_job_are_replaced(queues: Queues, status: JobStatus) -> None:
    taken(queues).set_status(status)
    assert not alive(queues)
    assert ensure(queues)
    assert the_job(queues).get_status() == JobStatus.QUEUED


def test_a_job_is_in_flight_while_its_process_says_so_and_no_longer(queues: Queues) -> None:
    job = taken(queues, seconds_ago=2 * EXPIRY)
    assert not alive(queues), "taken long ago, and nobody says that it runs"
    with running_job(queues.connection, JOB):
        assert alive(queues)
        assert not ensure(queues)
        assert 0 < queues.connection.ttl(job_key(JOB)) <= EXPIRY
    assert queues.connection.get(job_key(JOB)) is None
    job.set_status(JobStatus.FINISHED)
    assert ensure(queues)


def test_a_job_that_was_just_taken_is_in_flight_until_its_first_heartbeat(queues: Queues) -> None:
    taken(queues)
    assert alive(queues)


def left_the_queue(queues: Queues) -> None:
    """The job as it is between two steps of its worker; it had waited for a long time."""
    ensure(queues)
    job = the_job(queues)
    job.enqueued_at = datetime.now(timezone.utc) - timedelta(seconds=10 * EXPIRY)
    job.save()
    job.set_status(JobStatus.QUEUED)
    queues.queue(QueueName.TRAIN).remove(JOB)


def test_a_job_that_waited_long_is_in_flight_in_the_moment_in_which_it_is_taken(queues: Queues) -> None:
    left_the_queue(queues)
    first_heartbeat = threading.Timer(0.3, lambda: queues.connection.set(job_key(JOB), entry(os.getpid())))
    first_heartbeat.start()
    assert alive(queues)
    first_heartbeat.join()


@pytest.mark.parametrize("kind", [WarmWorker, FreshWorker])
def test_a_worker_says_that_it_has_a_job_before_the_job_runs(
    queues: Queues, monkeypatch: pytest.MonkeyPatch, kind: type[WarmWorker] | type[FreshWorker]
) -> None:
    left_the_queue(queues)
    seen: list[bool] = []

    def prepare(worker: object, job: Job) -> None:
        seen.append(alive(queues) and 0 < queues.connection.ttl(taken_key(JOB)) <= EXPIRY)
        raise InterruptedError("far enough")

    monkeypatch.setattr(kind, "prepare_execution", prepare)
    queue = queues.queue(QueueName.TRAIN)
    worker = kind([queue], connection=queues.connection, serializer=queues.serializer)
    with pytest.raises(InterruptedError):
        worker.execute_job(the_job(queues), queue)
    assert seen == [True]
    assert queues.connection.get(taken_key(JOB)) is None


def test_the_worker_that_took_a_job_does_not_pass_for_the_process_that_runs_it(
    queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "_PERIOD", 0.02)
    queues.connection.set(job_key(JOB), entry(1, "elsewhere/pid:[1]"))
    with taken_job(queues.connection, JOB):
        time.sleep(0.2)
        assert json.loads(queues.connection.get(job_key(JOB)) or b"null")["pid"] == 1
        queues.connection.delete(job_key(JOB))
        assert alive(queues), "the process has ended, its worker has not seen that yet"


def test_a_job_that_is_neither_queued_nor_taken_is_not_in_flight(queues: Queues) -> None:
    """Redis lost the queue and kept the job, or a worker was killed in the moment in which it took it."""
    left_the_queue(queues)
    assert not alive(queues)
    assert ensure(queues)
    assert queues.queue(QueueName.TRAIN).job_ids == [JOB]


def test_the_job_of_a_killed_process_is_not_in_flight(queues: Queues, dead: int) -> None:
    taken(queues)
    queues.connection.set(job_key(JOB), entry(dead))
    assert not alive(queues)
    assert ensure(queues)
    assert queues.queue(QueueName.TRAIN).job_ids == [JOB]


def test_a_killed_process_that_nobody_has_buried_is_dead(queues: Queues, zombie: int) -> None:
    taken(queues)
    queues.connection.set(job_key(JOB), entry(zombie))
    assert not alive(queues)


def test_a_process_elsewhere_is_believed_until_its_entry_expires(queues: Queues, dead: int) -> None:
    taken(queues, seconds_ago=2 * EXPIRY)
    queues.connection.set(job_key(JOB), entry(dead, "elsewhere/pid:[1]"))
    assert alive(queues)
    queues.connection.delete(job_key(JOB))
    assert not alive(queues)


def test_a_heartbeat_is_written_again_and_again(queues: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "_PERIOD", 0.02)
    with running_job(queues.connection, JOB):
        queues.connection.delete(job_key(JOB))
        deadline = time.monotonic() + 10
        while queues.connection.get(job_key(JOB)) is None:
            assert time.monotonic() < deadline, "the entry was not written again"
            time.sleep(0.01)


def test_workers_are_known_while_they_live(queues: Queues) -> None:
    assert not has_worker(queues.connection, QueueName.PREDICT)
    with living_worker(queues.connection, (QueueName.PREDICT, QueueName.SCORE), kind="inference", device="cpu"):
        (worker,) = workers(queues.connection)
        assert worker == {
            "place": place(),
            "pid": os.getpid(),
            "queues": ["predict", "score"],
            "kind": "inference",
            "device": "cpu",
        }
        assert has_worker(queues.connection, QueueName.PREDICT)
        assert has_worker(queues.connection, QueueName.SCORE)
        assert not has_worker(queues.connection, QueueName.TRAIN)
    assert workers(queues.connection) == []


def test_a_killed_worker_is_forgotten_at_once_and_one_elsewhere_after_a_while(queues: Queues, dead: int) -> None:
    seconds, _ = queues.connection.time()
    here = json.dumps({"place": place(), "pid": dead, "queues": ["train"]})
    there = json.dumps({"place": "elsewhere/", "pid": dead, "queues": ["score"]})
    silent = json.dumps({"place": "silent/", "pid": dead, "queues": ["publish"]})
    queues.connection.zadd("al:workers", {here: seconds, there: seconds, silent: seconds - EXPIRY - 1})
    assert [worker["place"] for worker in workers(queues.connection)] == ["elsewhere/"]
