"""The strategy `typical`: for a cold start, when no detector knows anything: one image of each kind."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from model.acquisition.base import (
    INFORMATIVENESS,
    Fitted,
    Ranked,
    RankingContext,
    in_task_order,
    require_columns,
    sorted_by_informativeness,
)
from model.acquisition.embedding import (
    LENGTH,
    Points,
    farthest_first,
    nearest,
    points_of,
    squared_distances_of,
)
from model.acquisition.hashing import uniform
from model.acquisition.whole_images import WholeImages, distance_from_centres, most_central

MOST_CLUSTERS = 1024
SAMPLE = 20_000
"""Images that the clusters are found on; the others only join them."""
ROUNDS = 10
_DECIMALS = 5


class Typical(WholeImages):
    """Cluster the embeddings of whole images, as many clusters as the budget; from each the image nearest its centre.

    Outliers, which `core_set` begins with, teach little as long as nothing is known. Larger clusters come first, and
    after the budget all others by how typical they are.

    Source: the idea is that of Hacohen et al., ICML 2022 (TypiClust); the clusters and the order are ours.
    """

    name = "typical"

    def rank(self, measurements: pl.DataFrame, context: RankingContext, labelled: pl.DataFrame | None = None) -> Ranked:
        """One image of each cluster first. Fitted: the centres of the clusters and their usual radius."""
        require_columns(measurements, ["embedding"])
        table = in_task_order(measurements)
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
        distance = distance_from_centres(measurements, fitted)
        if not fitted["centres"]:
            return pl.Series(INFORMATIVENESS, np.ones(measurements.height), pl.Float64)
        return pl.Series(INFORMATIVENESS, 1.0 / (1.0 + distance / fitted["radius"]), pl.Float64)


def _centres(points: Points, count: int) -> Points:
    """Means of at most `count` clusters (k-means, started farthest-first from the most typical point)."""
    first = most_central(points)
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
