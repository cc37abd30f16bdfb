"""The strategy `random`: the baseline that every other one has to beat; and the random part of a large pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from model.acquisition.base import (
    INFORMATIVENESS,
    Columns,
    Fitted,
    Measurement,
    OnePhase,
    Ranked,
    RankingContext,
    StrategyConfig,
    require_columns,
    sorted_by_informativeness,
)
from model.acquisition.hashing import uniform
from model.detections import Detections
from model.detectors.base import View


class RandomSampling(OnePhase):
    """A shuffle by the context's seed; images without detections are shuffled like all others.

    Args:
        config: only its name applies.
    """

    name = "random"
    views: tuple[View, ...] = ()

    def __init__(self, config: StrategyConfig) -> None:
        self._config = config

    def columns(self, context: RankingContext) -> Columns:
        """None: chance needs no measurement."""
        return {}

    def measure(self, task_id: int, detections: Mapping[View, Detections], context: RankingContext) -> Measurement:
        """Nothing, and `detections` may be empty."""
        return {}

    def rank(self, measurements: pl.DataFrame, context: RankingContext, labelled: pl.DataFrame | None = None) -> Ranked:
        """Shuffled; nothing has to be fitted."""
        return Ranked(sorted_by_informativeness(measurements, self.informativeness(measurements, context, {})), {})

    def informativeness(self, measurements: pl.DataFrame, context: RankingContext, fitted: Fitted) -> pl.Series:
        """In [0, 1), by the task's id and the seed alone."""
        require_columns(measurements, ["task_id"])
        return pl.Series(INFORMATIVENESS, uniform(measurements["task_id"].cast(pl.Int64).to_numpy(), context.seed))


def draw_pool(tasks: Sequence[int], size: int, seed: int) -> list[int]:
    """The pooling step: a random subset of a pool that is too large to be measured.

    Args:
        tasks: ids of the pool, in any order.
        size: of the subset; 0, and any size from that of the pool on, takes everything.
        seed: another one draws another subset.

    Returns:
        Ids, the same for the same tasks and seed.
    """
    if not size or size >= len(tasks):
        return list(tasks)
    chosen = np.random.default_rng(seed).choice(np.sort(np.asarray(tasks, np.int64)), size=size, replace=False)
    return [int(task) for task in chosen]
