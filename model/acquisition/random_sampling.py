"""The strategy `random`: the baseline that every other one has to beat."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from model.acquisition.base import (
    INFORMATIVENESS,
    RankingContext,
    StrategyConfig,
    require_columns,
    sorted_by_informativeness,
)
from model.acquisition.hashing import uniform
from model.detections import Detections
from model.detectors.base import View


class RandomSampling:
    """A shuffle by the context's seed; images without detections are shuffled like all others.

    Args:
        config: only its name applies.
    """

    name = "random"
    views: tuple[View, ...] = ()

    def __init__(self, config: StrategyConfig) -> None:
        self._config = config

    def measure(self, task_id: int, detections: Mapping[View, Detections], context: RankingContext) -> dict[str, float]:
        """Nothing: chance needs no measurement, and `detections` may be empty."""
        return {}

    def informativeness(self, measurements: pl.DataFrame, context: RankingContext) -> pl.Series:
        """In [0, 1), by the task's id and the seed alone."""
        require_columns(measurements, ["task_id"])
        return pl.Series(INFORMATIVENESS, uniform(measurements["task_id"].cast(pl.Int64).to_numpy(), context.seed))

    def rank(self, measurements: pl.DataFrame, context: RankingContext) -> pl.DataFrame:
        """Shuffled, ties by task id ascending."""
        return sorted_by_informativeness(measurements, self.informativeness(measurements, context))
