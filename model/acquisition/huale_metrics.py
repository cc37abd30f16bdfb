"""The four metrics by which HUALE ranks its candidates, each of one image in two views.

The publication names them and shows examples, not formulas. Overlap Ratio below gives all six published values; the
other three are our reading (`docs/algorithms.md`). Each is in [0, 1]. Which direction is the informative one is not
told either, so the strategy has a signed weight for each.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from model.acquisition.config import CategoryDiversity
from model.acquisition.divergence import LARGEST, jensen_shannon
from model.acquisition.geometry import covers, matched_pairs
from model.detections import Detections

COVERED = 0.7
"""A box counts as overlapped when more than this part of it lies inside another."""
MOST_BOXES = 100


def strongest(detections: Detections, count: int = MOST_BOXES) -> Detections:
    """The `count` detections with the highest confidence."""
    if len(detections) <= count:
        return detections
    return detections.select(np.argsort(-detections.score, kind="stable")[:count])


def semantic_affinity(original: Detections, other: Detections) -> float:
    """How differently the two views classify the boxes that they share.

    Returns:
        Mean Jensen-Shannon divergence of matched rows, background included, divided by ln 2. 1 when the views share no
        box although there are some; 0 when neither has one.
    """
    pairs = matched_pairs(original.xyxy, other.xyxy)
    if not pairs:
        return 1.0 if len(original) + len(other) else 0.0
    rows, columns = [row for row, _, _ in pairs], [column for _, column, _ in pairs]
    return float(jensen_shannon(original.probs[rows], other.probs[columns]).mean() / LARGEST)


def category_diversity(original: Detections, other: Detections, how: CategoryDiversity) -> float:
    """Over how many classes the two views' class histograms spread, or how differently they fill them.

    A histogram is the sum of the rows' foreground probabilities, so that a box that one view lacks shows in it.

    Returns:
        SPREAD: mean entropy of the two, divided by ln C; of one alone when the other is empty; 0 with one class.
        DISAGREEMENT: Jensen-Shannon divergence of the two, divided by ln 2; 1 when one view alone is empty.
        Both: 0 when neither view has a box.
    """
    histograms = [_histogram(detections) for detections in (original, other) if len(detections)]
    if not histograms:
        return 0.0
    if how is CategoryDiversity.SPREAD:
        classes = len(histograms[0])
        return float(np.mean([_entropy(h) for h in histograms]) / math.log(classes)) if classes > 1 else 0.0
    if len(histograms) == 1:
        return 1.0
    return float(jensen_shannon(histograms[0][None], histograms[1][None])[0] / LARGEST)


def overlap_ratio(detections: Detections) -> float:
    """Share of the boxes of which more than `COVERED` lies inside another box; 0 without boxes.

    Boxes with the very same corners are one box, which survived suppression under two classes.

    Source: our reading of Nguyen et al., IEEE Big Data 2023; it gives the six values of their ablation figure.
    """
    boxes = np.unique(detections.xyxy, axis=0)
    return float((covers(boxes) > COVERED).mean()) if len(boxes) else 0.0


def localization_confidence(original: Detections, other: Detections) -> float:
    """How unsure the detector is where the boxes end: 1 minus the mean confidence of all sides.

    With a head that gives a deviation per side, its confidence is `exp(-deviation / extent)`, of all boxes of the
    original view; else `1 - min(1, distance / extent)` of the same side in the two views, of the boxes that both
    have. The extent is that of the box across the side, in pixels at least 1.

    Returns:
        In [0, 1]. 1 when there is no box to compare although a view has some; 0 when neither has one.
    """
    if not len(original) or not len(other):
        return 1.0 if len(original) + len(other) else 0.0
    boxes = original.xyxy.astype(np.float64)
    if original.side_std is not None:
        # Not a number and infinite both say that nothing is known.
        deviation = np.nan_to_num(original.side_std.astype(np.float64), nan=np.inf)
        return float(1.0 - np.exp(-np.abs(deviation) / _extents(boxes)).mean())
    pairs = matched_pairs(original.xyxy, other.xyxy)
    if not pairs:
        return 1.0
    rows, columns = [row for row, _, _ in pairs], [column for _, column, _ in pairs]
    apart = np.abs(boxes[rows] - other.xyxy[columns]) / _extents(boxes[rows])
    return float(np.minimum(apart, 1.0).mean())


def _extents(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Width, height, width, height of each box: what a shift of left, top, right, bottom has to be measured with."""
    size = np.maximum(boxes[:, 2:] - boxes[:, :2], 1.0)
    return np.concatenate([size, size], axis=1)


def _histogram(detections: Detections) -> NDArray[np.float64]:
    total = np.clip(detections.probs[:, :-1].astype(np.float64), 0.0, 1.0).sum(axis=0)
    mass = total.sum()
    return total / mass if mass > 0 else np.full(len(total), 1.0 / len(total))


def _entropy(histogram: NDArray[np.float64]) -> float:
    positive = histogram[histogram > 0]
    return float(-(positive * np.log(positive)).sum())
