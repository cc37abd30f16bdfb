"""Random numbers that belong to a task: the same in whatever order, shard or process they are asked for."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def uniform(task_ids: ArrayLike, seed: int) -> NDArray[np.float64]:
    """One number in [0, 1) per task, evenly spread, a function of the task's id and the seed alone.

    Args:
        task_ids: shape (n,), integers; n may be 0.
        seed: any integer; another one gives independent numbers.

    Returns:
        Shape (n,), multiples of 2^-53.

    Source: SplitMix64 (Steele, Lea, Flood 2014). Not polars' or Python's hash: those change between releases.
    """
    ids = np.asarray(task_ids, np.int64).view(np.uint64)
    start = _mixed(np.array([seed % 2**64], np.uint64))
    return (_mixed(ids ^ start) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = values + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
