"""The strategy `uncertainty`: label first what the detector is least sure about."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import polars as pl
from numpy.typing import NDArray

from model.acquisition.aggregation import Aggregation, aggregate
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
    require_columns,
    require_detections,
    sorted_by_informativeness,
)
from model.acquisition.class_weights import class_weights
from model.acquisition.uncertainty import MEASURES, Uncertainty
from model.detections import Detections
from model.detectors.base import View


class UncertaintySampling(OnePhase):
    """Uncertainty of each detection, times the weight of its class, aggregated over the image.

    Args:
        config: `uncertainty`, `aggregation`, `class_weights` and `empty_policy` apply.

    Source: Brust et al. 2019; weights before aggregation as in `docs/algorithms.md`.
    """

    name = "uncertainty"
    views: tuple[View, ...] = (View.ORIGINAL,)

    def __init__(self, config: StrategyConfig) -> None:
        self._measure = MEASURES[Uncertainty(config.uncertainty)]
        self._aggregation = Aggregation(config.aggregation)
        self._weighted = config.class_weights
        self._empty_value = EMPTY_VALUE[EmptyPolicy(config.empty_policy)]

    def columns(self, context: RankingContext) -> Columns:
        """`uncertainty` of the image, 0 without detections, and the number of its `boxes`."""
        return {"uncertainty": pl.Float64(), "boxes": pl.Float64()}

    def measure(self, task_id: int, detections: Mapping[View, Detections], context: RankingContext) -> Measurement:
        """See `columns`."""
        found = require_detections(task_id, detections[View.ORIGINAL], context)
        if len(found) == 0:
            return {"uncertainty": 0.0, "boxes": 0.0}
        values = self._measure(found.probs)
        if self._weighted:
            # The likeliest foreground class, not `label`: a box that survived under two classes is weighed alike twice.
            values = values * _weights(context.label_counts)[found.probs[:, :-1].argmax(axis=1)]
        return {"uncertainty": aggregate(values, self._aggregation), "boxes": float(len(found))}

    def rank(self, measurements: pl.DataFrame, context: RankingContext, labelled: pl.DataFrame | None = None) -> Ranked:
        """Most uncertain first; nothing has to be fitted."""
        return Ranked(sorted_by_informativeness(measurements, self.informativeness(measurements, context, {})), {})

    def informativeness(self, measurements: pl.DataFrame, context: RankingContext, fitted: Fitted) -> pl.Series:
        """The uncertainty of the image, or what the empty policy says."""
        require_columns(measurements, ["uncertainty", "boxes"])
        value = pl.when(pl.col("boxes") > 0).then(pl.col("uncertainty").cast(pl.Float64)).otherwise(self._empty_value)
        return measurements.select(value.alias(INFORMATIVENESS)).to_series()


@lru_cache(maxsize=8)
def _weights(label_counts: tuple[int, ...]) -> NDArray[np.float64]:
    """Remembered, because a shard asks with the same counts for each of its images."""
    return class_weights(label_counts)
