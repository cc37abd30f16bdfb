"""What `benchmarks.losses` trains: detectors, sizes and steps, and which trainings belong together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from model.training.losses import LossConfig

SSD = "ssdlite320_mobilenet_v3_large"
FASTER_RCNN = "fasterrcnn_mobilenet_v3_large_fpn"
SHORT = {SSD: "ssdlite", FASTER_RCNN: "fasterrcnn_mobilenet"}
LOSSES = {"library": LossConfig(), "huale": LossConfig.huale()}


@dataclass(frozen=True)
class Recipe:
    """How one detector is trained.

    Attributes:
        image_size: pixels that the network sees.
        iterations: of a training.
        base_iterations: of the base.
        base_rate: peak learning rate of the base.
        rate: of the others.
        freeze: first blocks of the backbone that stay fixed, in the base, too.
        backbone_of: another detector, whose base lends those blocks to this one's.
    """

    image_size: int
    iterations: int
    base_iterations: int
    base_rate: float = 1e-3
    rate: float = 5e-4
    freeze: int = 0
    backbone_of: str | None = None


@dataclass(frozen=True)
class Plan:
    """Sizes of a run.

    Attributes:
        recipes: by detector.
        seeds: pairs per row.
        labels: numbers of labelled scenes, the smallest first.
        held_out: scenes that everything is tried on.
        size: pixels of a scene's sides.
        batch_size: below 8, batch normalisation keeps the base's statistics.
        base_scenes: scenes of other species.
        base_batch_size: of the base.
        proposals: of Faster R-CNN: sampled per image in a training, where torchvision's 512 cost ten times as much as
            all the rest. In prediction the best `found`.
        found: see `proposals`.
        warm_up: share of the steps without emphasis and learned variances; a third is what 300 steps have by default.
    """

    recipes: tuple[tuple[str, Recipe], ...]
    seeds: int = 3
    labels: tuple[int, ...] = (30, 120)
    held_out: int = 120
    size: int = 192
    batch_size: int = 6
    base_scenes: int = 1000
    base_batch_size: int = 8
    proposals: int = 32
    found: int = 200
    warm_up: float = 1 / 3

    def recipe(self, detector: str) -> Recipe:
        """How this detector is trained."""
        return dict(self.recipes)[detector]

    def digest(self, detector: str) -> str:
        """Says whether stored results of a detector belong to this plan; more seeds or labels leave it as it is."""
        told = {key: value for key, value in asdict(self).items() if key not in ("seeds", "labels", "recipes")}
        losses = {name: asdict(config) for name, config in LOSSES.items()}
        recipe = self.recipe(detector)
        lender = [] if recipe.backbone_of is None else [asdict(self.recipe(recipe.backbone_of))]
        document = [told, asdict(recipe), *lender, losses]
        return hashlib.sha256(json.dumps(document, sort_keys=True, default=str).encode()).hexdigest()[:12]

    def folder(self, work: Path, detector: str) -> Path:
        """Where a detector's base and results are kept, below the work folder."""
        return work / f"{SHORT[detector]}-{self.digest(detector)}"


FULL = Plan(
    (
        (SSD, Recipe(image_size=192, iterations=250, base_iterations=1500)),
        # Its finest level has a cell for every 32 pixels, which at 192 pixels are larger than most fish. A backbone of
        # its own, from random weights at 384 pixels, would take three hours of one core before the first pair.
        (
            FASTER_RCNN,
            Recipe(image_size=384, iterations=250, base_iterations=1000, freeze=10, backbone_of=SSD),
        ),
    )
)
QUICK = Plan(
    (
        (SSD, Recipe(image_size=160, iterations=25, base_iterations=80)),
        (FASTER_RCNN, Recipe(image_size=160, iterations=15, base_iterations=40)),
    ),
    seeds=2,
    labels=(20,),
    held_out=30,
    size=160,
    base_scenes=100,
)


@dataclass(frozen=True)
class Cell:
    """One training: a detector, how many labelled scenes, which ones, and by which losses."""

    detector: str
    labels: int
    seed: int
    losses: str


def all_cells(plan: Plan, detectors: Sequence[str]) -> list[Cell]:
    """Every training, pairs together, seed by seed, so that a run that is stopped early leaves whole pairs."""
    return [
        Cell(detector, labels, seed, losses)
        for detector in detectors
        for seed in range(plan.seeds)
        for labels in plan.labels
        for losses in LOSSES
    ]
