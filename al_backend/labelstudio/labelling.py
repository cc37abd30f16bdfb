"""Projects, tasks and annotations: what people do in Label Studio, for the demo and the tests."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from al_backend.errors import LabelStudioError
from al_backend.labelstudio.reading import Reading
from al_backend.labelstudio.records import Project

_TASKS_PER_IMPORT = 1000
# Django takes 100 files in one form.
_FILES_PER_IMPORT = 50
_LONG_SECONDS = 300.0


class Labelling(Reading):
    """Makes projects and plays the annotator."""

    def create_project(self, title: str, label_config: str, **extra: Any) -> Project:
        """Make a project; `extra` are further fields of Label Studio's project, such as `sampling`.

        Raises:
            LabelStudioError: it refuses, for instance a title of less than three characters.
        """
        body = {"title": title, "label_config": label_config} | extra
        return Project.from_answer(self.request("POST", "/api/projects/", body=body))

    def delete_project(self, project_id: int) -> None:
        """Delete a project with all its tasks, annotations and predictions."""
        self.request("DELETE", f"/api/projects/{project_id}/", timeout=_LONG_SECONDS)

    def import_tasks(self, project_id: int, tasks: Sequence[dict[str, Any]]) -> int:
        """Import tasks (`{"data": {...}}`, with "annotations" if there are any); about 2,000 a second.

        Returns:
            How many tasks Label Studio created.
        """
        created = 0
        for start in range(0, len(tasks), _TASKS_PER_IMPORT):
            part = list(tasks[start : start + _TASKS_PER_IMPORT])
            answer = self.request("POST", f"/api/projects/{project_id}/import", body=part, timeout=_LONG_SECONDS)
            created += int(answer["task_count"])
        return created

    def upload_images(self, project_id: int, files: Sequence[Path]) -> list[int]:
        """Upload image files into Label Studio itself, one task each.

        Returns:
            Task ids, in the order of `files`.

        Raises:
            LabelStudioError: Label Studio refuses a file, or makes another number of tasks than there are files.
        """
        ids: list[int] = []
        for start in range(0, len(files), _FILES_PER_IMPORT):
            part = files[start : start + _FILES_PER_IMPORT]
            with ExitStack() as stack:
                forms = [
                    (f"file{index}", (file.name, stack.enter_context(file.open("rb"))))
                    for index, file in enumerate(part)
                ]
                answer = self.request(
                    "POST",
                    f"/api/projects/{project_id}/import",
                    params={"return_task_ids": "true"},
                    files=forms,
                    timeout=_LONG_SECONDS,
                )
            made = [int(task_id) for task_id in answer.get("task_ids") or ()]
            if len(made) != len(part):
                raise LabelStudioError(f"Label Studio made {len(made)} tasks of {len(part)} uploaded images.")
            ids += sorted(made)
        return ids

    def next_task(self, project_id: int) -> dict[str, Any] | None:
        """The task that "Label All Tasks" would show this user next, None when there is none. It is locked for them."""
        try:
            return dict(self.request("GET", f"/api/projects/{project_id}/next/"))
        except LabelStudioError as error:
            if error.status == 404 and self.project(project_id):
                return None
            raise

    def submit_annotation(
        self, task_id: int, result: Sequence[dict[str, Any]], *, was_cancelled: bool = False, **extra: Any
    ) -> dict[str, Any]:
        """Submit (or, with `was_cancelled`, skip) a task as this user; an empty result says "nothing on it"."""
        body = {"result": list(result), "was_cancelled": was_cancelled} | extra
        return dict(self.request("POST", f"/api/tasks/{task_id}/annotations/", body=body))

    def update_annotation(self, annotation_id: int, **fields: Any) -> dict[str, Any]:
        """Change fields of an annotation, such as `result` or `ground_truth`."""
        return dict(self.request("PATCH", f"/api/annotations/{annotation_id}/", body=fields))

    def delete_annotation(self, annotation_id: int) -> None:
        """Delete an annotation."""
        self.request("DELETE", f"/api/annotations/{annotation_id}/")

    def action(
        self, project_id: int, action_id: str, task_ids: Sequence[int] | None = None, **payload: Any
    ) -> dict[str, Any]:
        """Run a Data Manager action such as "retrieve_tasks_predictions" on these tasks, on all when None."""
        selected: dict[str, Any] = {"all": True, "excluded": []}
        if task_ids is not None:
            selected = {"all": False, "included": list(task_ids)}
        params = {"id": action_id, "project": project_id}
        body = {"selectedItems": selected} | payload
        return dict(self.request("POST", "/api/dm/actions", params=params, body=body, timeout=_LONG_SECONDS) or {})
