"""The pool of a large project, kept up to date by what was touched since the last look.

Reading a hundred thousand tasks takes Label Studio a minute, and a look comes twice a minute. So a process remembers
them. What it remembers is checked by counting at every look, and read as a whole every now and then: the truth is in
Label Studio, this is a shortcut to it.

A task is stamped before its transaction is committed, so a look has to reach back behind the look before it. It
reaches back some seconds, which is what a submit takes. Behind an import that took minutes it reaches far back, but
then every task of that import is read once more: so that happens rarely, and when the count is another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from al_backend.inference import image_value
from al_backend.labelstudio.client import LabelStudio, Task
from al_backend.labelstudio.labeling_config import LabelingConfig

SMALL = 2_000
"""Pools up to this size are read as a whole at every look: it takes a second or two."""

_WHOLE_EVERY = 3600.0  # seconds
_NEAR = timedelta(seconds=20)
_FAR = timedelta(minutes=10)
_FAR_EVERY = 60.0  # seconds
_FAR_SHARE = 0.1  # of the time, at most, goes into reading far back
_STAMP = "%Y-%m-%dT%H:%M:%S.%fZ"
_TRIES = 3  # somebody may label between two requests
_UNCONFIRMED = 10  # looks in a row that somebody who labels may keep from an exact count


@dataclass
class _Pool:
    """A remembered pool; moments are of our monotonic clock, in seconds.

    Attributes:
        tasks: by id.
        data_key: of the image; the tasks have nothing else.
        whole_at: when it was last read as a whole.
        near_at: when the last reading began.
        far_at: when the last one that reached far back, or all the way, began.
        far_took: seconds that one took.
        ahead: Label Studio's clock minus ours. At least so much: it showed each stamp before that was read here.
        unconfirmed: looks since the count was exactly ours.
    """

    tasks: dict[int, Task]
    data_key: str
    whole_at: float
    near_at: float
    far_at: float
    far_took: float
    ahead: datetime | None = None
    unconfirmed: int = 0

    def saw(self, stamp: str, now: float) -> None:
        """Learn from a stamp how far Label Studio's clock is."""
        if stamp:
            ahead = _moment(stamp) - timedelta(seconds=now)
            self.ahead = ahead if self.ahead is None else max(self.ahead, ahead)

    def since(self, at: float, margin: timedelta) -> str:
        """Label Studio's clock at a moment of ours, less the margin, as it writes and reads it; "" for all times."""
        return "" if self.ahead is None else (self.ahead + timedelta(seconds=at) - margin).strftime(_STAMP)


@dataclass
class _Scored:
    model_version: str
    count: int
    tasks: set[int]
    read_at: float


class PoolMemory:
    """Pools and published predictions of the projects that a process looks at."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is remembered yet; `clock` gives seconds and never goes back."""
        self._clock = clock
        self._pools: dict[int, _Pool] = {}
        self._scored: dict[int, _Scored] = {}

    def pool(self, client: LabelStudio, project_id: int, config: LabelingConfig) -> list[Task]:
        """The open tasks by id; of their data only the image."""
        known = self._pools.get(project_id)
        if known is None or not self._agrees(client, project_id, config, known):
            known = self._pools[project_id] = self._whole(client, project_id, config)
        return [known.tasks[task] for task in sorted(known.tasks)]

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
        fresh = known is not None and self._clock() - known.read_at < _WHOLE_EVERY
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
        read_at = self._clock()
        tasks = client.tasks_with_version(project_id, model_version) if count else set()
        self._scored[project_id] = _Scored(model_version, count, tasks, read_at)
        return tasks

    def _whole(self, client: LabelStudio, project_id: int, config: LabelingConfig) -> _Pool:
        began = self._clock()
        tasks, _, stamp = client.touched_tasks(project_id, "")
        ended = self._clock()
        slim = {task.id: _slim(task, config) for task in tasks}
        known = _Pool(slim, config.data_key, began, began, began, ended - began)
        known.saw(stamp, ended)
        return known

    def _agrees(self, client: LabelStudio, project_id: int, config: LabelingConfig, known: _Pool) -> bool:
        """Bring what is remembered up to date; False when it has to be read as a whole."""
        if len(known.tasks) <= SMALL or known.data_key != config.data_key:
            return False
        if self._clock() - known.whole_at >= _WHOLE_EVERY:
            return False
        size = count = -1
        for attempt in range(_TRIES):
            self._refresh(client, project_id, config, known, far=attempt == _TRIES - 1)
            size, before = len(known.tasks), size
            if attempt and known.unconfirmed < _UNCONFIRMED and min(before, size) <= count <= max(before, size):
                # The pool was as large as counted some time between the two readings: somebody labels meanwhile.
                known.unconfirmed += 1
                return True
            count = client.count_open_tasks(project_id)
            if count == size:
                known.unconfirmed = 0
                return True
        return False

    def _refresh(
        self, client: LabelStudio, project_id: int, config: LabelingConfig, known: _Pool, *, far: bool
    ) -> None:
        began = self._clock()
        far = far or began - known.far_at >= max(_FAR_EVERY, known.far_took / _FAR_SHARE)
        since = known.since(known.far_at, _FAR) if far else known.since(known.near_at, _NEAR)
        touched, others, stamp = client.touched_tasks(project_id, since)
        ended = self._clock()
        for task in touched:
            known.tasks[task.id] = _slim(task, config)
        for task_id in others:
            known.tasks.pop(task_id, None)
        known.near_at = began
        if far:
            known.far_at, known.far_took = began, ended - began
        if stamp != since:
            known.saw(stamp, ended)


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


def _moment(stamp: str) -> datetime:
    return datetime.fromisoformat(stamp.replace("Z", "+00:00"))  # Python 3.10 does not read the Z of UTC
