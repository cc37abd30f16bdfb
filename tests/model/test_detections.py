from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model.detections import Detections


def arrays(n: int = 3, classes: int = 2) -> dict[str, Any]:
    """Everything a detector can give for `n` boxes; each row can be told from the others."""
    probs = np.full((n, classes + 1), 0.1, np.float32)
    probs[:, 0] = 1 - 0.1 * classes
    return {
        "xyxy": np.arange(4 * n, dtype=np.float32).reshape(n, 4),
        "score": np.linspace(0.9, 0.1, n, dtype=np.float32),
        "label": np.arange(n, dtype=np.int64) % classes,
        "probs": probs,
        "height": 48,
        "width": 64,
        "side_std": np.arange(4 * n, dtype=np.float32).reshape(n, 4) + 100,
        "embedding": np.arange(5 * n, dtype=np.float32).reshape(n, 5) + 200,
        "image_embedding": np.arange(7, dtype=np.float32),
    }


def test_length_and_classes() -> None:
    detections = Detections(**arrays(n=3, classes=2))
    assert len(detections) == 3
    assert detections.num_classes == 2


def test_what_a_head_does_not_give_is_none() -> None:
    needed = {name: arrays()[name] for name in ("xyxy", "score", "label", "probs", "height", "width")}
    detections = Detections(**needed)
    assert (detections.side_std, detections.embedding, detections.image_embedding) == (None, None, None)
    part = detections.select(np.array([0]))
    assert (part.side_std, part.embedding, part.image_embedding) == (None, None, None)


def test_it_cannot_be_changed() -> None:
    detections = Detections(**arrays())
    with pytest.raises(FrozenInstanceError):
        detections.height = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("xyxy", (2, 4), r"Detections\.xyxy has shape \(2, 4\), expected \(3, 4\)"),
        ("xyxy", (3, 5), r"xyxy has shape \(3, 5\), expected \(3, 4\)"),
        ("xyxy", (12,), r"xyxy has shape \(12,\)"),
        ("label", (4,), r"label has shape \(4,\), expected \(3,\)"),
        ("label", (3, 1), r"label has shape \(3, 1\)"),
        ("score", (2,), r"Detections\."),
        ("score", (3, 1), r"score has shape \(3, 1\), expected \(3,\)"),
        ("side_std", (3, 2), r"side_std has shape \(3, 2\), expected \(3, 4\)"),
        ("probs", (2, 3), r"probs has shape \(2, 3\), expected \(3, C \+ 1\)"),
        ("probs", (3, 1), r"probs has shape \(3, 1\), expected \(3, C \+ 1\) with C >= 1"),
        ("probs", (9,), r"probs has shape \(9,\)"),
        ("embedding", (2, 5), r"embedding has shape \(2, 5\), expected \(3, D\)"),
        ("embedding", (3,), r"embedding has shape \(3,\), expected \(3, D\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(name: str, shape: tuple[int, ...], message: str) -> None:
    values = arrays(n=3)
    values[name] = np.zeros(shape, values[name].dtype)
    with pytest.raises(ValueError, match=message):
        Detections(**values)


@pytest.mark.parametrize("classes", [1, 80])
def test_empty(classes: int) -> None:
    detections = Detections.empty(48, 64, classes)
    assert len(detections) == 0
    assert (detections.height, detections.width, detections.num_classes) == (48, 64, classes)
    assert detections.xyxy.shape == (0, 4)
    assert detections.probs.shape == (0, classes + 1)
    assert detections.side_std is not None
    assert detections.side_std.shape == (0, 4)
    assert [part.dtype.name for part in (detections.xyxy, detections.score, detections.label, detections.probs)] == [
        "float32",
        "float32",
        "int64",
        "float32",
    ]
    again = detections.select(np.zeros(0, np.bool_))
    assert (len(again), again.num_classes) == (0, classes)


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (np.array([True, False, True]), [0, 2]),
        (np.array([2, 0]), [2, 0]),
        (np.array([1, 1]), [1, 1]),
        (np.array([False, False, False]), []),
        (np.zeros(0, np.int64), []),
    ],
)
def test_select_keeps_the_parts_together(index: NDArray[np.bool_] | NDArray[np.int64], rows: list[int]) -> None:
    values = arrays(n=3)
    part = Detections(**values).select(index)
    for name in ("xyxy", "score", "label", "probs", "side_std", "embedding"):
        np.testing.assert_array_equal(getattr(part, name), values[name][rows])
    np.testing.assert_array_equal(part.image_embedding, values["image_embedding"])
    assert (part.height, part.width, part.num_classes, len(part)) == (48, 64, 2, len(rows))


def test_select_beyond_the_last_is_an_error() -> None:
    with pytest.raises(IndexError):
        Detections(**arrays(n=3)).select(np.array([3]))
    with pytest.raises(IndexError):
        Detections(**arrays(n=3)).select(np.array([True, False]))
