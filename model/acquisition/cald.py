"""The strategy `cald`: images on which the views agree least well, of these the ones with the rarest classes first."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray

from model.acquisition.base import (
    EMPTY_VALUE,
    INFORMATIVENESS,
    Columns,
    EmptyPolicy,
    Fitted,
    Measurement,
    OnePhase,
    Ranked,
    RankingContext,
    StrategyConfig,
    in_task_order,
    require_columns,
    require_detections,
    sorted_by_informativeness,
)
from model.acquisition.divergence import LARGEST, jensen_shannon
from model.acquisition.geometry import iou
from model.detections import Detections
from model.detectors.base import View

RETRIEVAL = 1.2
"""Candidates of the second stage as a multiple of the budget; CALD's `-mr`."""


class Cald(OnePhase):
    """Consistency under augmentation retrieves, difference from the labelled classes ranks.

    As the published code does by default, each image of the pool is also seen mirrored, with holes, smaller and turned.

    Args:
        config: `retrieval`, `empty_policy` and `cald_beta` apply.

    Source: Yu et al., CVPRW 2022, and its code; where we leave it, `docs/algorithms.md` says why.
    """

    name = "cald"
    views: tuple[View, ...] = (View.ORIGINAL, View.HFLIP, View.HOLES, View.SMALLER, View.TURNED)

    def __init__(self, config: StrategyConfig) -> None:
        self._config = config
        self._empty_value = EMPTY_VALUE[EmptyPolicy(config.empty_policy)]

    def columns(self, context: RankingContext) -> Columns:
        """`consistency` (0 most informative), `novelty` of the classes, and how many `boxes` all views have."""
        return dict.fromkeys(("consistency", "novelty", "boxes"), pl.Float64())

    def measure(self, task_id: int, detections: Mapping[View, Detections], context: RankingContext) -> Measurement:
        """See `columns`; without a box in any view the first two are 0."""
        found = {view: require_detections(task_id, detections[view], context) for view in self.views}
        others = [consistency(found[View.ORIGINAL], found[view], self._config.cald_beta) for view in self.views[1:]]
        return {
            "consistency": float(np.mean(others)),
            "novelty": novelty(list(found.values()), context.label_counts),
            "boxes": float(sum(map(len, found.values()))),
        }

    def rank(self, measurements: pl.DataFrame, context: RankingContext, labelled: pl.DataFrame | None = None) -> Ranked:
        """The least consistent first, sorted by novelty. Fitted: the consistency up to which they belong to these."""
        measurements = in_task_order(measurements)
        require_columns(measurements, self.columns(context))
        lowest = measurements.filter(pl.col("boxes") > 0)["consistency"].sort()
        wanted = self._config.candidates(context.budget, RETRIEVAL)
        limit = float(lowest[min(wanted, len(lowest)) - 1]) if len(lowest) else 0.0
        fitted: Fitted = {"candidates_up_to": limit}
        return Ranked(
            sorted_by_informativeness(measurements, self.informativeness(measurements, context, fitted)), fitted
        )

    def informativeness(self, measurements: pl.DataFrame, context: RankingContext, fitted: Fitted) -> pl.Series:
        """In [1, 2] for candidates, 1 plus the novelty; in (0, 1], by consistency, for others with boxes.

        With one class nothing is novel, and all with boxes are sorted by consistency. Images without a box in any view
        have the `EMPTY_VALUE` of `empty_policy`.
        """
        require_columns(measurements, self.columns(context))
        by_novelty = len(context.label_counts) > 1
        value = (
            pl.when(pl.col("boxes") == 0)
            .then(self._empty_value)
            .when(pl.lit(by_novelty) & (pl.col("consistency") <= fitted["candidates_up_to"]))
            .then(1.0 + pl.col("novelty"))
            .otherwise(1.0 / (1.0 + pl.col("consistency")))
        )
        return measurements.select(value.cast(pl.Float64).alias(INFORMATIVENESS)).to_series()


def consistency(original: Detections, other: Detections, beta: float = 1.3) -> float:
    """How far the least consistent box is from `beta`, where predictions are neither the same nor unrelated.

    For each box of the original view and the box of the other view with the largest IoU:
    `m = IoU + (1 - JS) * (s + s') / 2`, with the divergence of the rows in nats, background included, and `s` the
    largest foreground probability. The result is `min |m - beta|`.

    Returns:
        In [0, 2]; lower is more informative. 0.0 when a view has no box.

    Source: Yu et al., CVPRW 2022, and its code. Their code takes 50 of more than 40 boxes; this takes all.
    """
    if not len(original) or not len(other):
        return 0.0
    overlaps = iou(original.xyxy, other.xyxy)
    best = overlaps.argmax(axis=1)
    scores = original.probs[:, :-1].max(axis=1).astype(np.float64), other.probs[best, :-1].max(axis=1)
    agreement = 1.0 - jensen_shannon(original.probs, other.probs[best])
    measure = overlaps.max(axis=1) + agreement * (scores[0] + scores[1]) / 2
    return float(np.abs(measure - beta).min())


def novelty(views: list[Detections], label_counts: tuple[int, ...]) -> float:
    """How far the classes seen in an image are from those that are labelled, in [0, 1].

    Jensen-Shannon divergence, divided by ln 2, of the largest score per class, averaged over the views, and the label
    counts plus one. Both are divided by their sums: the softmax over raw counts that CALD's code has puts everything
    on the largest class from a few dozen labels on.
    """
    seen = np.zeros(len(label_counts))
    for detections in views:
        seen += _largest_score(detections, len(label_counts)) / len(views)
    if seen.sum() <= 0:
        return 0.0
    labelled = np.asarray(label_counts, np.float64) + 1.0
    return float(jensen_shannon((seen / seen.sum())[None], (labelled / labelled.sum())[None])[0] / LARGEST)


def _largest_score(detections: Detections, classes: int) -> NDArray[np.float64]:
    result = np.zeros(classes)
    np.maximum.at(result, detections.label, detections.score.astype(np.float64))
    return result
