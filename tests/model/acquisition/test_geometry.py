"""Boxes and distributions compared, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from model.acquisition.divergence import jensen_shannon
from model.acquisition.geometry import covers, iou, matched_pairs


def boxes(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


def test_overlap_and_cover_by_hand() -> None:
    large, half_in, inside, flat = (0, 0, 10, 10), (5, 0, 15, 10), (2, 2, 4, 4), (3, 3, 3, 9)
    assert iou(boxes(large), boxes(half_in, inside, flat)).tolist() == [pytest.approx([1 / 3, 0.04, 0.0])]
    assert covers(boxes(large, half_in, inside, flat)).tolist() == pytest.approx([0.5, 0.5, 1.0, 0.0])
    assert covers(boxes(large)).tolist() == [0.0]
    assert covers(boxes()).shape == (0,)
    assert iou(boxes(), boxes(large)).shape == (0, 1)


def test_every_box_is_matched_once_the_best_first() -> None:
    first = boxes((0, 0, 10, 10), (1, 0, 11, 10))
    second = boxes((1, 0, 11, 10), (50, 50, 60, 60))
    assert matched_pairs(first, second) == [(1, 0, 1.0)]
    assert matched_pairs(first, boxes()) == []
    assert matched_pairs(boxes((0, 0, 10, 10)), boxes((5, 0, 15, 10))) == []
    assert len(matched_pairs(boxes((0, 0, 10, 10)), boxes((5, 0, 15, 10)), least=0.3)) == 1


def test_divergence_by_hand() -> None:
    rows = np.array([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]])
    others = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    third = 0.5 * (math.log(4 / 3)) + 0.5 * (0.5 * math.log(2 / 3) + 0.5 * math.log(2))
    assert jensen_shannon(rows, others).tolist() == pytest.approx([0.0, math.log(2), third])
    assert jensen_shannon(others, rows).tolist() == pytest.approx([0.0, math.log(2), third])
