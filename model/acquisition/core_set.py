"""The strategy `core_set`: label what is least like anything that is labelled or chosen already."""

from __future__ import annotations

from collections.abc import Mapping

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
    require_detections,
    require_tasks,
    sorted_by_informativeness,
)
from model.acquisition.embedding import (
    EMBEDDING,
    LENGTH,
    Points,
    farthest_first,
    image_embedding,
    nearest,
    points_of,
    squared_distances,
    squared_distances_of,
)
from model.detections import Detections
from model.detectors.base import View

MOST_CENTRES = 512
"""Embeddings that a ranking keeps to place later images; of more, those that cover the rest best."""
_DECIMALS = 4


class CoreSet(OnePhase):
    """Farthest-first over the embeddings of whole images, started from the labelled ones.

    An image's informativeness is its distance from the nearest image that is labelled or was chosen before it; for
    the budget's images at the time of their choice, for all others after it. Images without detections are treated
    like all others. Without a labelled image it begins with the one nearest to the mean.

    Args:
        config: only its name applies.

    Source: Sener and Savarese, ICLR 2018 (the greedy version).
    """

    name = "core_set"
    views: tuple[View, ...] = (View.ORIGINAL,)
    uses_labelled = True

    def __init__(self, config: StrategyConfig) -> None:
        self._config = config

    def columns(self, context: RankingContext) -> Columns:
        """The `embedding` of the image."""
        return {"embedding": EMBEDDING}

    def measure(self, task_id: int, detections: Mapping[View, Detections], context: RankingContext) -> Measurement:
        """See `columns`."""
        found = require_detections(task_id, detections[View.ORIGINAL], context)
        return {"embedding": image_embedding(task_id, found)}

    def rank(self, measurements: pl.DataFrame, context: RankingContext, labelled: pl.DataFrame | None = None) -> Ranked:
        """The budget's images in the order of their choice, then by distance. Fitted: centres that cover the rest."""
        require_columns(measurements, ["embedding"])
        require_tasks(measurements)
        table = measurements.sort("task_id")
        points, known = points_of(table), points_of(labelled)
        covered, _ = nearest(points, known)
        first = int(squared_distances(points, points.mean(axis=0, keepdims=True)).argmin()) if len(points) else 0

        chosen, radii = farthest_first(covered, squared_distances_of(points), context.budget, first=first)
        centres = np.concatenate([points[chosen], known])
        left = np.minimum(covered, nearest(points, points[chosen])[0])
        values = np.sqrt(left.astype(np.float64))
        # No other image is farther from the first than this.
        values[chosen] = [np.sqrt(radius) if np.isfinite(radius) else 2.0 for radius in radii]
        fitted: Fitted = {"centres": np.round(_thinned(centres), _DECIMALS).tolist()}
        return Ranked(sorted_by_informativeness(table, values), fitted)

    def informativeness(self, measurements: pl.DataFrame, context: RankingContext, fitted: Fitted) -> pl.Series:
        """Distance from the nearest centre, in [0, 2]; 2 where there is none."""
        require_columns(measurements, ["embedding"])
        centres = np.asarray(fitted["centres"], np.float32).reshape(-1, LENGTH)
        distance = np.sqrt(nearest(points_of(measurements), centres)[0].astype(np.float64))
        return pl.Series(INFORMATIVENESS, np.minimum(distance, 2.0), pl.Float64)


def _thinned(centres: Points) -> list[list[float]]:
    """At most `MOST_CENTRES` of the centres, spread over all of them."""
    if len(centres) > MOST_CENTRES:
        nothing = np.full(len(centres), np.inf, np.float32)
        kept, _ = farthest_first(nothing, squared_distances_of(centres), MOST_CENTRES)
        centres = centres[sorted(kept)]
    result: list[list[float]] = centres.astype(np.float64).tolist()
    return result
