"""What the curves of an experiment say: against random order, against full supervision, and in one plain sentence."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from model.simulation.results import BASELINE, Curve, Results
from model.simulation.statistics import Interval, Line, interval, mean_line, paired_areas, reach

LEVELS = (0.90, 0.95)
"""Shares of full supervision that are asked for."""


@dataclass(frozen=True, slots=True)
class LevelCost:
    """What it takes to be as good as a share of full supervision, read off the mean curve.

    Attributes:
        share: of the mAP50 of full supervision.
        level: that mAP50.
        labels: images; None where the curve ends below.
        boxes: likewise.
    """

    share: float
    level: float
    labels: float | None
    boxes: float | None


@dataclass(frozen=True, slots=True)
class StrategySummary:
    """One strategy with one kind of losses, by the curves of `Results.groups`.

    Attributes:
        strategy: label.
        losses: label.
        seeds: curves.
        last: labels and boxes at the end of the mean curve, and mAP50 there.
        area_labels: mean mAP50 over the labels, over the range that it shares with random order (its own range where
            there is no random order).
        gain_labels: area over labels minus that of random order of the same seed; None without a shared seed.
        gain_boxes: the same over boxes.
        costs: per share of full supervision; empty without that reference.
        verdict: what this means, for people; empty for random order itself.
    """

    strategy: str
    losses: str
    seeds: int
    last: tuple[float, float, float]
    area_labels: Interval | None
    gain_labels: Interval | None
    gain_boxes: Interval | None
    costs: tuple[LevelCost, ...]
    verdict: str


def summarise(results: Results) -> list[StrategySummary]:
    """All strategies that have a curve, in the order of the settings."""
    groups = results.groups()
    return [
        _summary(curves, groups.get((BASELINE, losses), []), full_level(results, losses))
        for (_, losses), curves in groups.items()
    ]


def full_level(results: Results, losses: str) -> float | None:
    """Mean mAP50 of the trainings on the whole pool; None without one."""
    found = interval([full.point.quality for full in results.full if full.losses == losses])
    return None if found is None else found.mean


def paired(curves: Sequence[Curve], others: Sequence[Curve]) -> list[tuple[Curve, Curve]]:
    """Each curve with the other one of its seed; those that have none are left out."""
    by_seed = {curve.seed: curve for curve in others}
    return [(curve, by_seed[curve.seed]) for curve in curves if curve.seed in by_seed]


def paired_gain(pairs: Sequence[tuple[Curve, Curve]], axis: Callable[[Curve], Line]) -> Interval | None:
    """Area of the first curve of each pair minus that of the second; None where no pair shares a range."""
    return interval([area - other for area, other in _areas(pairs, axis)])


def _summary(curves: Sequence[Curve], baseline: Sequence[Curve], full: float | None) -> StrategySummary:
    first = curves[0]
    labels, boxes = _mean(curves, Curve.by_labels), _mean(curves, Curve.by_boxes)
    own = first.strategy == BASELINE
    pairs = [] if own else paired(curves, baseline)
    gain_labels, gain_boxes = paired_gain(pairs, Curve.by_labels), paired_gain(pairs, Curve.by_boxes)
    pairs_or_self = pairs or [(curve, curve) for curve in curves]
    costs = tuple(
        LevelCost(share, share * full, reach(labels, share * full), reach(boxes, share * full))
        for share in LEVELS
        if full is not None
    )
    verdict = ""
    if not own:
        verdict = _verdict(first.strategy, gain_labels, gain_boxes, pairs, full)
    return StrategySummary(
        strategy=first.strategy,
        losses=first.losses,
        seeds=len(curves),
        last=(labels[0][-1], boxes[0][-1], labels[1][-1]),
        area_labels=interval([area for area, _ in _areas(pairs_or_self, Curve.by_labels)]),
        gain_labels=gain_labels,
        gain_boxes=gain_boxes,
        costs=costs,
        verdict=verdict,
    )


def _mean(curves: Sequence[Curve], axis: Callable[[Curve], Line]) -> Line:
    return mean_line([axis(curve) for curve in curves])


def _areas(pairs: Sequence[tuple[Curve, Curve]], axis: Callable[[Curve], Line]) -> list[tuple[float, float]]:
    found = (paired_areas(axis(one), axis(other)) for one, other in pairs)
    return [areas for areas in found if areas is not None]


def _verdict(
    strategy: str,
    gain: Interval | None,
    per_box: Interval | None,
    pairs: Sequence[tuple[Curve, Curve]],
    full: float | None,
) -> str:
    if not pairs:
        return f"There is no curve of random order with a seed of {strategy} to compare it with."
    if gain is None:
        return (
            f"{strategy} and random order share no range of labels so far: compared can be what has at least two "
            "trainings, with different numbers of labels."
        )
    measured = _in_words(gain)
    if gain.low is None:
        return (
            f"One seed cannot show whether {strategy} is better than random order: its area differs by {measured}. "
            "Run more seeds."
        )
    if gain.below_zero:
        return f"With {strategy} the detector was worse than with random order: {measured}."
    if not gain.above_zero:
        return (
            f"It is not shown that {strategy} is better than random order: {measured}, so the difference may be chance."
        )
    # Both means over the same seeds, as the gains are: one seed more of either would shift its line.
    ours, random = [one for one, _ in pairs], [other for _, other in pairs]
    lines = _mean(ours, Curve.by_labels), _mean(random, Curve.by_labels)
    sentence = _saving(strategy, *lines, full) or f"{strategy} was better than random order."
    if per_box is None or not per_box.above_zero:
        held, instead = _mean(ours, Curve.by_boxes)[0][-1], _mean(random, Curve.by_boxes)[0][-1]
        more = f"Its images held more boxes, though ({held:,.0f} against {instead:,.0f}): counted"
        by_boxes = "" if per_box is None else f" ({_in_words(per_box)})"
        sentence += f" {more if held > instead else 'Counted'} by boxes it is not shown to be better{by_boxes}."
    return f"{sentence} Area against random order: {measured}."


def _saving(strategy: str, line: Line, random_line: Line, full: float | None) -> str | None:
    """How many labels a level would have taken; None where the mean curves do not show a saving."""
    level, of_what = random_line[1][-1], "what random order reached in the end"
    for share in LEVELS:
        if full is not None and reach(random_line, share * full) is not None:
            level, of_what = share * full, f"{share:.0%} of full supervision"
    instead, needed = reach(random_line, level), reach(line, level)
    if needed is None or instead is None or math.ceil(needed) >= math.ceil(instead):
        return None
    return (
        f"With {strategy} you would have needed {math.ceil(needed):,} labels instead of {math.ceil(instead):,} "
        f"for {of_what} (mAP50 {level:.3f})."
    )


def _in_words(gain: Interval) -> str:
    """Points of mAP50, with the interval where there is one."""
    text = f"{100 * gain.mean:+.2f} points of mAP50"
    if gain.low is None or gain.high is None:
        return text
    return f"{text} (95 % interval {100 * gain.low:+.2f} to {100 * gain.high:+.2f}, {gain.count} seeds)"
