"""How far two distributions over classes are apart."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32] | NDArray[np.float64]

LARGEST = math.log(2)
"""Jensen-Shannon divergence of distributions that share nothing, in nats."""


def jensen_shannon(first: Rows, second: Rows) -> NDArray[np.float64]:
    """Jensen-Shannon divergence of each pair of rows.

    Args:
        first: shape (n, K), rows summing to 1.
        second: likewise.

    Returns:
        Shape (n,), in [0, ln 2], nats; exchanging the two changes nothing.

    Source: Lin 1991.
    """
    p, q = first.astype(np.float64), second.astype(np.float64)
    middle = (p + q) / 2
    return np.clip((_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2, 0.0, LARGEST)


def _relative_entropy(p: NDArray[np.float64], middle: NDArray[np.float64]) -> NDArray[np.float64]:
    ratio = np.divide(p, middle, out=np.ones_like(p), where=p > 0)
    result: NDArray[np.float64] = (p * np.log(ratio)).sum(axis=-1)
    return result
