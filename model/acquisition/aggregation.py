"""From the uncertainties of one image's detections to one value for the image."""

from __future__ import annotations

import math
from enum import Enum

import numpy as np
from numpy.typing import NDArray


class Aggregation(str, Enum):
    """The ways to reduce, by the names that settings use."""

    SUM = "sum"
    MEAN = "mean"
    MAX = "max"


def aggregate(values: NDArray[np.float64], how: Aggregation) -> float:
    """Reduce the uncertainties of one image's detections to one informativeness.

    Args:
        values: shape (n,), one value in [0, inf) per detection; n may be 0.
        how: SUM favours crowded images, MAX the single hardest box, MEAN neither.

    Returns:
        A finite value, higher is more informative, the same for any order of the detections; 0.0 for an image
        without detections (what to do with those is `EmptyPolicy`'s business, not ours).

    Source: Brust et al. 2019, section 3.2.
    """
    if len(values) == 0:
        return 0.0
    if how is Aggregation.MAX:
        return float(values.max())
    # An exact sum: two detectors that list the same boxes in another order must agree to the last bit.
    total = math.fsum(values.tolist())
    return total if how is Aggregation.SUM else total / len(values)
