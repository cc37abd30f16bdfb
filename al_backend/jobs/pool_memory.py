"""The pool of a large project, kept up to date by what was touched since the last look.

Reading a hundred thousand tasks takes Label Studio a minute, and a look comes twice a minute. So a process remembers
them. What it remembers is checked by counting at every look, and read as a whole every now and then: the truth is in
Label Studio, this is a shortcut to it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from al_backend.inference import image_value
from al_backend.labelstudio.client import LabelStudio, Task
from al_backend.labelstudio.labeling_config import LabelingConfig

SMALL = 2_000
"""Pools up to this size are read as a whole at every look: it takes a second or two."""

_WHOLE_EVERY = 3600.0  # seconds
_MARGIN = timedelta(minutes=10)  # a task is stamped before its transaction is committed
_STAMP = "%Y-%m-%dT%H:%M:%S.%fZ"
_TRIES = 3  # somebody may label between two requests


@dataclass
class _Pool:
    tasks: dict[int, Task]
    stamp: str
    read_at: float


@dataclass
class _Scored:
    model_version: str
    count: int
    tasks: set[int]
    read_at: float


class PoolMemory:
    """Pools and published predictions of the projects that a process looks at."""

    def __init__(self) -> None:
        self._pools: dict[int, _Pool] = {}
        self._scored: dict[int, _Scored] = {}

    def pool(self, client: LabelStudio, project_id: int, config: LabelingConfig) -> list[Task]:
        """The open tasks by id; of their data only the image."""
        known = self._pools.get(project_id)
        if known is not None and len(known.tasks) > SMALL and time.monotonic() - known.read_at < _WHOLE_EVERY:
            for _ in range(_TRIES):
                self._refresh(client, project_id, config, known)
                if client.count_open_tasks(project_id) == len(known.tasks):
                    return [known.tasks[task] for task in sorted(known.tasks)]
        read_at = time.monotonic()
        tasks, _, stamp = client.touched_tasks(project_id, "")
        whole = {task.id: _slim(task, config) for task in tasks}
        self._pools[project_id] = _Pool(whole, stamp, read_at)
        return [whole[task] for task in sorted(whole)]

    def scored(
        self, client: LabelStudio, project_id: int, model_version: str, stored: Mapping[str, int], pool: list[Task]
    ) -> set[int]:
        """Tasks that hold a prediction of the published model version.

        Args:
            client: of Label Studio.
            project_id: the project.
            model_version: the published one.
            stored: predictions per model version, of this moment.
            pool: the open tasks.
        """
        count = stored.get(model_version, 0)
        known = self._scored.get(project_id)
        fresh = known is not None and time.monotonic() - known.read_at < _WHOLE_EVERY
        if known is not None and fresh and known.model_version == model_version and count > SMALL:
            if count == known.count:
                return known.tasks
            new = [task.id for task in pool if task.id not in known.tasks]
            if new:
                found = client.tasks_with_version(project_id, model_version, first=min(new))
                tasks = {task for task in known.tasks if task < min(new)} | found
                if len(tasks) == count:
                    self._scored[project_id] = _Scored(model_version, count, tasks, known.read_at)
                    return tasks
        read_at = time.monotonic()
        tasks = client.tasks_with_version(project_id, model_version) if count else set()
        self._scored[project_id] = _Scored(model_version, count, tasks, read_at)
        return tasks

    def _refresh(self, client: LabelStudio, project_id: int, config: LabelingConfig, known: _Pool) -> None:
        touched, others, stamp = client.touched_tasks(project_id, _before(known.stamp))
        for task in touched:
            known.tasks[task.id] = _slim(task, config)
        for task_id in others:
            known.tasks.pop(task_id, None)
        known.stamp = max(known.stamp, stamp)


def superseded(client: LabelStudio, project_id: int, model_version: str, stored: int, limit: int) -> list[int]:
    """Predictions of a model version that a newer one of the same task supersedes, by id, no more than `limit`.

    Args:
        client: of Label Studio.
        project_id: the project.
        model_version: exact name.
        stored: how many predictions it has; 0 asks nothing.
        limit: where to stop.
    """
    found: list[int] = []
    for rows in client.predictions_of(project_id, model_version, several=True) if stored else ():
        newest: dict[int, int] = {}
        for row in rows:
            if row.model_version == model_version:
                if row.task in newest:
                    found.append(newest[row.task])
                newest[row.task] = row.id
        if len(found) >= limit:
            break
    return sorted(found[:limit])


def _slim(task: Task, config: LabelingConfig) -> Task:
    value = image_value(task.data, config)
    return Task(task.id, {} if value is None else {config.data_key: value})


def _before(stamp: str) -> str:
    """A moment of Label Studio's clock some minutes earlier, as it reads and writes them."""
    if not stamp:
        return ""
    moment = datetime.strptime(stamp, _STAMP).replace(tzinfo=timezone.utc)
    return (moment - _MARGIN).strftime(_STAMP)
