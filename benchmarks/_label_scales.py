"""What `benchmarks.label_efficiency` measures: detectors, sizes, strategies and their variants, and in which parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from benchmarks._label_goals import DEFAULT, HUALE, LIBRARY, PEERS
from model.acquisition.strategy import StrategyConfig
from model.simulation.plan import DIVERSITY_SUFFIX, Plan, parse_strategy
from model.simulation.results import BASELINE
from model.training.loss_config import LossConfig

SSDLITE = "ssdlite320_mobilenet_v3_large"
BASE_NAMES = {SSDLITE: "ssdlite"}
"""Of the committed base weights; YOLOv5n's come with the project."""
STRATEGIES = (DEFAULT, "huale", *PEERS, "al_vae")
FIRST = ("typical", "core_set")
"""Strategies that can choose the first images, beside random order."""
CROSSED = (BASELINE, "huale")
"""With HUALE's losses and without: two selectors by two losses."""
_SUM = StrategyConfig(DEFAULT, aggregation="sum")
_DISAGREEMENT = StrategyConfig("huale", huale_category="disagreement")
VARIANTS = {
    BASELINE: StrategyConfig("random"),
    DEFAULT: StrategyConfig(DEFAULT),
    "uncertainty-mean": StrategyConfig(DEFAULT, aggregation="mean"),
    "uncertainty-sum": _SUM,
    "uncertainty-sum-unweighted": replace(_SUM, class_weights=False),
    "uncertainty-sum-margin": replace(_SUM, uncertainty="margin"),
    "huale": StrategyConfig("huale"),
    "huale-disagreement": _DISAGREEMENT,
    "huale-signs": replace(_DISAGREEMENT, huale_weights=(1.0, -1.0, 1.0, -1.0)),
    "huale-sum": replace(_DISAGREEMENT, huale_entropy="sum"),
}
"""What the sources of two strategies leave open. The last two of each were measured before `max` and `spread` became
the defaults."""
LOSSES = ((LIBRARY, LossConfig()), (HUALE, LossConfig.huale()))
CELLS, TWICE, ANOTHER, THIRD = "cells", "twice", "another", "third"
"""Folders of experiments."""
DRAWS = {ANOTHER: 1, THIRD: 2}
"""Of the scenes; those of all other experiments are of draw 0."""
DIVERSE, CROSSES, FIRST_IMAGES = "with-diversity", "losses", "first images"
CONFIRMED = tuple(one for one in VARIANTS if one not in ("huale-signs", "huale-sum"))
"""Of `VARIANTS`, compared once more on another draw of scenes."""
AGAIN = (BASELINE, DEFAULT, "uncertainty-mean", "uncertainty-sum", "huale")
"""Of `VARIANTS`, compared on a third draw, because the first two put them in different orders."""
FEWER = (BASELINE, DEFAULT, "uncertainty-sum", "huale", "huale-disagreement")
"""Of `VARIANTS`, those that are compared with SSDlite, too."""
PARTS = (DIVERSE, CROSSES, ANOTHER, THIRD, FIRST_IMAGES)


@dataclass(frozen=True)
class Scale:
    """How large everything is for one detector.

    Attributes:
        name: of its results.
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
        parts: what is measured beside the strategies and their regime, of `PARTS`.
        variants: those of `VARIANTS` that are measured, too.
        freeze: blocks of the backbone that stay fixed in all trainings, on everything labelled, too. None leaves that
            to the number of labels: a larger part of the network then learns from everything than from a few labels.
    """

    name: str
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
    parts: tuple[str, ...] = PARTS
    variants: tuple[str, ...] = ()
    freeze: int | None = None


ALL = (BASELINE, *STRATEGIES, *(f"{name}{DIVERSITY_SUFFIX}" for name in STRATEGIES))
FULL = (
    Scale("yolov5n", "yolov5n", 600, 300, 160, 400, 8, 20, 20, 5, 5, ALL, variants=tuple(VARIANTS)),
    Scale("ssdlite", SSDLITE, 600, 300, 224, 300, 8, 20, 20, 5, 5, ALL, variants=FEWER, freeze=18),
    Scale("ssdlite-long", SSDLITE, 600, 300, 224, 600, 8, 20, 20, 5, 5, (BASELINE, *STRATEGIES), parts=(), freeze=18),
)
QUICK = (Scale("yolov5n", "yolov5n", 60, 30, 96, 40, 8, 10, 10, 1, 2, (BASELINE, DEFAULT, "huale+diversity")),)


def stages(plan: Plan, scale: Scale) -> Iterator[tuple[str, Plan, str]]:
    """Name, settings and folder of each part; curves that two parts share are drawn once."""
    yield "strategies", replace(plan, strategies=tuple(one for one in plan.strategies if not one[1].diversity)), CELLS
    longer = replace(plan.training, iterations=2 * plan.training.iterations)
    baseline = tuple(one for one in plan.strategies if one[0] == BASELINE)
    yield "twice", replace(plan, strategies=baseline, cycles=0, training=longer), TWICE
    if DIVERSE in scale.parts:
        yield DIVERSE, plan, CELLS
    if CROSSES in scale.parts:
        yield CROSSES, replace(plan, strategies=tuple(map(parse_strategy, CROSSED)), losses=LOSSES), CELLS
    for draw, labels in ((ANOTHER, CONFIRMED), (THIRD, AGAIN)):
        if draw in scale.parts:
            known = [one for one in labels if one in (*scale.strategies, *scale.variants)]
            yield draw, replace(plan, strategies=tuple((one, VARIANTS[one]) for one in known)), draw
    if scale.variants:
        yield "variants", replace(plan, strategies=tuple((one, VARIANTS[one]) for one in scale.variants)), CELLS
