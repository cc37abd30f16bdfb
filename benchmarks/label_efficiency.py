"""How many labels each strategy saves against random order, on generated scenes with a long tail and bursts.

Every curve is a simulation as `al-backend simulate` runs it: the labels of a pool are withheld, a strategy asks for
them portion by portion, a detector is trained on what is labelled after each, always from the same base weights and
with the same number of steps. All strategies share the initial sets and training seeds, so that differences are paired.

A learning curve says something about labels only in the right regime. So the initial sets are also trained twice as
long: if that helps as much as all the labels of the pool do, the curves measure how long was trained.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from benchmarks._bases import BaseRecipe, trained_base
from benchmarks._report import Goal, Options, Outcome, main
from model.data.reef import OTHER_SPECIES
from model.detectors import factory
from model.detectors.base import Detector
from model.detectors.factory import find_base, resolve_device
from model.simulation.cell import Experiment
from model.simulation.data import reef_data
from model.simulation.detectors import FactoryDetectors
from model.simulation.output import write_report
from model.simulation.plan import Plan, parse_strategy
from model.simulation.results import Results, collect
from model.simulation.runner import SimulationProgress, run_experiment
from model.simulation.statistics import interval, paired_areas
from model.simulation.summary import LevelCost, StrategySummary, full_level, summarise
from model.training.config import TrainingConfig
from model.training.loss_config import LossConfig

SSDLITE = "ssdlite320_mobilenet_v3_large"
SHORT = {"yolov5n": "yolov5n", SSDLITE: "ssdlite"}
DEFAULT = "uncertainty"
"""The product's default strategy, for which the goals are."""
STRATEGIES = ("uncertainty", "huale", "al_vae", "cald", "core_set", "ppal", "typical")
LIBRARY = ("library", LossConfig())
BASE = BaseRecipe(scenes=1000, size=192, iterations=1500, batch_size=8, rate=1e-3)
"""For a detector for which the project brings no base."""
PEERS = ("cald", "core_set", "ppal")
SAME_SHARE = 0.6
"""Of random order's labels, for 95 % of full supervision."""


@dataclass(frozen=True)
class Scale:
    """How large everything is for one detector.

    Attributes:
        detector: its architecture.
        pool: images whose labels are withheld.
        test: held-out images.
        image_size: pixels of the scenes and of the network.
        iterations: of every training.
        batch_size: images per step.
        initial: labelled images at the start.
        budget: images per cycle.
        cycles: choices.
        seeds: paired curves.
        strategies: as `parse_strategy` takes them.
    """

    detector: str
    pool: int
    test: int
    image_size: int
    iterations: int
    batch_size: int
    initial: int
    budget: int
    cycles: int
    seeds: int
    strategies: tuple[str, ...]


ALL = ("random", *STRATEGIES, *(f"{name}+diversity" for name in STRATEGIES))
FULL = (
    Scale("yolov5n", 600, 300, 160, 400, 8, 20, 20, 5, 5, ALL),
    Scale(SSDLITE, 600, 200, 160, 250, 8, 20, 20, 5, 5, ALL),
)
QUICK = (Scale("yolov5n", 60, 30, 96, 40, 8, 10, 10, 1, 2, ("random", "uncertainty", "huale+diversity")),)


def measure(options: Options) -> Outcome:
    """For each detector all strategies, then HUALE's losses with and without HUALE's selection."""
    scales = [one for one in (QUICK if options.quick else FULL) if options.wants(one.detector, SHORT[one.detector])]
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="al-benchmark-") as name:
        for scale in scales:
            if not _measure((options.work or Path(name)) / SHORT[scale.detector], scale, outcome):
                outcome.notes.append("Ended early: what had been measured until then is above.")
                break
    return outcome


def _measure(work: Path, scale: Scale, outcome: Outcome) -> bool:
    """One detector; whether everything was measured. What is worth most comes first."""
    data = reef_data(work / "data", scale.pool, test=scale.test, size=scale.image_size)
    source = FactoryDetectors(scale.detector, scale.image_size, _base(work, scale))
    plan = Plan(
        strategies=tuple(map(parse_strategy, scale.strategies)),
        seeds=tuple(range(scale.seeds)),
        initial=scale.initial,
        budget=scale.budget,
        cycles=scale.cycles,
        training=TrainingConfig(iterations=scale.iterations, batch_size=scale.batch_size),
    )
    plain = tuple(one for one in plan.strategies if not one[1].diversity)
    crossed = tuple(map(parse_strategy, ("random", "huale")))
    longer = replace(plan.training, iterations=2 * scale.iterations)
    cells = work / "cells"
    stages = {
        "strategies": Experiment(replace(plan, strategies=plain), data, source, cells),
        "twice-as-long": Experiment(
            replace(plan, strategies=crossed[:1], cycles=1, full=False, training=longer), data, source, work / "longer"
        ),
        "losses": Experiment(
            replace(plan, strategies=crossed, losses=(LIBRARY, ("huale", LossConfig.huale()))), data, source, cells
        ),
        "with-diversity": Experiment(plan, data, source, cells),
    }
    found: dict[str, Results] = {}
    whole = True
    for stage, experiment in stages.items():
        found[stage], whole = _run(experiment, work / stage, outcome)
        if not whole:
            break
    strategies = found.get("with-diversity", found["strategies"])
    outcome.results += [_row(scale, "strategies", one) for one in summarise(strategies)]
    if "losses" in found:
        outcome.results += [_row(scale, "losses", one) for one in summarise(found["losses"])]
    outcome.goals += [*_regime(scale, strategies, found.get("twice-as-long")), *_promises(scale, strategies)]
    outcome.notes.append(f"Reports and pictures of {scale.detector}: {work}")
    return whole


