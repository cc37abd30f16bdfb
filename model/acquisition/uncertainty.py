"""How unsure a detector is about each of its detections.

All three measures look at whole rows of `Detections.probs`, background included. That choice decides two cases that
the literature leaves open (`docs/algorithms.md`):

- A box that is almost surely background is *certain*, not junk with the highest possible value, as it would be for
  `1 - score`.
- A detector with one class needs no case of its own: its row is `(p, 1 - p)`, so the entropy is the Bernoulli entropy
  of the score, and the other two measures rise and fall with it.
"""

from __future__ import annotations

from enum import Enum

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32] | NDArray[np.float64]


class Uncertainty(str, Enum):
    """The measures by the names that settings use."""

    LEAST_CONFIDENCE = "least_confidence"
    MARGIN = "margin"
    ENTROPY = "entropy"


def least_confidence(probs: Rows) -> NDArray[np.float64]:
    """One minus the largest probability of each row.

    Args:
        probs: shape (n, C + 1), rows summing to 1, background last; n may be 0.

    Returns:
        Shape (n,), in [0, 1 - 1 / (C + 1)]; higher is less certain.
    """
    return 1.0 - _checked(probs).max(axis=1)


def margin(probs: Rows) -> NDArray[np.float64]:
    """`(1 - (p1 - p2))^2` with the two largest probabilities of each row.

    Args:
        probs: shape (n, C + 1), rows summing to 1, background last; n may be 0.

    Returns:
        Shape (n,), in [0, 1]; higher is less certain.

    Source: Brust et al. 2019, "1-vs-2" (a public reimplementation has `1 - p1 - p2`, which is another quantity).
    """
    rows = _checked(probs)
    top = np.partition(rows, rows.shape[1] - 2, axis=1)[:, -2:]
    return np.square(1.0 - (top[:, 1] - top[:, 0]))


def entropy(probs: Rows) -> NDArray[np.float64]:
    """Shannon entropy of each row in nats.

    Args:
        probs: shape (n, C + 1), rows summing to 1, background last; n may be 0.

    Returns:
        Shape (n,), in [0, ln(C + 1)]; higher is less certain.
    """
    rows = _checked(probs)
    logarithms = np.log(rows, out=np.zeros_like(rows), where=rows > 0)
    # Rounding of float32 rows can leave a sum of -1e-8, and no uncertainty is below none.
    return np.maximum(-(rows * logarithms).sum(axis=1), 0.0)


MEASURES = {
    Uncertainty.LEAST_CONFIDENCE: least_confidence,
    Uncertainty.MARGIN: margin,
    Uncertainty.ENTROPY: entropy,
}


def _checked(probs: Rows) -> NDArray[np.float64]:
    """The rows in double precision, inside [0, 1].

    Raises:
        ValueError: a value is not finite; a score from it would be lost in Label Studio.
    """
    rows = probs.astype(np.float64)
    if rows.ndim != 2 or rows.shape[1] < 2:
        raise ValueError(f"probs has shape {probs.shape}, expected (n, C + 1) with C >= 1 and background last")
    if not np.isfinite(rows).all():
        raise ValueError("the detector gave probabilities that are not finite; its weights are damaged or diverged")
    return np.clip(rows, 0.0, 1.0)
