"""A full disk and one that takes no writes: said clearly, nothing is damaged, and it goes on when there is room."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from al_backend.doctor import surroundings
from al_backend.doctor.finding import Level
from al_backend.errors import BackendError, RegistryError
from al_backend.jobs.room import require_room
from al_backend.registry import Registry
from al_backend.settings import load_settings
from al_backend.status import project_status
from tests.al_backend.faults.field import Field

pytestmark = pytest.mark.mount

MEGABYTE = 1_000_000


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own; skips where this user may not mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if made.returncode != 0:
        pytest.skip(f"this user may not mount a file system: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    deadline = time.monotonic() + 20
    # It is refused in the moment in which somebody has a file open for writing.
    while subprocess.run(["mount", "-o", "remount,ro", str(folder)], capture_output=True).returncode != 0:
        assert time.monotonic() < deadline, f"{folder} cannot be made read-only"
        time.sleep(0.1)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """Nothing more fits until the block ends."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (MEGABYTE, 4096, 1):
            try:
                while file.write(b"x" * size) == size:
                    pass
            except OSError:
                continue
    try:
        yield
    finally:
        ballast.unlink()


def test_a_registry_on_a_full_or_read_only_disk_says_so_and_stays_whole(tmp_path: Path) -> None:
    with small_disk(tmp_path / "models", 8) as folder:
        registry = Registry(str(folder))
        registry.write_document(7, "published", {"model_version": "v1"})
        settings = load_settings(model_dir=str(folder), data_dir=tmp_path)
        for trouble, words in ((full, "No space left on device"), (read_only, "Read-only file system")):
            with trouble(folder):
                with pytest.raises(RegistryError, match=f"Cannot write .*{words}.*MODEL_DIR.*not full"):
                    registry.write_document(7, "published", {"model_version": "v" * 10_000})
                (found,), opened = surroundings.registry(settings)
                assert (found.level, opened) == (Level.ERROR, None)
                assert words in found.message
                assert "MODEL_DIR" in found.remedy
                assert registry.read_document(7, "published") == {"model_version": "v1"}
            registry.write_document(7, "published", {"model_version": "v1"})
        registry.cleanup(7)
        with read_only(folder), pytest.raises(RegistryError, match=r"Read-only file system.*MODEL_DIR"):
            registry.cleanup(7)
        assert list(folder.rglob(".tmp-*")) == []
        assert surroundings.registry(settings)[0][0].ok
        low = surroundings.disk(settings)
        assert (low.level, str(folder) in low.message) == (Level.WARNING, True)


def test_a_training_does_not_begin_where_its_result_would_not_fit(tmp_path: Path) -> None:
    with small_disk(tmp_path / "models", 48) as folder:
        registry = Registry(str(folder))
        registry.register_project(7, label_config="<View/>", overrides={})
        require_room(registry, 7, tmp_path, None)
        with full(folder), pytest.raises(BackendError, match=r"^0 MB are free at .*/projects/7 \(MODEL_DIR\), a train"):
            require_room(registry, 7, tmp_path, None)
        with full(folder), pytest.raises(BackendError, match=r"AL_DATA_DIR.*Free some space there"):
            require_room(Registry(str(tmp_path / "other")), 7, folder / "not" / "there", None)


@pytest.mark.labelstudio
@pytest.mark.redis
@pytest.mark.slow
def test_a_disk_that_fills_up_and_one_that_takes_no_writes_between_two_trainings(field: Field) -> None:
    with ExitStack() as disks:
        project = field.project(
            "Disk full",
            before_connecting=lambda number: disks.enter_context(
                small_disk(Path(field.settings.model_dir) / "projects" / str(number), 120)
            ),
        )
        disk = Path(field.settings.model_dir) / "projects" / str(project)
        field.wait_published(project, number=1)

        for number, (trouble, words) in enumerate(
            ((full, "MB are free at .*training needs about"), (read_only, "Read-only file system")), start=2
        ):
            with trouble(disk):
                field.label_more(project, 4)
                note = field.until(f"a note about {words}", partial(said, field, project, words), 60)
                assert "MODEL_DIR" in note
                field.check(project, versions=number - 1, stream=False)
            field.wait_published(project, number=number)
            field.check(project, versions=number, stream=number == 3)
        assert not [note for note in notes(field, project) if "failed" in note]
        field.close(project)


def notes(field: Field, project: int) -> list[str]:
    status = project_status(field.settings, field.registry, field.client, field.backend.queues, project)
    return [str(note) for note in status["notes"]]


def said(field: Field, project: int, words: str) -> str | None:
    return next((note for note in notes(field, project) if re.search(words, note)), None)
