"""What `benchmarks.label_efficiency` reads off its curves: whether they measure labels, and whether promises hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks._report import Goal
from model.simulation.plan import DIVERSITY_SUFFIX
from model.simulation.results import BASELINE, Curve, Results
from model.simulation.statistics import interval
from model.simulation.summary import LevelCost, paired, paired_gain, summarise

DEFAULT = "uncertainty"
"""The product's default strategy, for which the goals are."""
PEERS = ("cald", "core_set", "ppal")
LIBRARY = "library"
HUALE = "huale"
RATIO = 3
"""How much more than twice the steps all labels have to bring."""
SAME_SHARE = 0.6
"""Of random order's labels, for 95 % of full supervision."""


def regime(who: str, found: Results, twice: Results | None) -> list[Goal]:
    """Whether the curves measure labels: more of them must help far more than more training does, beyond chance.

    Args:
        who: for the name of the goal.
        found: curves, and trainings on everything.
        twice: the initial sets, and everything, trained twice as long; only its seeds are compared.
    """
    if twice is None:
        return []
    seeds = sorted({curve.seed for curves in twice.groups().values() for curve in curves})
    first, longer = _of(_starts(found), seeds), _of(_starts(twice), seeds)
    full, full_longer = _of(_fulls(found), seeds), _of(_fulls(twice), seeds)
    if first is None or longer is None or full is None:
        return []
    means = [float(np.mean(values)) for values in (first, full, longer)]
    value = f"{means[0]:.3f} to {means[1]:.3f} by labels, to {means[2]:.3f} by training ({len(seeds)} seeds)"
    if full_longer is not None:
        value += f"; everything, twice the steps: {np.mean(full_longer):.3f}"
    labels, training = np.subtract(full, first), np.subtract(longer, first)
    beyond = interval((labels / RATIO - training).tolist())
    if beyond is not None and beyond.low is not None:
        value += f"; a third of the one less the other: {beyond.mean:+.3f} ({beyond.low:+.3f} to {beyond.high:+.3f})"
    met = bool(labels.mean() > 0.05) and beyond is not None and beyond.above_zero
    name = f"{who}: what all labels bring, and what twice the steps"
    return [Goal(name, value, "labels three times as much, beyond chance", met)]


def promises(who: str, found: Results, seeds: int) -> list[Goal]:
    """What the default strategy has to keep; with fewer than `seeds` paired curves no goal is met."""
    by_name = {one.strategy: one for one in summarise(found) if one.losses == LIBRARY}
    ours, random = by_name.get(DEFAULT), by_name.get(BASELINE)
    if ours is None or random is None:
        return []
    goals = []
    who = f"{who}, {DEFAULT}"
    for name, gain in (("image", ours.gain_labels), ("box", ours.gain_boxes)):
        low = None if gain is None else gain.low
        enough = gain is not None and gain.count >= seeds
        goals.append(
            Goal(
                f"{who}: low end of the gain in area against random, per {name}",
                None if low is None else round(low, 4),
                f"above 0, {seeds} seeds",
                enough and low is not None and low > 0,
            )
        )
    needed, instead = _last(ours.costs), _last(random.costs)
    share = needed / (instead or random.last[0]) if needed else None
    value = None if share is None else f"{share:.2f}"
    if share is not None and instead is None:
        value = f"below {share:.2f}: random order did not get there with {random.last[0]:.0f}"
    name = f"{who}: labels to 95 % of full supervision, share of random's"
    goals.append(Goal(name, value, f"at most {SAME_SHARE}", share is not None and share <= SAME_SHARE))
    return [*goals, *_beside_peers(who, found, seeds)]


def _beside_peers(who: str, found: Results, seeds: int) -> list[Goal]:
    """The default beside the selector of others that did best, with the diversity step or without.

    It must not be below it by more than chance.
    """
    groups = found.groups()
    ours = groups.get((DEFAULT, LIBRARY), [])
    differences = {
        peer: known
        for peer in (*PEERS, *(f"{peer}{DIVERSITY_SUFFIX}" for peer in PEERS))
        if (known := paired_gain(paired(ours, groups.get((peer, LIBRARY), [])), Curve.by_labels)) is not None
        and known.count >= seeds
    }
    if not differences:
        return []
    best = min(differences, key=lambda peer: differences[peer].mean)
    known = differences[best]
    value = f"{known.mean:+.4f}" + ("" if known.low is None else f" ({known.low:+.4f} to {known.high:+.4f})")
    missing = [peer for peer in PEERS if peer not in differences]
    if missing:
        value += f"; {', '.join(missing)} not measured"
    name = f"{who}: area per image against {best}, the best selector of others"
    met = not missing and known.high is not None and known.high >= 0
    return [Goal(name, value, "not below by more than chance", met)]


def losses_effect(found: Results) -> list[dict[str, Any]]:
    """HUALE's losses against the library's under each selector: at the start, before any selection, and by area."""
    groups = found.groups()
    rows = []
    for strategy in found.settings["strategies"]:
        pairs = paired(groups.get((strategy, HUALE), []), groups.get((strategy, LIBRARY), []))
        area = paired_gain(pairs, Curve.by_labels)
        if area is None:
            continue
        start = interval([one.points[0].quality - other.points[0].quality for one, other in pairs])
        rows.append({"strategy": strategy, "seeds": area.count, "start": start, "gain_per_image": area})
    return rows


def diversity_effect(found: Results) -> list[dict[str, Any]]:
    """What the diversity step adds to each strategy: area with it minus area without, per image and per box."""
    groups = found.groups()
    rows = []
    for (strategy, losses), curves in groups.items():
        if not strategy.endswith(DIVERSITY_SUFFIX):
            continue
        pairs = paired(curves, groups.get((strategy.removesuffix(DIVERSITY_SUFFIX), losses), []))
        gain, per_box = paired_gain(pairs, Curve.by_labels), paired_gain(pairs, Curve.by_boxes)
        if gain is not None:
            rows.append({"strategy": strategy, "seeds": gain.count, "gain_per_image": gain, "gain_per_box": per_box})
    return rows


def _starts(results: Results) -> dict[int, float]:
    """By seed, mAP50 of the initial sets, which all strategies share."""
    groups = results.groups().items()
    return {c.seed: c.points[0].quality for (_, losses), cs in groups if losses == LIBRARY for c in cs}


def _fulls(results: Results) -> dict[int, float]:
    return {full.seed: full.point.quality for full in results.full if full.losses == LIBRARY}


def _of(by_seed: dict[int, float], seeds: Sequence[int]) -> list[float] | None:
    """None unless all are there: other seeds have other initial sets."""
    return [by_seed[seed] for seed in seeds] if seeds and set(seeds) <= set(by_seed) else None


def _last(costs: Sequence[LevelCost]) -> float | None:
    return costs[-1].labels if costs else None
