"""The strategy `typical`: for a cold start, when no detector knows anything: one image of each kind."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray

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
from model.acquisition.hashing import uniform
from model.detections import Detections
from model.detectors.base import View

MOST_CLUSTERS = 1024
SAMPLE = 20_000
"""Images that the clusters are found on; the others only join them."""
ROUNDS = 10
_DECIMALS = 5


class Typical(OnePhase):
    """Cluster the embeddings of whole images, as many clusters as the budget; from each the image nearest its centre.

    Outliers, which `core_set` begins with, teach little as long as nothing is known. Larger clusters come first, and
    after the budget all others by how typical they are.

    Args:
        config: only its name applies.

    Source: the idea is that of Hacohen et al., ICML 2022 (TypiClust); the clusters and the order are ours.
    """

    name = "typical"
    views: tuple[View, ...] = (View.ORIGINAL,)

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
        """One image of each cluster first. Fitted: the centres of the clusters and their usual radius."""
        require_columns(measurements, ["embedding"])
        require_tasks(measurements)
        table = measurements.sort("task_id")
        points = points_of(table)
        if not len(points):
            return Ranked(sorted_by_informativeness(table, np.zeros(0)), {"centres": [], "radius": 1.0})
        draws = uniform(table["task_id"].to_numpy(), context.seed)
        sample = points[np.sort(np.argsort(draws, kind="stable")[:SAMPLE])]
        centres = _centres(sample, min(context.budget, MOST_CLUSTERS))
        distance, cluster = nearest(points, centres)
        radius = float(np.sqrt(distance.mean(dtype=np.float64))) or 1.0
        fitted: Fitted = {"centres": np.round(centres.astype(np.float64), _DECIMALS).tolist(), "radius": radius}
        values = self.informativeness(table, context, fitted).to_numpy().copy()
        sizes = np.bincount(cluster, minlength=len(centres))
        order = np.lexsort((distance, cluster))
        firsts = order[np.unique(cluster[order], return_index=True)[1]]
        values[firsts] = 1.0 + sizes[cluster[firsts]] / len(points)
        return Ranked(sorted_by_informativeness(table, values), fitted)

    def informativeness(self, measurements: pl.DataFrame, context: RankingContext, fitted: Fitted) -> pl.Series:
        """In (0, 1], highest in the middle of a cluster; above 1 for the ranking's first images of their clusters."""
        require_columns(measurements, ["embedding"])
        centres = np.asarray(fitted["centres"], np.float32).reshape(-1, LENGTH)
        if not len(centres):
            return pl.Series(INFORMATIVENESS, np.ones(measurements.height), pl.Float64)
        distance = np.sqrt(nearest(points_of(measurements), centres)[0].astype(np.float64))
        return pl.Series(INFORMATIVENESS, 1.0 / (1.0 + distance / fitted["radius"]), pl.Float64)


def _centres(points: Points, count: int) -> Points:
    """Means of at most `count` clusters (k-means, started farthest-first from the most typical point)."""
    first = int(squared_distances(points, points.mean(axis=0, keepdims=True)).argmin())
    apart = np.full(len(points), np.inf, np.float32)
    starts, radii = farthest_first(apart, squared_distances_of(points), count, first=first)
    centres = points[[start for start, radius in zip(starts, radii, strict=True) if radius > 0]]
    for _ in range(ROUNDS):
        _, cluster = nearest(points, centres)
        moved = _means(points, cluster, centres)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def _means(points: Points, cluster: NDArray[np.int64], centres: Points) -> Points:
    sizes = np.bincount(cluster, minlength=len(centres))
    sums = np.zeros((len(centres), LENGTH), np.float64)
    np.add.at(sums, cluster, points)
    means = np.divide(sums, sizes[:, None], out=centres.astype(np.float64), where=sizes[:, None] > 0)
    return means.astype(np.float32)
