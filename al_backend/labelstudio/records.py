"""What is read from Label Studio and reported about writing to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Project:
    """A project as Label Studio describes it; `raw` is the whole answer."""

    id: int
    title: str
    label_config: str
    model_version: str
    sampling: str
    show_collab_predictions: bool
    maximum_annotations: int
    task_number: int
    raw: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_answer(cls, answer: Mapping[str, Any]) -> Project:
        """Read Label Studio's JSON, in which empty fields may be null or missing."""
        return cls(
            id=int(answer["id"]),
            title=answer.get("title") or "",
            label_config=answer.get("label_config") or "",
            model_version=answer.get("model_version") or "",
            sampling=answer.get("sampling") or "",
            show_collab_predictions=bool(answer.get("show_collab_predictions")),
            maximum_annotations=int(answer.get("maximum_annotations") or 1),
            task_number=int(answer.get("task_number") or 0),
            raw=answer,
        )


@dataclass(frozen=True)
class Task:
    """A task and its data, in which the image is named."""

    id: int
    data: Mapping[str, Any]


@dataclass(frozen=True)
class LabelledTask:
    """A task with at least one submitted annotation; skipped ones and drafts are not among `annotations`."""

    id: int
    data: Mapping[str, Any]
    annotations: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class PredictionRow:
    """A stored prediction without its regions; `score` is None where Label Studio holds no number."""

    id: int
    task: int
    model_version: str
    score: float | None
    created_at: datetime


@dataclass(frozen=True)
class ImportReport:
    """What became of predictions that were sent.

    Attributes:
        sent: predictions in the call.
        created: those that Label Studio holds now because of this call.
        present: those of which it already held one for that task and version; they were not sent again.
        dropped: ids of tasks for which it holds none, because it refused the item or the task is gone.
    """

    sent: int
    created: int
    present: int = 0
    dropped: tuple[int, ...] = ()
