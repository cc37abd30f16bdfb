"""Weights that make up for classes of which few boxes are labelled yet."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

CAP = 10.0
"""No class counts more than this many times the mean, however rare it is."""


def class_weights(label_counts: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float64]:
    """Inverse frequency of each class among the labelled boxes, with a pseudo-count of one per class.

    `w_c = (N + C) / (n_c + 1)`, divided by the mean over the classes, then cut off at `CAP`. Equal counts, and no
    labels at all, give 1 for every class.

    Args:
        label_counts: shape (C,), labelled boxes per class, 0 for a class nobody has seen yet; C may be 0.

    Returns:
        Shape (C,), in (0, CAP]; the mean is 1 where nothing was cut off, less otherwise.

    Raises:
        ValueError: a count is negative.

    Source: Brust et al. 2019; the mean and the cap are ours (`docs/algorithms.md`).
    """
    counts = np.asarray(label_counts, np.float64)
    if len(counts) == 0:
        return counts
    if counts.min() < 0:
        raise ValueError(f"label counts must not be negative, found {counts.min():.0f}")
    weights = (counts.sum() + len(counts)) / (counts + 1.0)
    return np.minimum(weights / weights.mean(), CAP)
