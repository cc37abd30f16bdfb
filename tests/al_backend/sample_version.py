"""A version's record for tests that need one and do not look at what it was made from."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from al_backend.registry import GateVerdict, Version


def sample_version(name: str, project: int, moment: datetime, **changes: Any) -> Version:
    """A version of one image and one box, promoted.

    Args:
        name: with its number between `-v` and the next `-`.
        project: Label Studio's project id.
        moment: when it was made from the labels of that moment.
        changes: other fields.
    """
    values: dict[str, Any] = {
        "number": int(name.split("-v")[1].split("-")[0]),
        "detector": "yolov5n",
        "classes": ("cod",),
        "created_at": moment,
        "snapshot_at": moment,
        "labels": {},
        "label_counts": {},
        "train_images": 1,
        "validation_images": 0,
        "boxes": 1,
        "training": {},
        "settings": {},
        "gate": GateVerdict(promoted=True, reason="first"),
    }
    return Version(name=name, project=project, **values | changes)
