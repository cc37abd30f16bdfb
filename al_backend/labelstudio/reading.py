"""What is read from Label Studio. Measured speeds are in the docstrings, because they decided between the endpoints."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from al_backend.errors import LabelStudioError
from al_backend.labelstudio.records import LabelledTask, PredictionRow, Project, Task
from al_backend.labelstudio.transport import Transport

_PAGE = 1000
_PREDICTION_PAGE = 200
# Ids of an export go into the URL, and 200 of them stay below every proxy's limit of 4 kB.
_EXPORT_BATCH = 200
_LONG_SECONDS = 300.0
_CELL_LENGTH = 490  # Label Studio's limit is 500, before it takes quotes out

_OPEN = {"filter": "filter:tasks:completed_at", "operator": "empty", "type": "Datetime", "value": True}
_COMPLETED = _OPEN | {"value": False}
_UPDATED = "filter:tasks:updated_at"
_LABELLED = {"filter": "filter:tasks:total_annotations", "operator": "greater", "type": "Number", "value": 0}


class Reading(Transport):
    """Everything that leaves Label Studio as it is."""

    def whoami(self) -> dict[str, Any]:
        """The user to whom the API key belongs; {} from what is no Label Studio."""
        user = self.request("GET", "/api/current-user/whoami")
        return user if isinstance(user, dict) else {}

    def version(self) -> str:
        """Label Studio's release, such as "1.23.2"."""
        return str(self.request("GET", "/api/version")["release"])

    def project(self, project_id: int) -> Project:
        """One project."""
        return Project.from_answer(self.request("GET", f"/api/projects/{project_id}/"))

    def open_tasks(self, project_id: int) -> list[Task]:
        """The pool: tasks that are not completed (untouched, with a draft only, or skipped), by id.

        About 1,500 tasks a second.
        """
        rows = self._tasks(project_id, "id,data", [_OPEN])
        return [Task(id=int(row["id"]), data=row.get("data") or {}) for row in rows]

    def open_task_ids(self, project_id: int) -> set[int]:
        """Ids of the pool; faster than the tasks themselves."""
        return {int(row["id"]) for row in self._tasks(project_id, "id", [_OPEN])}

    def count_open_tasks(self, project_id: int) -> int:
        """Size of the pool, in one request."""
        return self._count(project_id, [_OPEN])

    def touched_tasks(self, project_id: int, since: str) -> tuple[list[Task], set[int], str]:
        """What happened to the tasks after a moment of Label Studio's clock.

        A task is touched when it is made or edited, and when an annotation of it is made, changed or deleted; new
        predictions leave it as it is.

        Args:
            project_id: the project.
            since: such as "2026-01-02T03:04:05.678901Z"; "" for all of the pool.

        Returns:
            The touched tasks of the pool; the ids of those that are not, or no longer, in it; the last touch seen,
            `since` without any. Each touched task is read once, and only those of the pool with their data.
        """
        touched = [{"filter": _UPDATED, "operator": "greater", "type": "Datetime", "value": since}] if since else []
        rows = list(self._tasks(project_id, "id,data,updated_at", [_OPEN, *touched]))
        pool = [Task(id=int(row["id"]), data=row.get("data") or {}) for row in rows]
        stamps = [str(row["updated_at"]) for row in rows]
        others: set[int] = set()
        if since:
            completed = list(self._tasks(project_id, "id,updated_at", [_COMPLETED, *touched]))
            stamps += [str(row["updated_at"]) for row in completed]
            others = {int(row["id"]) for row in completed}
            pool = [task for task in pool if task.id not in others]  # completed between the two requests
        return pool, others, max(stamps, default=since)

    def task_ids(self, project_id: int, *, first: int = 0, last: int | None = None) -> set[int]:
        """Ids of the project's tasks in `first` to `last`, both included."""
        last_filter = [] if last is None else [_number("id", "less_or_equal", last)]
        return {int(row["id"]) for row in self._tasks(project_id, "id", last_filter, after=first - 1)}

    def label_marks(self, project_id: int) -> dict[int, str]:
        """A mark per labelled task that changes whenever an annotation of it is made, changed or deleted.

        Several times faster than reading the labels, so it tells cheaply which of them have to be read again. New
        predictions leave it as it is.
        """
        rows = self._tasks(project_id, "id,updated_at,total_annotations", [_LABELLED])
        return {int(row["id"]): f"{row.get('updated_at')} {row.get('total_annotations')}" for row in rows}

    def labelled_tasks(self, project_id: int, task_ids: Collection[int] | None = None) -> list[LabelledTask]:
        """Tasks with at least one submitted annotation, by id. Empty ones count, skipped ones and drafts do not.

        Read through the export, about 600 tasks a second: the task list gives annotations only together with
        everything else, at half that speed.

        Args:
            project_id: the project.
            task_ids: read these only; None reads all.
        """
        labelled = set(self.label_marks(project_id)) if task_ids is None else set(task_ids)
        wanted = sorted(labelled)
        found: list[LabelledTask] = []
        for start in range(0, len(wanted), _EXPORT_BATCH):
            batch = wanted[start : start + _EXPORT_BATCH]
            params = {"exportType": "JSON", "ids[]": batch}
            answer = self.request("GET", f"/api/projects/{project_id}/export", params=params, timeout=_LONG_SECONDS)
            for row in answer:
                submitted = tuple(item for item in row.get("annotations") or () if not item.get("was_cancelled"))
                if submitted:
                    found.append(LabelledTask(id=int(row["id"]), data=row.get("data") or {}, annotations=submitted))
        return sorted(found, key=lambda task: task.id)

    def model_versions(self, project_id: int) -> dict[str, int]:
        """Stored predictions per model version."""
        answer = self.request("GET", f"/api/projects/{project_id}/model-versions")
        return {str(name): int(count) for name, count in (answer or {}).items()}

    def predictions(self, project_id: int, *, task_id: int | None = None) -> list[PredictionRow]:
        """All stored predictions, by id, of one task if asked.

        About 5,000 a second. Label Studio has no way to leave out the regions, so they come over the wire (20 boxes
        are 5 kB) and are dropped here.
        """
        params = {"project": project_id} | ({} if task_id is None else {"task": task_id})
        rows = self.request("GET", "/api/predictions/", params=params, timeout=_LONG_SECONDS)
        return sorted((_prediction(row) for row in rows), key=lambda row: row.id)

    def predictions_of(
        self, project_id: int, model_version: str, *, several: bool = False
    ) -> Iterator[list[PredictionRow]]:
        """The predictions of tasks that hold one of exactly this version, also their others, page by page.

        For projects of any size: one page is in memory at a time, here and in Label Studio. A few hundred a second.

        Args:
            project_id: the project.
            model_version: exact name.
            several: only of tasks that hold more than one prediction.
        """
        yield from self._predictions_of(
            project_id, model_version, [_number("total_predictions", "greater", 1)] if several else []
        )

    def misscored_predictions(self, project_id: int, model_version: str) -> Iterator[list[PredictionRow]]:
        """Of tasks whose one prediction of the model version that the project shows has no score in [0, 1].

        A task with two of them has the mean of their scores here: for such tasks ask `predictions_of` for `several`.

        Args:
            project_id: the project.
            model_version: the one that the project shows; of another one Label Studio cannot be asked this.
        """
        for operator, value in (("empty", True), ("less", 0), ("greater", 1)):
            yield from self._predictions_of(project_id, model_version, [_number("predictions_score", operator, value)])

    def _predictions_of(
        self, project_id: int, model_version: str, more: Sequence[dict[str, Any]]
    ) -> Iterator[list[PredictionRow]]:
        filters = [_contains(model_version), *more]
        # Label Studio gives predictions only with all fields, of which these two are then asked for.
        for page in self._pages(project_id, "id,predictions", filters, size=_PREDICTION_PAGE, more={"fields": "all"}):
            rows = [_prediction({**row, "task": task["id"]}) for task in page for row in task.get("predictions") or ()]
            holders = {row.task for row in rows if row.model_version == model_version}
            yield sorted((row for row in rows if row.task in holders), key=lambda row: row.id)

    def tasks_with_version(
        self, project_id: int, model_version: str, *, first: int = 0, last: int | None = None
    ) -> set[int]:
        """Ids of the tasks that hold a prediction of exactly this version; about 1,500 a second, without regions.

        Args:
            project_id: the project.
            model_version: exact name.
            first: smallest task id that is looked at.
            last: greatest; None looks at all from `first` on.
        """
        # Label Studio matches parts of the name ("v1" finds "v10"), so the names are read back and compared.
        filters = [_contains(model_version), *([] if last is None else [_number("id", "less_or_equal", last)])]
        rows = self._tasks(project_id, "id,predictions_model_versions", filters, after=first - 1)
        return {int(row["id"]) for row in rows if self._has_version(project_id, row, model_version)}

    def _has_version(self, project_id: int, row: dict[str, Any], model_version: str) -> bool:
        cell = row.get("predictions_model_versions")
        if model_version in _names(cell):
            return True
        # Label Studio cuts the cell off, and then the name may be in what is missing.
        cut = isinstance(cell, str) and len(cell) >= _CELL_LENGTH
        return cut and any(
            stored.model_version == model_version for stored in self.predictions(project_id, task_id=int(row["id"]))
        )

    def queue(self, project_id: int, view_id: int, limit: int) -> list[tuple[int, float | None]]:
        """The first `limit` tasks of a Data Manager tab in its order: (task id, the prediction score it shows)."""
        params = {"project": project_id, "view": view_id, "page": 1, "page_size": limit}
        answer = self.request("GET", "/api/tasks", params=params | {"include": "id,predictions_score"})
        return [(int(row["id"]), row.get("predictions_score")) for row in answer["tasks"]]

    def members(self, project_id: int) -> int:
        """Members of the project: from two on, Label Studio serves the queue in random order (see `doctor`).

        The community edition has no members per project; there it is 0.
        """
        try:
            answer = self.request("GET", f"/api/projects/{project_id}/members/")
        except LabelStudioError as error:
            if error.status == 404:
                return 0
            raise
        return len(answer) if isinstance(answer, list) else int((answer or {}).get("count", 0))

    def ml_backends(self, project_id: int) -> list[dict[str, Any]]:
        """The project's model connections. Label Studio calls each one's /health and /setup before it answers."""
        return list(self.request("GET", "/api/ml/", params={"project": project_id}))

    def webhooks(self, project_id: int) -> list[dict[str, Any]]:
        """The project's webhooks, secrets in their headers included: never log them."""
        return list(self.request("GET", "/api/webhooks/", params={"project": project_id}))

    def _tasks(
        self, project_id: int, include: str, filters: Sequence[dict[str, Any]], *, after: int = 0
    ) -> Iterator[dict[str, Any]]:
        """Rows of the task list by id, page by page."""
        for page in self._pages(project_id, include, filters, after=after):
            yield from page

    def _pages(
        self,
        project_id: int,
        include: str,
        filters: Sequence[dict[str, Any]],
        *,
        after: int = 0,
        size: int = _PAGE,
        more: Mapping[str, Any] | None = None,
    ) -> Iterator[list[dict[str, Any]]]:
        """Pages of the task list by id.

        Each page starts behind the last id of the one before. Numbered pages would lose a task for every one that
        an annotator completes between two of them.
        """
        while True:
            conditions = [*filters, _number("id", "greater", after)]
            rows = self._page(project_id, include, conditions, size, more)["tasks"]
            yield rows
            if len(rows) < size:
                return
            after = int(rows[-1]["id"])

    def _count(self, project_id: int, filters: Sequence[dict[str, Any]]) -> int:
        return int(self._page(project_id, "id", filters, 1, None)["total"])

    def _page(
        self,
        project_id: int,
        include: str,
        filters: Sequence[dict[str, Any]],
        size: int,
        more: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        query = {"filters": {"conjunction": "and", "items": list(filters)}, "ordering": ["tasks:id"]}
        params = {
            "project": project_id,
            "include": include,
            "page_size": size,
            # Task data as it was imported: resolved storage links run out.
            "resolve_uri": "false",
            "query": json.dumps(query),
            **(more or {}),
        }
        return dict(self.request("GET", "/api/tasks", params=params))


def _contains(model_version: str) -> dict[str, Any]:
    return {
        "filter": "filter:tasks:predictions_model_versions",
        "operator": "contains",
        "type": "List",
        "value": [model_version],
    }


def _number(column: str, operator: str, value: int) -> dict[str, Any]:
    return {"filter": f"filter:tasks:{column}", "operator": operator, "type": "Number", "value": value}


def _names(cell: Any) -> list[str]:
    # Text, with "," between the names on SQLite and ", " on PostgreSQL.
    return [name.strip() for name in (cell if isinstance(cell, list) else str(cell or "").split(","))]


def _prediction(row: dict[str, Any]) -> PredictionRow:
    score = row.get("score")
    return PredictionRow(
        id=int(row["id"]),
        task=int(row["task"]),
        model_version=row.get("model_version") or "",
        score=None if score is None else float(score),
        # Python 3.10 does not read the Z of UTC.
        created_at=datetime.fromisoformat(str(row["created_at"]).replace("Z", "+00:00")),
    )
