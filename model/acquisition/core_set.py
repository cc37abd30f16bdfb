"""The strategy `core_set`: label what is least like anything that is labelled or chosen already."""

from __future__ import annotations

import numpy as np
import polars as pl

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
    Points,
    farthest_first,
    nearest,
    points_of,
    squared_distances_of,
)
from model.acquisition.whole_images import WholeImages, most_central, nearest_centres

MOST_CENTRES = 512
"""Embeddings that a ranking keeps to place later images; of more, those that cover the rest best."""
_DECIMALS = 4


class CoreSet(WholeImages):
    """Farthest-first over the embeddings of whole images, started from the labelled ones.

    An image's informativeness is its distance from the nearest image that is labelled or was chosen before it; for
    the budget's images at the time of their choice, for all others after it. Images without detections are treated
    like all others. Without a labelled image it begins with the one nearest to the mean.

    Source: Sener and Savarese, ICLR 2018 (the greedy version).
    """

    name = "core_set"
    uses_labelled = True

    def rank(self, measurements: pl.DataFrame, context: RankingContext, labelled: pl.DataFrame | None = None) -> Ranked:
        """The budget's images in the order of their choice, then by distance. Fitted: centres that cover the rest."""
        require_columns(measurements, ["embedding"])
        table = in_task_order(measurements)
        points, known = points_of(table), points_of(labelled)
        covered, _ = nearest(points, known)
        first = most_central(points) if len(points) else 0

        chosen, radii = farthest_first(covered, squared_distances_of(points), context.budget, first=first)
        centres = np.concatenate([points[chosen], known])
        left = np.minimum(covered, nearest(points, points[chosen])[0])
        values = np.sqrt(left.astype(np.float64))
        # No other image is farther from the first than this.
        values[chosen] = [np.sqrt(radius) if np.isfinite(radius) else 2.0 for radius in radii]
        place = np.full(len(values), len(chosen))
        place[chosen] = np.arange(len(chosen))
        if chosen:
            # Beyond rounding, which would put an image before one that was chosen instead of it.
            values = np.where(place < len(chosen), values, np.minimum(values, values[chosen[-1]]))
        fitted: Fitted = {"centres": np.round(_thinned(centres), _DECIMALS).tolist()}
        ranked = sorted_by_informativeness(table.with_columns(place=pl.Series(place)), values)
        return Ranked(ranked.sort("place", maintain_order=True).drop("place"), fitted)

    def informativeness(self, measurements: pl.DataFrame, context: RankingContext, fitted: Fitted) -> pl.Series:
        """Distance from the nearest centre, in [0, 2]; 2 where there is none."""
        distance, _ = nearest_centres(measurements, fitted)
        return pl.Series(INFORMATIVENESS, np.minimum(distance, 2.0), pl.Float64)


def _thinned(centres: Points) -> list[list[float]]:
    """At most `MOST_CENTRES` of the centres, spread over all of them."""
    if len(centres) > MOST_CENTRES:
        nothing = np.full(len(centres), np.inf, np.float32)
        kept, _ = farthest_first(nothing, squared_distances_of(centres), MOST_CENTRES)
        centres = centres[sorted(kept)]
    result: list[list[float]] = centres.astype(np.float64).tolist()
    return result
