"""The strategy `al_vae`: what an autoencoder of the labelled images cannot redraw, and what the detector doubts."""

from __future__ import annotations

import math
from collections.abc import Mapping

import polars as pl

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
    robust_ranges,
    sorted_by_informativeness,
)
from model.acquisition.detection_loss import expected_detection_loss
from model.detections import Detections
from model.detectors.base import View

PARTS = ("novelty", "detection_loss")
_SAME = 1e-9


class AlVae(OnePhase):
    """`alpha` times the novelty plus `beta` times the detection loss, both relative to the pool.

    Needs detections that carry a novelty (`novelty.NoveltyDetector`), unless `alpha` is 0. Images without detections
    in either view go where `empty_policy` says: they have no detection loss, and with objects as regions no novelty.

    Args:
        config: `vae_alpha`, `vae_beta` and `empty_policy` apply.

    Source: the sum is that of AL-VAE (Ardakanian), which does not say what its detection loss is without labels;
    that, the normalisation and the defaults of both weights are ours.
    """

    name = "al_vae"
    views: tuple[View, ...] = (View.ORIGINAL, View.HFLIP)

    def __init__(self, config: StrategyConfig) -> None:
        self._weights = (config.vae_alpha, config.vae_beta)
        self._empty_value = EMPTY_VALUE[EmptyPolicy(config.empty_policy)]
        self.needs_novelty = config.vae_alpha > 0

    def columns(self, context: RankingContext) -> Columns:
        """`novelty` (0 where its weight is 0), `detection_loss`, and how many `boxes` both views have together."""
        return dict.fromkeys((*PARTS, "boxes"), pl.Float64())

    def measure(self, task_id: int, detections: Mapping[View, Detections], context: RankingContext) -> Measurement:
        """See `columns`.

        Raises:
            ValueError: as all strategies, or the detections carry no novelty that is finite.
        """
        original, other = (require_detections(task_id, detections[view], context) for view in self.views)
        novelty = original.novelty if self.needs_novelty else 0.0
        if novelty is None:
            raise ValueError(
                f"task {task_id}: the detections carry no novelty, which al_vae needs; train a version with this "
                "strategy, so that it has an autoencoder, or set vae_alpha to 0 to rank by the detection loss alone"
            )
        if not math.isfinite(novelty):
            raise ValueError(f"task {task_id}: the novelty is {novelty}; the autoencoder's weights are damaged")
        loss = expected_detection_loss(original, other).total if len(original) + len(other) else 0.0
        return {"novelty": float(novelty), "detection_loss": loss, "boxes": float(len(original) + len(other))}

    def rank(self, measurements: pl.DataFrame, context: RankingContext, labelled: pl.DataFrame | None = None) -> Ranked:
        """Descending sum. Fitted: the `robust_ranges` of both parts, over images with detections."""
        measurements = in_task_order(measurements)
        require_columns(measurements, [*PARTS, "boxes"])
        seen = measurements.filter(pl.col("boxes") > 0).select(PARTS)
        low, high = robust_ranges(seen.to_numpy(), _SAME)
        fitted: Fitted = {"low": low, "high": high}
        return Ranked(
            sorted_by_informativeness(measurements, self.informativeness(measurements, context, fitted)), fitted
        )

    def informativeness(self, measurements: pl.DataFrame, context: RankingContext, fitted: Fitted) -> pl.Series:
        """At least 0: the weighted sum of both parts, 0 and 1 being the fitted ends of their ranges.

        What lies above the upper one gets more than 1, so that the most unusual images, which are asked about
        first, keep an order of their own.
        """
        require_columns(measurements, [*PARTS, "boxes"])
        total = pl.lit(0.0)
        for name, low, high, weight in zip(PARTS, fitted["low"], fitted["high"], self._weights, strict=True):
            if weight and high - low > _SAME:
                total += weight * ((pl.col(name) - low) / (high - low)).clip(lower_bound=0.0)
        value = pl.when(pl.col("boxes") > 0).then(total).otherwise(self._empty_value)
        return measurements.select(value.cast(pl.Float64).alias(INFORMATIVENESS)).to_series()
