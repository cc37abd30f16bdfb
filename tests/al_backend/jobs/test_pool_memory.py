"""What a look at a large pool reads: all that may have changed, and little else."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any, cast

import pytest

from al_backend.jobs.pool_memory import PoolMemory
from al_backend.labelstudio.client import LabelStudio, Task
from al_backend.labelstudio.labeling_config import LabelingConfig

PROJECT = 1
SIZE = 3_000
START = datetime(2026, 1, 1, tzinfo=timezone.utc)


def config(data_key: str = "image") -> LabelingConfig:
    return LabelingConfig("label", "image", data_key, ("crab",))


class Clocked:
    """A Label Studio with a clock of its own, far from ours, that answers as the real one and counts its rows."""

    def __init__(self, tasks: int, *, row_seconds: float = 0.0) -> None:
        self.seconds = 0.0
        self.row_seconds = row_seconds
        self.rows = 0
        self.wholes = 0
        self.between: Callable[[], object] = lambda: None
        self._stamps: dict[int, datetime] = {}
        self._data: dict[int, dict[str, Any]] = {}
        self._completed: set[int] = set()
        self.add(tasks)

    def stamp(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    def add(self, count: int, stamp: datetime | None = None) -> None:
        last = max(self._stamps, default=0)
        for task in range(last + 1, last + count + 1):
            self._stamps[task] = stamp or self.stamp()
            self._data[task] = {"image": f"{task}.jpg", "thumb": f"{task}-small.jpg"}

    def edit(self, task: int, image: str, stamp: datetime | None = None) -> None:
        self._data[task] = {"image": image}
        self._stamps[task] = stamp or self.stamp()

    def submit(self, stamp: datetime | None = None) -> int:
        task = min(set(self._stamps) - self._completed)
        self._completed.add(task)
        self._stamps[task] = stamp or self.stamp()
        return task

    def delete(self, task: int) -> None:
        del self._stamps[task], self._data[task]

    @property
    def open(self) -> list[int]:
        return sorted(set(self._stamps) - self._completed)

    def count_open_tasks(self, _: int) -> int:
        self.between()
        return len(self.open)

    def touched_tasks(self, _: int, since: str) -> tuple[list[Task], set[int], str]:
        after = datetime.fromisoformat(since.replace("Z", "+00:00")) if since else None
        self.wholes += after is None
        touched = {task: at for task, at in self._stamps.items() if after is None or at > after}
        others = set() if after is None else set(touched) & self._completed
        pool = [Task(task, self._data[task]) for task in self.open if task in touched]
        self.rows += len(pool) + len(others)
        self.seconds += (len(pool) + len(others)) * self.row_seconds
        last = max((touched[task] for task in [*(task.id for task in pool), *others]), default=None)
        return pool, others, since if last is None else last.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Looks:
    """Looks of one process, half a minute apart."""

    def __init__(self, server: Clocked) -> None:
        self.server = server
        self.memory = PoolMemory(lambda: 50_000.0 + server.seconds)

    def look(self, after: float = 30.0, key: str = "image") -> list[Task]:
        self.server.seconds += after
        self.server.rows = 0
        return self.memory.pool(cast(LabelStudio, self.server), PROJECT, config(key))

    def ids(self, after: float = 30.0) -> list[int]:
        return [task.id for task in self.look(after)]


@pytest.fixture
def looks() -> Looks:
    """A pool that was imported some time ago and has been read once."""
    made = Looks(Clocked(SIZE))
    made.look(3600)
    return made


def test_an_annotator_in_a_fresh_import_costs_a_few_rows_a_look() -> None:
    looks = Looks(Clocked(SIZE, row_seconds=0.02))  # a minute for all of them
    read = []
    for _ in range(10):
        assert looks.ids() == looks.server.open
        read.append(looks.server.rows)
        for _ in range(5):
            looks.server.submit()
    assert read[0] == SIZE
    assert SIZE <= read[1] <= SIZE + 5, "they came during the last look's twenty seconds, as far as anybody knows"
    assert all(rows <= 10 for rows in read[2:]), "of this look, and those of the last one again"


def test_nobody_there_costs_nothing_in_the_end(looks: Looks) -> None:
    read = [looks.look() and looks.server.rows for _ in range(60)]
    assert read[30:] == [0] * 30


def test_reaching_far_back_takes_a_tenth_of_the_time() -> None:
    looks = Looks(Clocked(SIZE, row_seconds=0.02))  # a minute for all of them
    began = looks.server.seconds
    rows = 0
    for _ in range(60):
        looks.look()
        rows += looks.server.rows
        looks.server.submit()
    spent = rows * looks.server.row_seconds
    assert spent < 0.2 * (looks.server.seconds - began), "two readings at the start, then one in ten minutes"
    assert looks.server.wholes == 1


@pytest.mark.parametrize("late", [5.0, 300.0])
def test_what_is_committed_late_is_seen_at_once_when_the_count_shows_it(looks: Looks, late: float) -> None:
    stamped = looks.server.stamp()
    looks.server.submit()
    looks.ids(late)
    looks.server.add(50, stamped)
    looks.server.submit(stamped)
    assert looks.ids(1.0) == looks.server.open
    assert looks.server.wholes == 1


@pytest.mark.parametrize(("late", "within"), [(5.0, 1), (300.0, 3)])
def test_a_late_edit_that_no_count_shows_is_seen_soon(looks: Looks, late: float, within: int) -> None:
    stamped = looks.server.stamp()
    for _ in range(int(late // 30) or 1):
        looks.server.submit()
        looks.look(min(late, 30.0))
    looks.server.edit(SIZE, "other.jpg", stamped)
    seen = [{task.id: task for task in looks.look()}[SIZE].data["image"] for _ in range(within)]
    assert seen[-1] == "other.jpg"


def test_somebody_who_labels_during_every_count_is_no_reason_to_read_all(looks: Looks) -> None:
    looks.server.between = looks.server.submit
    for _ in range(8):
        assert set(looks.ids()) >= set(looks.server.open)
    assert looks.server.wholes == 1
    # But a deleted task does not stay hidden behind them.
    looks.server.delete(SIZE)
    found = [SIZE in looks.ids() for _ in range(12)]
    assert found[-1] is False
    looks.server.between = lambda: None
    assert looks.ids() == looks.server.open


def test_a_deleted_task_is_gone_at_once(looks: Looks) -> None:
    looks.server.delete(7)
    assert looks.ids() == looks.server.open
    assert looks.server.wholes == 2


def test_everything_is_read_again_once_an_hour(looks: Looks) -> None:
    looks.look(3601)
    assert looks.server.wholes == 2


def test_another_image_key_needs_another_reading(looks: Looks) -> None:
    assert looks.look(key="thumb")[0] == Task(1, {"thumb": "1-small.jpg"})
    assert looks.look(key="thumb")[0] == Task(1, {"thumb": "1-small.jpg"})
    assert looks.server.wholes == 2
    assert looks.look()[0] == Task(1, {"image": "1.jpg"})
