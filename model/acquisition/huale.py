"""The strategy `huale`: retrieve by entropy, then rank the few candidates by four metrics of two views."""

from __future__ import annotations

import math
from collections.abc import Mapping

import polars as pl

from model.acquisition.aggregation import Aggregation, aggregate
from model.acquisition.base import (
    EMPTY_VALUE,
    INFORMATIVENESS,
    Columns,
    EmptyPolicy,
    Fitted,
    Measurement,
    Ranked,
    RankingContext,
    StrategyConfig,
    first_by,
    in_task_order,
    require_columns,
    require_detections,
    robust_ranges,
    sorted_by_informativeness,
)
from model.acquisition.config import CategoryDiversity
from model.acquisition.huale_metrics import (
    category_diversity,
    localization_confidence,
    overlap_ratio,
    semantic_affinity,
    strongest,
)
from model.acquisition.uncertainty import entropy
from model.detections import Detections
from model.detectors.base import View

METRICS = ("semantic_affinity", "category_diversity", "overlap_ratio", "localization_confidence")
RETRIEVAL = 4.0
"""Candidates as a multiple of the budget; the publication does not say, this is PPAL's."""
_SAME = 1e-6
"""What float32 leaves of a metric that is the same for all candidates; stretched, it would decide their order."""


class Huale:
    """The images with the highest entropy come first; among them the length of the vector of metrics decides.

    Args:
        config: `retrieval`, `empty_policy` and what begins with `huale_` apply.

    Source: Nguyen et al., IEEE Big Data 2023; what they leave open is ours (`docs/algorithms.md`).
    """

    name = "huale"
    views: tuple[View, ...] = (View.ORIGINAL,)
    candidate_views: tuple[View, ...] = (View.ORIGINAL, View.HFLIP)
    uses_labelled = False
    needs_novelty = False

    def __init__(self, config: StrategyConfig) -> None:
        self._config = config
        self._aggregation = Aggregation(config.huale_entropy)
        self._category = CategoryDiversity(config.huale_category)
        self._empty_value = EMPTY_VALUE[EmptyPolicy(config.empty_policy)]

    def columns(self, context: RankingContext) -> Columns:
        """`entropy` of the image in nats, and the number of its `boxes`."""
        return {"entropy": pl.Float64(), "boxes": pl.Float64()}

    def candidate_columns(self, context: RankingContext) -> Columns:
        """The four metrics."""
        return dict.fromkeys(METRICS, pl.Float64())

    def measure(self, task_id: int, detections: Mapping[View, Detections], context: RankingContext) -> Measurement:
        """See `columns`; the entropy of an image without detections is 0."""
        found = strongest(require_detections(task_id, detections[View.ORIGINAL], context))
        value = aggregate(entropy(found.probs), self._aggregation)
        return {"entropy": value, "boxes": float(len(found))}

    def candidates(self, measurements: pl.DataFrame, context: RankingContext) -> list[int]:
        """Those with the highest entropy of the images that have a box."""
        require_columns(measurements, ["entropy", "boxes"])
        seen = measurements.filter(pl.col("boxes") > 0)
        return first_by(seen, "entropy", self._config.candidates(context.budget, RETRIEVAL))

    def measure_candidate(
        self, task_id: int, detections: Mapping[View, Detections], context: RankingContext
    ) -> Measurement:
        """See `candidate_columns`."""
        original, other = (strongest(require_detections(task_id, detections[v], context)) for v in self.candidate_views)
        return {
            "semantic_affinity": semantic_affinity(original, other),
            "category_diversity": category_diversity(original, other, self._category),
            "overlap_ratio": overlap_ratio(original),
            "localization_confidence": localization_confidence(original, other),
        }

    def rank(self, measurements: pl.DataFrame, context: RankingContext, labelled: pl.DataFrame | None = None) -> Ranked:
        """Candidates first. Fitted: the range of every metric among them, and the entropy that made them so."""
        measurements = in_task_order(measurements)
        require_columns(measurements, [*METRICS, "entropy"], nullable=True)
        looked_at = measurements.filter(pl.col(METRICS[0]).is_not_null() & (pl.col("boxes") > 0))
        low, high = robust_ranges(looked_at.select(METRICS).to_numpy(), _SAME)
        least = looked_at["entropy"].min() if looked_at.height else 0.0
        fitted: Fitted = {"least_entropy": least, "low": low, "high": high}
        return Ranked(
            sorted_by_informativeness(measurements, self.informativeness(measurements, context, fitted)), fitted
        )

    def informativeness(self, measurements: pl.DataFrame, context: RankingContext, fitted: Fitted) -> pl.Series:
        """In [1, 2] for candidates: 1 plus `sqrt(sum |w| d^2 / sum |w|)`; in [0, 1), by entropy, for others with boxes.

        Images without a box in the original view have the `EMPTY_VALUE` of `empty_policy`: what the mirrored view
        alone sees is mostly a weak box on nothing, and would be the greatest contradiction of all.
        """
        require_columns(measurements, ["entropy", "boxes"])
        require_columns(measurements, METRICS, nullable=True)
        weights = self._config.huale_weights
        squares = pl.lit(0.0)
        for name, low, high, weight in zip(METRICS, fitted["low"], fitted["high"], weights, strict=True):
            if weight and high - low > _SAME:
                scaled = ((pl.col(name) - low) / (high - low)).clip(0.0, 1.0)
                squares += abs(weight) * (scaled if weight > 0 else 1.0 - scaled) ** 2
        length = (squares / math.fsum(map(abs, weights))).sqrt()
        candidate = pl.col(METRICS[0]).is_not_null() & (pl.col("entropy") >= fitted["least_entropy"])
        value = (
            pl.when(pl.col("boxes") == 0)
            .then(self._empty_value)
            .when(candidate)
            .then(1.0 + length)
            .otherwise(pl.col("entropy") / (1.0 + pl.col("entropy")))
        )
        return measurements.select(value.cast(pl.Float64).alias(INFORMATIVENESS)).to_series()
