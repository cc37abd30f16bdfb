"""Predictions and the queue: what is written so that Label Studio serves the tasks in our order."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from al_backend.errors import LabelStudioError
from al_backend.labelstudio.reading import Reading
from al_backend.labelstudio.records import ImportReport, Project

logger = logging.getLogger(__name__)

QUEUE_TAB = "Active learning queue"
UNCERTAINTY_SAMPLING = "Uncertainty sampling"

_IMPORT_SECONDS = 300.0
# With the pauses in between, patience for half a minute: Label Studio starts in 6 seconds.
_CHUNK_TRIES = 6
_SETTLE_SECONDS = 2.0
# Reading one task's predictions costs about as much as reading this many of a whole project's.
_ROWS_PER_READ = 50
_QUEUE_ORDER = ["tasks:predictions_score"]
_OPEN = {"filter": "filter:tasks:completed_at", "operator": "empty", "type": "Datetime", "value": True}
_VISIBLE = {"id", "total_annotations", "predictions_score", "predictions_model_versions"}

Progress = Callable[[int], None]

Pace = Callable[[float], None]
"""Waits for a turn to write that lasts so many seconds; nobody else writes in it."""


class OwnPace:
    """Turns of one process alone."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, seconds: float) -> None:
        """Wait until the turn before has ended."""
        now = time.monotonic()
        turn = max(now, self._next)
        self._next = turn + seconds
        time.sleep(turn - now)


