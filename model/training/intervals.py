"""How far chance goes in an evaluation: mAP over images drawn again and again from those that were evaluated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.data.dataset import LabelledImage
from model.detections import Detections
from model.training.evaluation import MAX_DETECTIONS, FoundBoxes

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RESAMPLES = 200
LEAST_IMAGES = 5
"""Fewer images drawn again say nothing about others."""

_RECALLS = np.linspace(0.0, 1.0, 101)
Interval = tuple[float, float]


def quality_intervals(
    truth: Sequence[LabelledImage],
    found: Sequence[FoundBoxes | Detections],
    classes: Sequence[str],
    found_classes: Sequence[str] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval] | None:
    """95 % intervals of `map50` and `map50_95` by bootstrap over images.

    They say how much the number would change with other held-out images of the same kind; what another training with
    another seed would give is not in them.

    Args:
        truth: images with their true boxes.
        found: one per image, in the same order.
        classes: what `LabelledImage.label` indexes.
        found_classes: what `label` of `found` indexes; None for `classes`.
        resamples: how often the images are drawn.
        seed: of the drawing.

    Returns:
        Lower and upper end by the metric's name; None with fewer than `LEAST_IMAGES` images, or without a true box.
    """
    matched = _matched(truth, found, classes, found_classes or classes)
    if len(truth) < LEAST_IMAGES or not any(len(item.owners) for item in matched):
        return None
    random = np.random.default_rng(seed)
    values = np.full((resamples, 2), np.nan)
    for number in range(resamples):
        counts = np.bincount(random.integers(0, len(truth), len(truth)), minlength=len(truth)).astype(np.float64)
        values[number] = _quality(matched, counts)
    values = values[~np.isnan(values).any(axis=1)]
    if not len(values):
        return None
    low, high = np.percentile(values, [2.5, 97.5], axis=0)
    names = ("map50", "map50_95")
    return {name: (float(low[column]), float(high[column])) for column, name in enumerate(names)}


class _Class:
    """The detections of one class, by falling confidence, and the images that its true boxes are in."""

    def __init__(self, images: NDArray[np.int64], hits: NDArray[np.bool_], owners: NDArray[np.int64]) -> None:
        self.images = images  # shape (n,), of the detections
        self.hits = hits  # shape (n, thresholds), whether a true box was found
        self.owners = owners  # shape (m,), of the true boxes


def _quality(matched: Sequence[_Class], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the classes that have boxes of (AP50, AP50-95); NaN without one."""
    rows = []
    for item in matched:
        boxes = counts[item.owners].sum()
        if boxes:
            precision = _average_precision(item, counts[item.images], float(boxes))
            rows.append((precision[0], precision.mean()))
    return np.mean(rows, axis=0) if rows else np.full(2, np.nan)


def _average_precision(item: _Class, weights: NDArray[np.float64], boxes: float) -> NDArray[np.float64]:
    """Per threshold, mean precision at 101 recalls; an image that was drawn twice counts twice."""
    result = np.zeros(len(IOU_THRESHOLDS))
    all_found = np.cumsum(weights)
    for column in range(len(IOU_THRESHOLDS)):
        good = np.cumsum(weights * item.hits[:, column])
        recall = good / boxes
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = np.where(all_found > 0, good / all_found, 0.0)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        places = np.searchsorted(recall, _RECALLS, side="left")
        reached = places < len(envelope)
        result[column] = envelope[places[reached]].sum() / len(_RECALLS)
    return result


def _matched(
    truth: Sequence[LabelledImage],
    found: Sequence[FoundBoxes | Detections],
    classes: Sequence[str],
    found_classes: Sequence[str],
) -> list[_Class]:
    position = {name: index for index, name in enumerate(classes)}
    category = np.array([position.get(name, -1) for name in found_classes], np.int64)
    images: list[list[int]] = [[] for _ in classes]
    scores: list[list[float]] = [[] for _ in classes]
    hits: list[list[NDArray[np.bool_]]] = [[] for _ in classes]
    owners: list[list[int]] = [[] for _ in classes]
    for number, (image, detections) in enumerate(zip(truth, found, strict=True)):
        labels = category[detections.label] if len(detections) else np.zeros(0, np.int64)
        for label in {*labels[labels >= 0].tolist(), *image.label.tolist()}:
            mine = np.flatnonzero(labels == label)
            mine = mine[np.argsort(-detections.score[mine], kind="stable")][:MAX_DETECTIONS]
            real = image.xyxy[image.label == label]
            owners[label] += [number] * len(real)
            hits[label] += list(_hits(detections.xyxy[mine], real))
            images[label] += [number] * len(mine)
            scores[label] += detections.score[mine].tolist()
    result = []
    for label in range(len(classes)):
        order = np.argsort(-np.array(scores[label]), kind="stable")
        rows = np.array(hits[label], bool).reshape(-1, len(IOU_THRESHOLDS))
        result.append(_Class(np.array(images[label], np.int64)[order], rows[order], np.array(owners[label], np.int64)))
    return result


def _hits(boxes: NDArray[np.float32], real: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Shape (n, thresholds): by falling confidence each box takes the best free true one that overlaps enough."""
    result = np.zeros((len(boxes), len(IOU_THRESHOLDS)), bool)
    if not len(boxes) or not len(real):
        return result
    overlaps = _overlaps(boxes.astype(np.float64), real.astype(np.float64))
    for column, threshold in enumerate(np.minimum(IOU_THRESHOLDS, 1 - 1e-10)):
        free = np.ones(len(real), bool)
        for row in np.flatnonzero((overlaps >= threshold).any(axis=1)):
            open_ones = np.where(free, overlaps[row], -1.0)
            # Of equal overlaps the last: as COCO's own matching does.
            best = len(real) - 1 - int(np.argmax(open_ones[::-1]))
            if open_ones[best] >= threshold:
                free[best] = False
                result[row, column] = True
    return result


def _overlaps(boxes: NDArray[np.float64], real: NDArray[np.float64]) -> NDArray[np.float64]:
    left_top = np.maximum(boxes[:, None, :2], real[None, :, :2])
    right_bottom = np.minimum(boxes[:, None, 2:], real[None, :, 2:])
    common = np.clip(right_bottom - left_top, 0, None).prod(axis=2)
    areas = [(group[:, 2:] - group[:, :2]).prod(axis=1) for group in (boxes, real)]
    union = areas[0][:, None] + areas[1][None, :] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)
