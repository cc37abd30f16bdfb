"""When more labels hardly help any more: a hint, from the learning curve alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class StoppingHint:
    """What the end of a learning curve says.

    Attributes:
        gain: of quality (such as mAP50) per 100 labels, over the last cycles.
        cycles: over how many.
        labels: from how many labels to how many.
        stop: whether the gain is under the threshold.
        sentence: for people.
    """

    gain: float
    cycles: int
    labels: tuple[int, int]
    stop: bool
    sentence: str


def stopping_hint(
    curve: Sequence[tuple[int, float]], *, threshold: float = 0.005, cycles: int = 3
) -> StoppingHint | None:
    """Whether the gain per label has fallen under a threshold.

    The gain is the slope of a straight line through the last points (least squares): a single cycle says little,
    because measured quality goes up and down by chance.

    Args:
        curve: (labels, quality) after each training; the labels never fall. Of trainings with equal labels the last
            counts.
        threshold: gain per 100 labels; less is hardly worth somebody's time.
        cycles: how many of the last cycles to look at, at least 2.

    Returns:
        None where the curve has fewer cycles than that: nothing can be said yet.

    Raises:
        ValueError: `cycles` is less than 2, or the labels fall.
    """
    if cycles < 2:
        raise ValueError(f"cycles is {cycles}, expected at least 2: one step of a noisy curve says nothing")
    if any(later < earlier for (earlier, _), (later, _) in itertools.pairwise(curve)):
        raise ValueError(f"the labels of a learning curve must not fall, found {[labels for labels, _ in curve]}")
    points = list(dict(curve).items())[-cycles - 1 :]
    if len(points) <= cycles:
        return None
    x = np.array([labels for labels, _ in points], np.float64)
    y = np.array([quality for _, quality in points], np.float64)
    away = x - x.mean()
    gain = float(100 * (away @ (y - y.mean())) / (away @ away))
    stop = gain < threshold
    first, last = points[0][0], points[-1][0]
    what = f"From {first:,} to {last:,} labels the detector gained {100 * gain:+.2f} points of mAP50 per 100 labels"
    advice = "more of the same labels will hardly help" if stop else "more labels still help"
    return StoppingHint(gain, cycles, (first, last), stop, f"{what}: {advice}.")
