"""Order scores: what Label Studio gets. The one place where "higher is more informative" turns round."""

from __future__ import annotations

import math
from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

_STEPS = 1024
_IDS = 2**20


def order_scores(n: int) -> NDArray[np.float64]:
    """Scores of a ranking of `n` tasks, most informative first.

    Returns:
        Shape (n,), `(rank + 0.5) / n`: ascending, unique, strictly inside (0, 1); 0 means label first.

    Raises:
        ValueError: `n` is negative.
    """
    if n < 0:
        raise ValueError(f"a ranking has {n} tasks, expected 0 or more")
    return (np.arange(n, dtype=np.float64) + 0.5) / max(n, 1)


def place(value: float, task_id: int, ranked_values: NDArray[np.float64], ranked_scores: NDArray[np.float64]) -> float:
    """Order score of a task that came after the ranking, by where its informativeness falls in it.

    The score lies strictly between those of the ranked neighbours; after ranked tasks of the same informativeness.
    For one task it never rises with the value. Several new tasks between the same neighbours are sorted by
    informativeness in 1024 steps and by task id within a step, so that they rarely share a score.

    Args:
        value: informativeness by the strategy and version of the ranking, finite.
        task_id: of the new task.
        ranked_values: shape (n,), informativeness of the ranked tasks, descending; n may be 0.
        ranked_scores: shape (n,), their order scores, ascending, strictly inside (0, 1).

    Returns:
        Strictly inside (0, 1); 0 means label first.

    Raises:
        ValueError: the value is not finite, or the two arrays are not of one length.
    """
    if not math.isfinite(value):
        raise ValueError(f"task {task_id}: informativeness is {value}, expected a finite number")
    if len(ranked_values) != len(ranked_scores):
        raise ValueError(f"{len(ranked_values)} ranked values, but {len(ranked_scores)} ranked scores")
    rank = bisect_right(ranked_values, -value, key=lambda other: -float(other))
    above = float(ranked_values[rank - 1]) if rank > 0 else None
    below = float(ranked_values[rank]) if rank < len(ranked_values) else None
    low = float(ranked_scores[rank - 1]) if rank > 0 else 0.0
    high = float(ranked_scores[rank]) if rank < len(ranked_scores) else 1.0

    step = min(int(_descent(value, above, below) * _STEPS), _STEPS - 1)
    fraction = (step + (task_id % _IDS + 0.5) / _IDS) / _STEPS
    score = low + (high - low) * fraction
    return min(max(score, math.nextafter(0.0, 1.0)), math.nextafter(1.0, 0.0))


def _descent(value: float, above: float | None, below: float | None) -> float:
    """How far `value` has come down from the neighbour above to the one below, in [0, 1]."""
    if above is not None and below is not None:
        # Halves, so that the difference of two huge numbers stays finite.
        span = above / 2 - below / 2
        return (above / 2 - value / 2) / span if span > 0 else 0.0  # half of the smallest number is 0
    if above is not None:
        return _saturating(above - value)
    if below is not None:
        return 1.0 - _saturating(value - below)
    return 0.5 - 0.5 * math.copysign(_saturating(abs(value)), value)


def _saturating(distance: float) -> float:
    """From [0, inf] to [0, 1], rising."""
    return 1.0 - 1.0 / (1.0 + distance)
