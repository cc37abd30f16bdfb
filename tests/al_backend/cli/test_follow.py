"""Following a training and a ranking: the registry and Redis are real, the worker's part is played by the test."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from al_backend.cli import follow as cli_follow
from al_backend.cli.follow import Step, follow_ranking, follow_training
from al_backend.cli.output import Doors
from al_backend.errors import BackendError, NoWorker
from al_backend.jobs.client import error_key, request_ranking, request_training
from al_backend.jobs.documents import PUBLISHED, fail_attempt, start_attempt
from al_backend.jobs.liveness import living_worker
from al_backend.jobs.queues import QueueName, Queues
from al_backend.registry import GateVerdict, Phase, Ranking, Registry, Version
from al_backend.settings import load_settings

pytestmark = pytest.mark.redis
PROJECT = 3


@pytest.fixture
def doors(tmp_path: Path, queues: Queues, monkeypatch: pytest.MonkeyPatch) -> Doors:
    monkeypatch.setattr(cli_follow, "_LOOK_EVERY", 0.02)
    monkeypatch.setattr(cli_follow, "_WORKER_GRACE", 0.3)
    doors = Doors(load_settings(model_dir=str(tmp_path / "models"), data_dir=tmp_path))
    doors.__dict__["queues"] = queues  # in place of a connection to the Redis of the settings
    doors.registry.register_project(PROJECT, label_config="<View/>", overrides={})
    return doors


@pytest.fixture
def workers(queues: Queues) -> Iterator[None]:
    with living_worker(queues.connection, tuple(QueueName)):
        yield


@contextmanager
def meanwhile(work: Callable[[], object]) -> Iterator[None]:
    """Let the other side do its part shortly after the waiting has begun."""

    def later() -> None:
        time.sleep(0.2)
        work()

    thread = threading.Thread(target=later)
    thread.start()
    yield
    thread.join()


def recording() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=200)


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def add_version(registry: Registry, folder: Path, *, promoted: bool) -> None:
    moment = datetime.now(timezone.utc)
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"w")
    registry.add_version(
        Version(
            name="yolov5n-v1-abcdef",
            number=1,
            project=PROJECT,
            detector="yolov5n",
            classes=("fish",),
            created_at=moment,
            snapshot_at=moment,
            labels={"1": "digest"},
            label_counts={"fish": 2},
            train_images=16,
            validation_images=4,
            boxes=2,
            metrics={"map50": 0.5},
            training={},
            settings={},
            gate=GateVerdict(promoted=promoted, reason="because"),
        ),
        folder,
    )
    if promoted:
        registry.promote(PROJECT, "yolov5n-v1-abcdef", reason="because")


@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize("promoted", [True, False])
def test_a_training_is_followed_to_its_version(doors: Doors, tmp_path: Path, promoted: bool) -> None:
    job = request_training(doors.registry, doors.queues, PROJECT)
    console = recording()
    with meanwhile(lambda: add_version(doors.registry, tmp_path / "new", promoted=promoted)):
        document = follow_training(doors, PROJECT, job, console)
    assert document["status"] == "finished"
    assert document["version"] == "yolov5n-v1-abcdef"
    assert document["promoted"] is promoted
    assert document["metrics"] == {"map50": 0.5}
    assert "waiting to train" in said(console)
    json.dumps(document)


@pytest.mark.usefixtures("workers")
def test_the_progress_of_the_job_is_shown(doors: Doors, tmp_path: Path) -> None:
    job = request_training(doors.registry, doors.queues, PROJECT)
    running = doors.queues.queue(QueueName.TRAIN).enqueue(
        "al_backend.jobs.training.train", job_id=f"train-{PROJECT}", meta={"project": PROJECT, "kind": "train"}
    )
    running.meta["progress"] = {"phase": "fit", "iteration": 30, "iterations": 600}
    running.save_meta()
    console = recording()
    with meanwhile(lambda: add_version(doors.registry, tmp_path / "new", promoted=True)):
        follow_training(doors, PROJECT, job, console)
    assert "fit 30/600" in said(console)


@pytest.mark.usefixtures("workers")
def test_a_failed_training_is_its_error(doors: Doors) -> None:
    job = request_training(doors.registry, doors.queues, PROJECT)

    def fail() -> None:
        fail_attempt(doors.registry, PROJECT, start_attempt(doors.registry, PROJECT, "digest"), "NotEnoughLabels: 2")

    with meanwhile(fail), pytest.raises(BackendError, match="NotEnoughLabels: 2"):
        follow_training(doors, PROJECT, job, recording())


def test_nobody_there_to_train_is_said_soon(doors: Doors) -> None:
    job = request_training(doors.registry, doors.queues, PROJECT)
    begun = time.monotonic()
    with pytest.raises(NoWorker, match=r"reconcile, train.*al-backend worker"):
        follow_training(doors, PROJECT, job, recording())
    assert time.monotonic() - begun < 5


@pytest.mark.usefixtures("workers")
def test_a_newer_request_ends_the_waiting(doors: Doors) -> None:
    job = request_training(doors.registry, doors.queues, PROJECT)
    with (
        meanwhile(lambda: doors.registry.delete_document(PROJECT, "train_request")),
        pytest.raises(BackendError, match="newer request"),
    ):
        follow_training(doors, PROJECT, job, recording())


@pytest.mark.usefixtures("workers")
def test_what_hinders_the_backend_is_shown_while_waiting(doors: Doors, tmp_path: Path) -> None:
    job = request_training(doors.registry, doors.queues, PROJECT)
    console = recording()

    def trouble() -> None:
        doors.queues.connection.set(error_key(PROJECT), "LabelStudioError: [401] wrong token")
        deadline = time.monotonic() + 30
        while "wrong token" not in said(console) and time.monotonic() < deadline:
            time.sleep(0.02)
        add_version(doors.registry, tmp_path / "new", promoted=True)

    with meanwhile(trouble):
        follow_training(doors, PROJECT, job, console)
    assert said(console).count("LabelStudioError: [401] wrong token") == 1


@pytest.mark.usefixtures("workers")
def test_a_ranking_is_followed_until_it_is_published(doors: Doors, tmp_path: Path) -> None:
    registry = doors.registry
    add_version(registry, tmp_path / "new", promoted=True)
    job = request_ranking(registry, doors.queues, PROJECT, strategy="random")
    console = recording()

    def rank() -> None:
        ranking = Ranking(
            id="r1",
            project=PROJECT,
            version="yolov5n-v1-abcdef",
            model_version="yolov5n-v1-abcdef",
            strategy={"name": "random"},
            context={},
            created_at=datetime.now(timezone.utc),
            tasks=2,
            shard_size=1,
            shards=2,
        )
        registry.create_ranking(ranking, pl.DataFrame({"task_id": [1, 2]}))
        registry.write_shard(PROJECT, "r1", 0, pl.DataFrame({"task_id": [1]}))
        deadline = time.monotonic() + 30
        while "measuring 1/2" not in said(console) and time.monotonic() < deadline:
            time.sleep(0.02)
        registry.write_document(PROJECT, PUBLISHED, {"ranking": "r1", "model_version": "yolov5n-v1-abcdef"})

    with meanwhile(rank):
        document = follow_ranking(doors, PROJECT, job, console)
    assert document["ranking"] == "r1"
    assert document["tasks"] == 2
    assert document["strategy"] == {"name": "random"}
    assert "measuring 1/2" in said(console)


def test_a_closer_look_has_a_bar_of_its_own(doors: Doors) -> None:
    registry = doors.registry
    ranking = Ranking(
        id="r1",
        project=PROJECT,
        version="v1",
        model_version="v1",
        strategy={"name": "huale"},
        context={},
        created_at=datetime.now(timezone.utc),
        tasks=1,
        shard_size=1,
        shards=1,
    )
    registry.create_ranking(ranking, pl.DataFrame({"task_id": [1]}))
    registry.write_shard(PROJECT, "r1", 0, pl.DataFrame({"task_id": [1]}))
    step = cli_follow._ranking_step(None)
    assert step(doors, PROJECT, {"jobs": []}) == Step("measuring", 1, 1)
    registry.write_closer_tasks(PROJECT, "r1", pl.DataFrame({"task_id": [1, 2, 3], "shard": [0, 0, 1]}))
    registry.write_shard(PROJECT, "r1", 1, pl.DataFrame({"task_id": [3]}), Phase.CLOSER)
    assert step(doors, PROJECT, {"jobs": []}) == Step("looking closer", 1, 2)


def test_a_terminal_gets_a_moving_bar() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with cli_follow._display(console) as show:
        show(Step("fit", 30, 600))
        show(Step("fit", 60, 600))
        show(Step("evaluate"))
    assert "evaluate" in said(console)
