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
from model.acquisition.embedding import LENGTH, Points, nearest, points_of, squared_distances
from model.acquisition.hashing import uniform
from model.acquisition.whole_images import WholeImages, nearest_centres

MOST_CLUSTERS = 1024
SAMPLE = 20_000
"""Images that the clusters are found on; the others only join them."""
LEAST_SIZE = 5
"""Smaller clusters are outliers, unless half of the usual size is less. TypiClust's limit."""
ROUNDS = 10
MOST_REMOVALS = 4
TRIALS = 4
"""Points that each new cluster's start is chosen from."""
_DECIMALS = 5


class Typical(WholeImages):
    """Cluster the embeddings of whole images, as many clusters as the budget; from each the image nearest its centre.

    Outliers, which `core_set` begins with, teach little as long as nothing is known: what forms a tiny cluster is
    taken out, and the rest is clustered again. Larger clusters come first, and after the budget all others by how
    typical they are of their cluster.

    Source: the idea is that of Hacohen et al., ICML 2022 (TypiClust); the clusters and the order are ours.
    """

    name = "typical"

    def rank(self, measurements: pl.DataFrame, context: RankingContext, labelled: pl.DataFrame | None = None) -> Ranked:
        """One image of each cluster first. Fitted: the centres of the clusters and the usual radius of each."""
        require_columns(measurements, ["embedding"])
        table = in_task_order(measurements)
        points = points_of(table)
        if not len(points):
            return Ranked(sorted_by_informativeness(table, np.zeros(0)), {"centres": [], "radius": []})
        draws = uniform(table["task_id"].to_numpy(), context.seed)
        sample = points[np.sort(np.argsort(draws, kind="stable")[:SAMPLE])]
        centres = _centres_without_outliers(sample, min(context.budget, MOST_CLUSTERS), context.seed)
        distance, cluster = nearest(points, centres)
        fitted: Fitted = {
            "centres": np.round(centres.astype(np.float64), _DECIMALS).tolist(),
            "radius": _radii(distance, cluster, len(centres)).tolist(),
        }
        values = self.informativeness(table, context, fitted).to_numpy().copy()
        sizes = np.bincount(cluster, minlength=len(centres))
        order = np.lexsort((distance, cluster))
        firsts = order[np.unique(cluster[order], return_index=True)[1]]
        values[firsts] = 1.0 + sizes[cluster[firsts]] / len(points)
        return Ranked(sorted_by_informativeness(table, values), fitted)

    def informativeness(self, measurements: pl.DataFrame, context: RankingContext, fitted: Fitted) -> pl.Series:
        """In (0, 1], highest in the middle of a cluster; above 1 for the ranking's first images of their clusters.

        Distances count relative to the radius of the cluster: else the narrowest one would come as a whole.
        """
        distance, cluster = nearest_centres(measurements, fitted)
        if not fitted["centres"]:
            return pl.Series(INFORMATIVENESS, np.ones(measurements.height), pl.Float64)
        # Rankings of former releases have one radius for all.
        radius = np.broadcast_to(np.asarray(fitted["radius"], np.float64), len(fitted["centres"]))
        return pl.Series(INFORMATIVENESS, 1.0 / (1.0 + distance / radius[cluster]), pl.Float64)


def _radii(distance: Points, cluster: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """Root of the mean square of each cluster; that of all where its images are equal, or only one."""
    squares = distance.astype(np.float64)
    sizes = np.bincount(cluster, minlength=count)
    radii = np.sqrt(np.bincount(cluster, squares, count) / np.maximum(sizes, 1))
    usual = float(np.sqrt(squares.mean())) or 1.0
    return np.where(radii > 0, radii, usual)


def _centres_without_outliers(points: Points, count: int, seed: int) -> Points:
    """Means of at most `count` clusters, none of which is tiny if that can be had."""
    outliers: list[Points] = []
    centres = _centres(points, count, seed)
    for _ in range(MOST_REMOVALS):
        _, cluster = nearest(points, centres)
        sizes = np.bincount(cluster, minlength=len(centres))
        tiny = sizes < min(LEAST_SIZE, len(points) / (2 * len(centres)))
        if not tiny[cluster].any():
            break
        outliers.append(centres[tiny])
        points = points[~tiny[cluster]]
        centres = _centres(points, count, seed)
    # Still better than the copies of what has a place.
    return np.concatenate([centres, *outliers])[:count]


def _centres(points: Points, count: int, seed: int) -> Points:
    """Means of at most `count` clusters (k-means)."""
    centres = points[_starts(points, count, seed)]
    for _ in range(ROUNDS):
        _, cluster = nearest(points, centres)
        moved = _means(points, cluster, centres)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def _starts(points: Points, count: int, seed: int) -> list[int]:
    """Positions of at most `count` different points, each drawn in proportion to its squared distance from the others.

    Of a few that are drawn the one that brings all points nearest is taken, which is seldom an outlier; the farthest
    point always is one.

    Source: Arthur and Vassilvitskii, SODA 2007 (k-means++, with the trials that its authors recommend).
    """
    draws = uniform(np.arange(count * TRIALS), seed).reshape(count, TRIALS)
    apart: Points = np.ones(len(points), np.float32)
    starts: list[int] = []
    for row in draws:
        reached = np.cumsum(apart, dtype=np.float64)
        if reached[-1] <= 0:
            break
        trials = np.minimum(np.searchsorted(reached, row * reached[-1], side="right"), len(points) - 1)
        left = squared_distances(points, points[trials])
        if starts:
            np.minimum(left, apart[:, None], out=left)
        best = int(left.sum(axis=0, dtype=np.float64).argmin())
        starts.append(int(trials[best]))
        apart = left[:, best]
    return starts


def _means(points: Points, cluster: NDArray[np.int64], centres: Points) -> Points:
    sizes = np.bincount(cluster, minlength=len(centres))
    sums = np.zeros((len(centres), LENGTH), np.float64)
    np.add.at(sums, cluster, points)
    means = np.divide(sums, sizes[:, None], out=centres.astype(np.float64), where=sizes[:, None] > 0)
    return means.astype(np.float32)
