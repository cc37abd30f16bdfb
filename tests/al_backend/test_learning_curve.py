from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from al_backend.learning_curve import learning_curve, worth_of_labels
from al_backend.registry import GateVerdict, Version

MOMENT = datetime(2026, 1, 1, tzinfo=timezone.utc)


def version(number: int, labels: int, map50: float | None, **changes: Any) -> Version:
    fields: dict[str, Any] = {
        "name": f"yolov5n-v{number}-abcdef",
        "number": number,
        "project": 7,
        "detector": "yolov5n",
        "classes": ("cod", "eel"),
        "created_at": MOMENT,
        "snapshot_at": MOMENT,
        "parent": None,
        "labels": {str(task): "digest" for task in range(labels)},
        "label_counts": {},
        "train_images": labels,
        "validation_images": 0,
        "boxes": labels,
        "metrics": None if map50 is None else {"map50": map50},
        "training": {},
        "settings": {},
        "gate": GateVerdict(promoted=True, reason="the first one"),
    }
    return Version(**fields | changes)


FLAT = [version(1, 100, 0.30), version(2, 200, 0.50), version(3, 300, 0.501), version(4, 400, 0.501)]


def test_of_nothing_nothing_is_said() -> None:
    assert learning_curve([]) == []
    assert worth_of_labels([], 0.005) is None
    assert worth_of_labels(FLAT[:3], 0.005) is None


def test_the_curve_is_in_the_order_of_the_versions() -> None:
    assert learning_curve(FLAT[::-1]) == [(100, 0.30), (200, 0.50), (300, 0.501), (400, 0.501)]


def test_refused_versions_count_and_unmeasured_ones_do_not() -> None:
    refused = version(5, 500, 0.4, gate=GateVerdict(promoted=False, reason="worse"))
    assert learning_curve([*FLAT, refused, version(6, 600, None)])[-2:] == [(400, 0.501), (500, 0.4)]


@pytest.mark.parametrize(
    "former",
    [
        version(1, 100, 0.9, detector="yolov5s"),
        version(1, 100, 0.9, classes=("cod",)),
        version(1, 900, 0.9),
    ],
    ids=["another detector", "other classes", "labels were taken away"],
)
def test_it_starts_anew_where_versions_cannot_be_compared(former: Version) -> None:
    assert learning_curve([former, *FLAT[1:]]) == [(200, 0.50), (300, 0.501), (400, 0.501)]


def test_whether_more_labels_help() -> None:
    rising = worth_of_labels(FLAT, 0.005)
    assert rising is not None
    assert not rising.stop  # least squares through all four: 0.0604 per 100 labels
    assert rising.gain == pytest.approx(0.0604)
    flat = worth_of_labels([*FLAT, version(5, 500, 0.502)], 0.005)
    assert flat is not None
    assert flat.stop
    assert flat.gain == pytest.approx(0.0006)
    assert "200 to 500 labels" in flat.sentence
