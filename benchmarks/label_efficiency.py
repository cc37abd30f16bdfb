"""How many labels each strategy saves against random order, on generated scenes with a long tail and bursts.

Every curve is a simulation as `al-backend simulate` runs it: the labels of a pool are withheld, a strategy asks for
them portion by portion, a detector is trained on what is labelled after each, always from the same base weights and
with the same number of steps. All strategies share the initial sets and training seeds, so that differences are paired.

Thresholds and variants were chosen on these scenes, and an interval over seeds leaves out which scenes were drawn. So
random order, HUALE and the variants of the default are compared again on another draw, the aggregations on a third.

A learning curve says something about labels only in the right regime. So the initial sets are also trained twice as
long: if that helps as much as all the labels of the pool do, the curves measure how long was trained.

It takes hours and can be stopped at any time: what is finished stays in the work folder (`--work`, `.build/` unless
given), and the same command goes on. `--go-on` begins with the curves that are committed. At the end, or when it is
stopped, `curves.jsonl` in the work folder has every choice and measurement, a line each. `--report` trains nothing and
tells what is there, so `--go-on --report` shows what the committed curves say.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.progress import Progress

from benchmarks._bases import BaseRecipe, halve, trained_base
from benchmarks._first_images import first_rows, measure_first
from benchmarks._kept_curves import keep_curves, restore_curves
from benchmarks._label_goals import diversity_effect, losses_effect, promises, regime
from benchmarks._label_scales import (
    BASE_NAMES,
    CELLS,
    CROSSES,
    DIVERSE,
    DRAWS,
    FIRST,
    FIRST_IMAGES,
    FULL,
    QUICK,
    TWICE,
    Scale,
    stages,
)
from benchmarks._report import Options, Outcome, main
from model.data.reef import OTHER_SPECIES
from model.detectors import factory
from model.detectors.base import Detector
from model.detectors.factory import find_base, resolve_device
from model.names import measure_threshold
from model.simulation.cell import Experiment
from model.simulation.data import SimulationData, reef_data
from model.simulation.detectors import FactoryDetectors
from model.simulation.output import write_report
from model.simulation.plan import Plan, parse_strategy
from model.simulation.results import Results, collect
from model.simulation.runner import SimulationProgress, run_experiment
from model.simulation.statistics import Interval
from model.simulation.summary import StrategySummary, summarise
from model.training.config import TrainingConfig

BASE = BaseRecipe(scenes=2000, size=160, iterations=3000, batch_size=8, rate=1e-3)
"""For a detector for which the project brings no base."""
WORK = Path(__file__).resolve().parent.parent / ".build" / "label_efficiency"
KEPT = Path(__file__).resolve().parent / "results" / "label_efficiency"
"""The curves that are committed, a file for each detector, and the bases that they started from."""
CURVES = "curves.jsonl"


def measure(options: Options) -> Outcome:
    """For each detector all strategies, then HUALE's losses with and without HUALE's selection."""
    scales = [one for one in (QUICK if options.quick else FULL) if options.wants(one.detector, one.name)]
    outcome = Outcome()
    root = (options.work or WORK) / ("quick" if options.quick else "")
    for scale in scales:
        work = root / scale.name
        kept = KEPT / f"{scale.name}.jsonl"
        go_on = options.go_on and not options.quick
        if go_on and kept.is_file():
            restore_curves(kept, work)
        whole = _measure(work, scale, outcome, go_on=go_on, report=options.report)
        keep_curves(work, (CELLS, TWICE, *DRAWS), work / CURVES)
        if not whole:
            outcome.notes.append("Ended early: what had been measured until then is above.")
            break
    return outcome


def _measure(work: Path, scale: Scale, outcome: Outcome, *, go_on: bool, report: bool) -> bool:
    """One detector; whether everything was measured. What is worth most comes first."""
    plan = Plan(
        strategies=tuple(map(parse_strategy, scale.strategies)),
        seeds=tuple(range(scale.seeds)),
        initial=scale.initial,
        budget=scale.budget,
        cycles=scale.cycles,
        training=TrainingConfig(iterations=scale.iterations, batch_size=scale.batch_size, freeze=scale.freeze),
        min_score=measure_threshold(scale.detector),
    )

    def drawn(folder: str, draw: int) -> SimulationData:
        return reef_data(work / folder, scale.pool, test=scale.test, size=scale.image_size, draw=draw)

    data = drawn("data", 0)
    source = FactoryDetectors(scale.detector, scale.image_size, _base(work, scale, go_on))
    found: dict[str, Results] = {}
    whole = True
    for stage, its_plan, folder in stages(plan, scale):
        shown = drawn(f"{folder}-data", DRAWS[folder]) if folder in DRAWS else data
        experiment = Experiment(its_plan, shown, source, work / folder)
        if report:
            with experiment.store.alone():
                experiment.store.prepare(its_plan, experiment.data, source)  # refuses curves of other settings
            found[stage], whole = collect(experiment), True
            write_report(found[stage], work / stage)
        else:
            found[stage], whole = _run(experiment, work / stage, outcome)
        if not whole:
            break
    who = scale.name
    begun = Experiment(replace(plan, strategies=tuple(map(parse_strategy, FIRST))), data, source, work / CELLS)
    if whole and not report and FIRST_IMAGES in scale.parts:
        measure_first(begun, FIRST, resolve_device("auto"))
    strategies = found.get(DIVERSE, found["strategies"])
    rows: dict[str, Iterable[dict[str, Any]]] = {
        "strategies": map(_row, summarise(strategies)),
        "the diversity step against none": diversity_effect(strategies),
        **{part: map(_row, summarise(found[part])) for part in (CROSSES, *DRAWS, "variants") if part in found},
        "HUALE's losses against the library's": losses_effect(found[CROSSES]) if CROSSES in found else [],
        FIRST_IMAGES: first_rows(begun, FIRST) if FIRST_IMAGES in scale.parts else [],
    }
    outcome.results += [{"detector": who, "part": part, **_plain(row)} for part in rows for row in rows[part]]
    outcome.goals += [*regime(who, strategies, found.get("twice")), *promises(who, strategies, scale.seeds)]
    for draw in DRAWS:
        if draw in found:
            outcome.goals += promises(f"{who}, {draw} draw", found[draw], scale.seeds)
    outcome.notes.append(
        f"{who}: {scale.pool} images in the pool, {scale.test} held out, {scale.image_size} px, {scale.iterations} "
        f"steps of {scale.batch_size} images. gain: area under the curve of mAP50 above that of random order (losses: "
        "above the library's) with the same seed; low and high: the 95 % interval by Student's t."
    )
    return whole


def _base(work: Path, scale: Scale, go_on: bool) -> Path:
    """Where every training starts: what the project brings, else the committed base, else one trained now."""

    def create() -> Detector:
        return factory.create(scale.detector, OTHER_SPECIES, image_size=BASE.size, base=None, seed=0)

    shipped = find_base(scale.detector, None)
    if shipped is not None:
        return shipped
    name = f"{BASE_NAMES[scale.detector]}-base.safetensors"
    own, kept = work / name, KEPT / name
    if not own.is_file():
        work.mkdir(parents=True, exist_ok=True)
        if go_on and kept.is_file():
            shutil.copyfile(kept, own)
        else:
            halve(trained_base(work, BASE, create), own)
    return own


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


def _row(summary: StrategySummary) -> dict[str, Any]:
    return {
        "strategy": summary.strategy,
        "losses": summary.losses,
        "seeds": summary.seeds,
        "labels": summary.last[0],
        "boxes": round(summary.last[1], 1),
        "map50": round(summary.last[2], 4),
        "gain_per_image": summary.gain_labels,
        "gain_per_box": summary.gain_boxes,
        **{f"labels_to_{cost.share:.0%}": cost.labels and round(cost.labels, 1) for cost in summary.costs},
    }


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {name: _interval(value) if isinstance(value, Interval) else value for name, value in row.items()}


def _interval(value: Interval) -> dict[str, float | None]:
    return {name: None if (one := getattr(value, name)) is None else round(one, 4) for name in ("mean", "low", "high")}


if __name__ == "__main__":
    raise SystemExit(main("label_efficiency", "How many labels does each strategy save against random order?", measure))