def _base(work: Path, scale: Scale) -> Path:
    def create() -> Detector:
        return factory.create(scale.detector, OTHER_SPECIES, image_size=BASE.size, base=None, seed=0)

    return find_base(scale.detector, None) or trained_base(work, BASE, create)


def _run(experiment: Experiment, report: Path, outcome: Outcome) -> tuple[Results, bool]:
    """Work on the cells that are not there yet, which two experiments may share, and write the report of all."""
    with Progress() as bar:
        task = bar.add_task(report.name, total=None)

        def show(progress: SimulationProgress) -> None:
            bar.update(task, completed=progress.done, total=progress.total)

        ended = run_experiment(experiment, device=resolve_device("auto"), on_progress=show)
    outcome.notes += ended.failures
    found = collect(experiment, ended)
    write_report(found, report)
    return found, not ended.ended_early


def _row(scale: Scale, part: str, summary: StrategySummary) -> dict[str, Any]:
    return {
        "detector": SHORT[scale.detector],
        "part": part,
        "strategy": summary.strategy,
        "losses": summary.losses,
        "seeds": summary.seeds,
        "labels": summary.last[0],
        "boxes": round(summary.last[1], 1),
        "map50": round(summary.last[2], 4),
        "gain_per_image": _interval(summary.gain_labels),
        "gain_per_box": _interval(summary.gain_boxes),
        **{f"labels_to_{cost.share:.0%}": cost.labels and round(cost.labels, 1) for cost in summary.costs},
    }


def _interval(value: Any) -> dict[str, float | None] | None:
    if value is None:
        return None
    return {name: None if (one := getattr(value, name)) is None else round(one, 4) for name in ("mean", "low", "high")}


def _regime(scale: Scale, found: Results, twice: Results | None) -> list[Goal]:
    """Whether the curves measure labels: more of them must help far more than more training does."""
    full = full_level(found, LIBRARY[0])
    seeds = set() if twice is None else {curve.seed for curves in twice.groups().values() for curve in curves}
    first, longer = _start(found, seeds), None if twice is None else _start(twice, seeds)
    if full is None or first is None or longer is None:
        return []
    labels, training = full - first, longer - first
    value = f"{first:.3f} to {full:.3f} by labels, to {longer:.3f} by training"
    met = labels > 0.05 and training < labels / 3
    name = f"{SHORT[scale.detector]}: what all labels bring, and what twice the steps"
    return [Goal(name, value, "labels three times as much", met)]


def _start(results: Results, seeds: Collection[int]) -> float | None:
    """Mean mAP50 of the initial sets, which all strategies share."""
    by_seed = {curve.seed: curve.points[0].quality for curves in results.groups().values() for curve in curves}
    values = [quality for seed, quality in by_seed.items() if seed in seeds]
    return float(np.mean(values)) if values else None


def _promises(scale: Scale, found: Results) -> list[Goal]:
    by_name = {one.strategy: one for one in summarise(found)}
    ours, random = by_name.get(DEFAULT), by_name.get("random")
    if ours is None or random is None:
        return []
    goals = []
    who = f"{SHORT[scale.detector]}, {DEFAULT}"
    for name, gain in (("image", ours.gain_labels), ("box", ours.gain_boxes)):
        low = None if gain is None else gain.low
        goals.append(
            Goal(
                f"{who}: low end of the gain in area against random, per {name}",
                None if low is None else round(low, 4),
                "above 0",
                low is not None and low > 0,
            )
        )
    needed, instead = _last(ours.costs), _last(random.costs)
    share = needed / (instead or random.last[0]) if needed else None
    value = None if share is None else f"{share:.2f}"
    if share is not None and instead is None:
        value = f"below {share:.2f}: random order did not get there with {random.last[0]:.0f}"
    name = f"{who}: labels to 95 % of full supervision, share of random's"
    goals.append(Goal(name, value, f"at most {SAME_SHARE}", share is not None and share <= SAME_SHARE))
    return [*goals, *_beside_peers(who, found)]


def _beside_peers(who: str, found: Results) -> list[Goal]:
    """The default beside the selector of others that did best: not below it by more than chance."""
    groups = found.groups()
    ours = {curve.seed: curve for curve in groups.get((DEFAULT, LIBRARY[0]), [])}
    differences = {}
    for peer in PEERS:
        pairs = [
            paired_areas(ours[curve.seed].by_labels(), curve.by_labels())
            for curve in groups.get((peer, LIBRARY[0]), [])
            if curve.seed in ours
        ]
        known = interval([pair[0] - pair[1] for pair in pairs if pair is not None])
        if known is not None:
            differences[peer] = known
    if not differences:
        return []
    best = min(differences, key=lambda peer: differences[peer].mean)
    known = differences[best]
    value = f"{known.mean:+.4f}" + ("" if known.low is None else f" ({known.low:+.4f} to {known.high:+.4f})")
    name = f"{who}: area per image against {best}, the best selector of others"
    return [Goal(name, value, "not below by more than chance", known.high is not None and known.high >= 0)]


def _last(costs: Sequence[LevelCost]) -> float | None:
    return costs[-1].labels if costs else None


if __name__ == "__main__":
    raise SystemExit(main("label_efficiency", "How many labels does each strategy save against random order?", measure))