class Publishing(Reading):
    """Writes that make a ranking visible. None of them is repeated without reading back first."""

    pace: Pace = OwnPace()
    """How fast predictions are written and deleted; replaced where several processes share the turns."""

    def import_predictions(
        self,
        project_id: int,
        items: Sequence[dict[str, Any]],
        *,
        chunk: int = 250,
        pause: float = 0.2,
        rate: float = math.inf,
        absent: bool = False,
        on_progress: Progress | None = None,
    ) -> ImportReport:
        """Store one prediction per task and version, in chunks, so that annotators keep going in between.

        Label Studio silently drops items that it finds invalid, and importing twice stores twice. So each chunk's
        count is checked, and after a lost answer what is stored is read back before anything is sent again. A call
        that is repeated after a crash sends only what is missing.

        Every request costs Label Studio about 0.5 ms per task of the project (it counts all of them again) and 1 to
        3 ms per item, so larger chunks are much faster in large projects and hold up annotators for longer.

        Args:
            project_id: the project.
            items: `{"task", "result", "score", "model_version"}`; score finite in [0, 1].
            chunk: items per request.
            pause: seconds between two requests, at least.
            rate: items per second, at most, by which the pause is longer after larger requests.
            absent: whether the caller has just looked and found none of the items stored.
            on_progress: called with the number of items dealt with so far.

        Raises:
            ValueError: an item has no usable score or version, or there are two for one task and version.
            LabelStudioError: Label Studio refuses a chunk as a whole, or is still away after several tries; what was
                stored before stays.
        """
        _check(items)
        present = set() if absent else self._already_there(project_id, items)
        todo = [item for item in items if (item["task"], item["model_version"]) not in present]
        dropped: list[int] = []
        done = len(items) - len(todo)
        for start in range(0, len(todo), chunk):
            part = todo[start : start + chunk]
            self.pace(max(pause, len(part) / rate))
            dropped += self._import_chunk(project_id, part)
            done += len(part)
            if on_progress is not None:
                on_progress(done)
        return ImportReport(
            sent=len(items),
            created=len(todo) - len(dropped),
            present=len(items) - len(todo),
            dropped=tuple(sorted(dropped)),
        )

    def publish_model_version(
        self, project_id: int, model_version: str, sampling: str = UNCERTAINTY_SAMPLING
    ) -> Project:
        """Make Label Studio order the queue by the scores of this version, and check that it does.

        Raises:
            LabelStudioError: no prediction has that version yet, or the project says something else afterwards.
        """
        self.request(
            "PATCH", f"/api/projects/{project_id}/", body={"model_version": model_version, "sampling": sampling}
        )
        project = self.project(project_id)
        if (project.model_version, project.sampling) != (model_version, sampling):
            raise LabelStudioError(
                f"Project {project_id} was set to model version {model_version!r} and {sampling!r}, but now has "
                f"{project.model_version!r} and {project.sampling!r}; somebody else changed it at the same time."
            )
        return project

    def delete_predictions(
        self, ids: Iterable[int], *, pause: float = 0.05, on_progress: Progress | None = None
    ) -> int:
        """Delete predictions one by one, about 15 a second; those already gone are passed over.

        Deleting a whole version at once would hold Label Studio's database for minutes and may clear the project's
        current version.

        Returns:
            How many this call deleted.
        """
        deleted = 0
        for number, prediction_id in enumerate(ids, start=1):
            self.pace(pause)
            try:
                self.request("DELETE", f"/api/predictions/{prediction_id}/")
                deleted += 1
            except LabelStudioError as error:
                if error.status != 404:
                    raise
            if on_progress is not None:
                on_progress(number)
        return deleted

    def ensure_queue_tab(self, project_id: int) -> int:
        """Id of the project's "Active learning queue" tab in the Data Manager, created when there is none."""
        tabs = self.queue_tabs(project_id)
        if tabs:
            return int(tabs[0]["id"])
        body = {"project": project_id, "data": self._queue_view(project_id)}
        return int(self.request("POST", "/api/dm/views/", body=body)["id"])

    def queue_tabs(self, project_id: int) -> list[dict[str, Any]]:
        """The tabs that are called "Active learning queue", oldest first."""
        tabs = self.request("GET", "/api/dm/views/", params={"project": project_id}) or []
        ours = [dict(tab) for tab in tabs if (tab.get("data") or {}).get("title") == QUEUE_TAB]
        return sorted(ours, key=lambda tab: int(tab["id"]))

    @staticmethod
    def is_queue_order(tab: Mapping[str, Any]) -> bool:
        """Whether a tab shows the open tasks by ascending prediction score, as it was made."""
        data = tab.get("data") or {}
        shown = [(item.get("filter"), item.get("operator")) for item in (data.get("filters") or {}).get("items") or ()]
        return list(data.get("ordering") or ()) == _QUEUE_ORDER and shown == [(_OPEN["filter"], _OPEN["operator"])]

    def restore_queue_tab(self, project_id: int, tab: Mapping[str, Any]) -> None:
        """Give a queue's tab its order, filter and columns back."""
        body = {"id": tab["id"], "project": project_id, "data": self._queue_view(project_id)}
        self.request("PUT", f"/api/dm/views/{int(tab['id'])}/", body=body)

    def _queue_view(self, project_id: int) -> dict[str, Any]:
        columns = self.request("GET", "/api/dm/columns", params={"project": project_id})["columns"]
        # Without this Label Studio shows every column, and the image is far to the right.
        hidden = [
            f"tasks:{column['id']}"
            for column in columns
            if column.get("parent") is None and column["id"] not in _VISIBLE and column.get("target") == "tasks"
        ]
        return {
            "title": QUEUE_TAB,
            "type": "list",
            "target": "tasks",
            "ordering": _QUEUE_ORDER,
            "filters": {"conjunction": "and", "items": [_OPEN]},
            "hiddenColumns": {"explore": hidden, "labeling": hidden},
        }

    def _import_chunk(self, project_id: int, items: list[dict[str, Any]]) -> list[int]:
        """Store `items`; returns the tasks for which Label Studio holds nothing afterwards."""
        path = f"/api/projects/{project_id}/import/predictions"
        gone: list[int] = []
        missing = items
        lost = repeated = False
        for attempt in range(1, _CHUNK_TRIES + 1):
            try:
                if lost:
                    missing = self._not_stored(project_id, missing)
                    lost = False
                if not missing:
                    return gone
                answer = self.request("POST", path, body=missing, timeout=max(self.timeout, _IMPORT_SECONDS))
            except LabelStudioError as error:
                if _passing(error) and attempt < _CHUNK_TRIES:
                    logger.warning("The answer to an import of %d predictions was lost: %s", len(missing), error)
                    lost = True
                    # Label Studio may be starting again, or still be at work on what we gave up on.
                    time.sleep(_SETTLE_SECONDS * attempt)
                    continue
                left = self._still_there(project_id, missing) if error.status == 400 else missing
                if len(left) == len(missing):
                    raise
                gone += [item["task"] for item in missing if item not in left]
                missing = left
                continue
            if int(answer["created"]) == len(missing):
                return gone
            missing = self._not_stored(project_id, missing)
            if repeated:
                return gone + [item["task"] for item in missing]
            repeated = True  # what is invalid is dropped again; what got lost on the way is not
        raise LabelStudioError(
            f"Tasks of project {project_id} keep disappearing while predictions are imported; try again later."
        )

    def _not_stored(self, project_id: int, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those of `items` for whose task and version Label Studio holds no prediction."""
        total = sum(self.model_versions(project_id).values())
        if total <= len(items) * _ROWS_PER_READ:
            rows = self.predictions(project_id)
        else:
            rows = [row for item in items for row in self.predictions(project_id, task_id=item["task"])]
        stored = {(row.task, row.model_version) for row in rows}
        return [item for item in items if (item["task"], item["model_version"]) not in stored]

    def _still_there(self, project_id: int, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those of `items` whose task exists: one deleted task makes Label Studio refuse the whole chunk."""
        ids = [item["task"] for item in items]
        existing = self.task_ids(project_id, first=min(ids), last=max(ids))
        return [item for item in items if item["task"] in existing]

    def _already_there(self, project_id: int, items: Sequence[dict[str, Any]]) -> set[tuple[int, str]]:
        if not items:
            return set()
        versions = {item["model_version"] for item in items} & self.model_versions(project_id).keys()
        ids = [item["task"] for item in items]
        return {
            (task, version)
            for version in versions
            for task in self.tasks_with_version(project_id, version, first=min(ids), last=max(ids))
        }


def _passing(error: LabelStudioError) -> bool:
    """Whether the request may have arrived and the next one may succeed."""
    return error.status is None or error.status >= 500 or error.status in (408, 429)


def _check(items: Sequence[dict[str, Any]]) -> None:
    seen: set[tuple[int, str]] = set()
    for item in items:
        task, score, version = item.get("task"), item.get("score"), item.get("model_version")
        if not isinstance(task, int) or not isinstance(version, str) or not version:
            raise ValueError(f"A prediction for task {task!r} has the model version {version!r}; both are needed")
        if not isinstance(score, int | float) or not math.isfinite(score):
            raise ValueError(f"The prediction for task {task} has the score {score!r}, expected a finite number")
        if (task, version) in seen:
            raise ValueError(f"Two predictions of version {version} for task {task}; the queue's order needs one")
        seen.add((task, version))
