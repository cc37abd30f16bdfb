"""The arithmetic of learning curves: areas, paired intervals, how many labels a level takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95

Line = tuple[Sequence[float], Sequence[float]]
"""A curve: x rising, and y."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over seeds and where the true one is likely to be.

    Attributes:
        mean: of the values.
        low: lower end of the 95 % interval by Student's t; None for a single value, which has none.
        high: upper end likewise.
        count: values.
    """

    mean: float
    low: float | None
    high: float | None
    count: int

    @property
    def above_zero(self) -> bool:
        """Whether the whole interval is above 0."""
        return self.low is not None and self.low > 0

    @property
    def below_zero(self) -> bool:
        """Whether the whole interval is below 0."""
        return self.high is not None and self.high < 0


def interval(values: Sequence[float]) -> Interval | None:
    """Mean and 95 % interval; None without a value."""
    count = len(values)
    if not count:
        return None
    mean = math.fsum(values) / count
    if count == 1:
        return Interval(mean, None, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    half = t_quantile(count - 1) * math.sqrt(variance / count)
    return Interval(mean, mean - half, mean + half, count)


def t_quantile(freedom: int, confidence: float = CONFIDENCE) -> float:
    """The t with `P(|T| < t) = confidence` for Student's distribution, found by bisection.

    Args:
        freedom: degrees of freedom, at least 1.
        confidence: in (0, 1).
    """
    if freedom < 1 or not 0.0 < confidence < 1.0:
        raise ValueError(f"expected at least 1 degree of freedom and 0 < confidence < 1, found {freedom}, {confidence}")
    low, high = 0.0, math.pi / 2  # the angle atan(t / sqrt(freedom)), which is finite for every t
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < confidence else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _within(angle: float, freedom: int) -> float:
    """`P(|T| < sqrt(freedom) tan(angle))`: Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    sine, cosine = math.sin(angle), math.cos(angle)
    term, total = (cosine, 0.0) if freedom % 2 else (1.0, 0.0)
    first = 1 if freedom % 2 else 0
    for power in range(first, freedom - 1, 2):
        total += term
        term *= cosine * cosine * (power + 1) / (power + 2)
    return 2 / math.pi * (angle + sine * total) if freedom % 2 else sine * total


def area(line: Line, low: float, high: float) -> float | None:
    """The mean height of a curve between two points: its area (trapezoids) divided by the width.

    Args:
        line: x strictly rising; between its points the curve is straight.
        low: at least the first x.
        high: at most the last x.

    Returns:
        None where the range has no width or the curve does not cover it.
    """
    x, y = _arrays(line)
    if not len(x) or high <= low or low < x[0] or high > x[-1]:
        return None
    inner = (x > low) & (x < high)
    at = np.concatenate([[low], x[inner], [high]])
    heights = np.interp(at, x, y)
    return float(((heights[1:] + heights[:-1]) / 2 * np.diff(at)).sum() / (high - low))


def paired_areas(one: Line, other: Line) -> tuple[float, float] | None:
    """Normalised areas of two curves over the range that both cover; None where they share none."""
    (x, _), (u, _) = _arrays(one), _arrays(other)
    if not len(x) or not len(u):
        return None
    low, high = float(max(x[0], u[0])), float(min(x[-1], u[-1]))
    first, second = area(one, low, high), area(other, low, high)
    return None if first is None or second is None else (first, second)


def reach(line: Line, level: float) -> float | None:
    """The first x at which a curve is as high as `level`, straight between its points; None where it never is."""
    x, y = _arrays(line)
    above = np.flatnonzero(y >= level)
    if not len(above):
        return None
    index = int(above[0])
    if index == 0:
        return float(x[0])
    share = (level - y[index - 1]) / (y[index] - y[index - 1])
    return float(x[index - 1] + share * (x[index] - x[index - 1]))


def mean_line(lines: Sequence[Line]) -> Line:
    """The mean of curves, point by point; as long as the shortest of them."""
    length = min((len(x) for x, _ in lines), default=0)
    if not length:
        return [], []
    x = np.mean([np.asarray(line[0][:length], np.float64) for line in lines], axis=0)
    y = np.mean([np.asarray(line[1][:length], np.float64) for line in lines], axis=0)
    return x.tolist(), y.tolist()


def _arrays(line: Line) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The curve without points that repeat an x: images without boxes add labels, but no box; the later one counts."""
    x, y = np.asarray(line[0], np.float64), np.asarray(line[1], np.float64)
    if len(x) != len(y):
        raise ValueError(f"a curve has {len(x)} x and {len(y)} y, expected as many")
    keep = np.append(np.diff(x) > 0, True)[: len(x)]
    if len(x) and (np.diff(x) < 0).any():
        raise ValueError(f"the x of a curve must not fall, found {x.tolist()}")
    return x[keep], y[keep]
