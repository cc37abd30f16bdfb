"""Boxes of one image compared with each other: how far they overlap, which are the same object."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float32] | NDArray[np.float64]
Array = NDArray[np.float64]

SAME_OBJECT = 0.5
"""IoU from which boxes of two views are taken for one object."""


def intersections(first: Boxes, second: Boxes) -> Array:
    """Area that each box shares with each, shape (n, m), for corners of shape (n, 4) and (m, 4)."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    lower = np.maximum(a[:, None, :2], b[None, :, :2])
    upper = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared: Array = np.clip(upper - lower, 0, None).prod(axis=2)
    return shared


def areas(boxes: Boxes) -> Array:
    """Area of each box, shape (n,); 0 where corners are the wrong way round."""
    corners = boxes.astype(np.float64)
    result: Array = np.clip(corners[:, 2:] - corners[:, :2], 0, None).prod(axis=1)
    return result


def iou(first: Boxes, second: Boxes) -> Array:
    """IoU of each with each, shape (n, m); 0 for boxes without area."""
    shared = intersections(first, second)
    union = areas(first)[:, None] + areas(second)[None, :] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def matched_pairs(first: Boxes, second: Boxes, least: float = SAME_OBJECT) -> list[tuple[int, int, float]]:
    """Boxes of one object: positions in `first` and `second` and their IoU, each box at most once, best IoU first.

    Args:
        first: shape (n, 4).
        second: shape (m, 4).
        least: IoU of a pair.
    """
    overlaps = iou(first, second)
    rows, columns = np.nonzero(overlaps >= least)
    result: list[tuple[int, int, float]] = []
    used_rows: set[int] = set()
    used_columns: set[int] = set()
    for index in np.argsort(-overlaps[rows, columns], kind="stable"):
        row, column = int(rows[index]), int(columns[index])
        if row not in used_rows and column not in used_columns:
            used_rows.add(row)
            used_columns.add(column)
            result.append((row, column, float(overlaps[row, column])))
    return result


def covers(boxes: Boxes) -> Array:
    """The largest part of each box that lies inside one other box, shape (n,), in [0, 1]; 0 for one without area."""
    shared = intersections(boxes, boxes)
    np.fill_diagonal(shared, 0.0)
    own = areas(boxes)
    most = shared.max(axis=1, initial=0.0)
    return np.divide(most, own, out=np.zeros_like(most), where=own > 0)
