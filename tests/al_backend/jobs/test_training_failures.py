"""Trainings that fail before they train, and those whose held-out images vanish; with a real detector, small."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from al_backend.errors import BackendError
from al_backend.jobs import training
from al_backend.jobs.cancel import cancel
from al_backend.jobs.context import Context
from al_backend.jobs.dataset import ProjectLabels
from al_backend.jobs.documents import read_attempt
from al_backend.jobs.observe import LabelMemory
from al_backend.jobs.queues import Queues
from al_backend.labelstudio.records import LabelledTask
from al_backend.settings import load_settings
from model.data.dataset import DetectionDataset
from model.data.reef import write_reef
from tests.al_backend.jobs.test_autoencoder import CONFIG, PROJECT

pytestmark = pytest.mark.redis

QUICK = {"strategy": "uncertainty", "iterations": 1, "batch_size": 4, "image_size": 64}


@pytest.fixture
def here(queues: Queues, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    made = Context(load_settings(model_dir=str(tmp_path / "registry"), data_dir=tmp_path / "data", device="cpu"))
    task = LabelledTask(1, {"image": "/1.png"}, ({"id": 1, "result": [], "updated_at": "2026-01-01T00:00:00Z"},))
    label_studio = SimpleNamespace(
        project=lambda project_id: SimpleNamespace(label_config=CONFIG), labelled_tasks=lambda project_id: [task]
    )
    vars(made).update(queues=queues, label_studio=label_studio, images=None)
    monkeypatch.setattr("al_backend.jobs.context.context", lambda: made)
    # These are for a process of its own, which the one of this test is not.
    monkeypatch.setattr(training, "die_with_parent", lambda: None)
    monkeypatch.setattr(training.os, "nice", lambda _: 0)
    made.registry.register_project(PROJECT, label_config=CONFIG, overrides=QUICK)
    return made


def looks_asked_for(here: Context) -> int:
    return int(here.queues.connection.zcard("al:later"))


def test_a_training_that_dies_of_reading_its_images_counts_and_asks_for_no_look(
    here: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> ProjectLabels:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training, "read_labels", full)
    for count in (1, 2):
        with pytest.raises(OSError, match="No space left"):
            training.train(PROJECT, False)
        attempt = read_attempt(here.registry, PROJECT)
        assert attempt is not None
        assert (attempt.count, attempt.error) == (count, "OSError: [Errno 28] No space left on device")
    assert looks_asked_for(here) == 0
    assert list((here.settings.data_dir / "trainings").iterdir()) == []


def test_a_disk_without_room_is_noticed_first_and_is_no_failure_of_the_labels(
    here: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: Any) -> None:
        raise BackendError("0 MB are free")

    monkeypatch.setattr(training, "require_room", no_room)
    vars(here)["label_studio"] = None
    with pytest.raises(BackendError, match="0 MB are free"):
        training.train(PROJECT, False)
    assert read_attempt(here.registry, PROJECT) is None
    assert looks_asked_for(here) == 0


def test_a_training_that_is_cancelled_while_it_reads_does_not_count(
    here: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reading(*_: Any, on_progress: Any, **__: Any) -> None:
        here.registry.write_document(PROJECT, "train_cancel", {"cancelled_at": training.now().isoformat()})
        on_progress(1, 1)

    monkeypatch.setattr(training, "read_labels", reading)
    monkeypatch.setattr("al_backend.jobs.cancel._SHARE", 1e9)  # looks at every step
    assert training.train(PROJECT, False) == ""
    attempt = read_attempt(here.registry, PROJECT)
    assert attempt is not None
    assert attempt.count == 0
    assert looks_asked_for(here) == 1
    assert cancel(here.queues, here.registry, PROJECT).training is None


def test_a_version_is_not_promoted_over_another_when_held_out_images_vanished(
    here: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reef = write_reef(tmp_path / "reef", 6, seed=3, size=(64, 64), species=("cod", "herring"), empty_share=0.0)
    held_out = [replace(image, path=Path(shutil.copy(image.path, tmp_path))) for image in reef.images[4:]]
    labels = ProjectLabels(
        {1: "a"}, DetectionDataset(reef.classes, reef.images[:4]), DetectionDataset(reef.classes, held_out)
    )
    monkeypatch.setattr(training, "read_labels", lambda *_, **__: labels)
    first = training.train(PROJECT, True)
    assert here.registry.version(PROJECT, first).gate.promoted
    assert looks_asked_for(here) == 1

    fit = training.fit_on

    def clearing(*arguments: Any, **named: Any) -> Any:
        held_out[0].path.unlink()
        return fit(*arguments, **named)

    monkeypatch.setattr(training, "fit_on", clearing)
    second = training.train(PROJECT, True)
    gate = here.registry.version(PROJECT, second).gate
    assert not gate.promoted
    assert gate.reason.startswith("The files of 1 held-out images vanished during the training")
    pointer = here.registry.active(PROJECT)
    assert pointer is not None
    assert pointer.version == first


def test_the_first_look_at_many_labels_is_quick() -> None:
    """With a set of the changed ones made for each task, this takes more than ten seconds."""
    annotation = {"id": 1, "result": [], "updated_at": "2026-01-01T00:00:00Z"}
    tasks = [LabelledTask(number, {}, (annotation,)) for number in range(30_000)]
    asked: list[int] = []

    def labelled_tasks(project_id: int, ids: list[int]) -> list[LabelledTask]:
        asked.append(len(ids))
        return [tasks[number] for number in ids]

    marks = {task.id: "one" for task in tasks}
    label_studio: Any = SimpleNamespace(label_marks=lambda project_id: marks, labelled_tasks=labelled_tasks)
    memory, started = LabelMemory(), time.monotonic()
    assert len(memory.digests(label_studio, PROJECT)) == 30_000
    marks = marks | dict.fromkeys(range(0, 30_000, 2), "two")
    assert len(memory.digests(label_studio, PROJECT)) == 30_000
    assert len(memory.digests(label_studio, PROJECT)) == 30_000
    assert asked == [30_000, 15_000]
    assert time.monotonic() - started < 5
