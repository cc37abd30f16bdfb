"""What HUALE's losses bring SSD and Faster R-CNN beside their library's own, in pairs that differ in nothing else.

A pair has the same labelled scenes, starting weights and batches, and is tried on the same scenes that no training saw.
There are no pretrained weights without internet, and from random weights a short training finds nothing, so every
detector first gets a base: a training with the library's losses on scenes of other species.

Every finished training is a line of `cells.jsonl` in the work folder (`--work`, `.build/losses` unless given), and a
base in training keeps its state there: a run that is stopped goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._report import Options, Outcome, commit, main
from model.data.dataset import DetectionDataset
from model.data.reef import OTHER_SPECIES, SPECIES, write_reef
from model.detectors import factory
from model.detectors.torchvision_detector import TorchvisionDetector
from model.training.config import Progress, TrainingConfig
from model.training.evaluation import evaluate
from model.training.losses import LossConfig

logger = logging.getLogger(__name__)

WORK = Path(__file__).resolve().parent.parent / ".build" / "losses"
SSD = "ssdlite320_mobilenet_v3_large"
FASTER_RCNN = "fasterrcnn_mobilenet_v3_large_fpn"
SHORT = {SSD: "ssdlite", FASTER_RCNN: "fasterrcnn_mobilenet"}
LOSSES = {"library": LossConfig(), "huale": LossConfig.huale()}
METRICS = ("map50", "map50_95")
BASE_SEED, POOL_SEED, HELD_OUT_SEED = 301, 302, 303
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""97.5 % points of Student's t for 1, 2, ... degrees of freedom."""


@dataclass(frozen=True)
class Plan:
    """Sizes of a run.

    Attributes:
        seeds: pairs per row.
        labels: numbers of labelled scenes, the smallest first.
        held_out: scenes that everything is tried on.
        size: pixels, of scenes and of what the networks see.
        batch_size: below 8, batch normalisation keeps the base's statistics.
        iterations: of a training, by detector.
        base_scenes: scenes of other species.
        base_iterations: of the base, by detector.
        base_batch_size: of the base.
        base_rate: peak learning rate of the base, by detector.
        rate: of the others.
        freeze: blocks of the backbone that stay fixed after the base.
        proposals: of Faster R-CNN: sampled per image in a training, where torchvision's 512 cost ten times as much as
            all the rest. In prediction the best `found`.
        found: see `proposals`.
        warm_up: share of the steps without emphasis and learned variances; a third is what 300 steps have by default.
    """

    seeds: int = 3
    labels: tuple[int, ...] = (30, 120)
    held_out: int = 120
    size: int = 192
    batch_size: int = 6
    iterations: tuple[tuple[str, int], ...] = ((SSD, 250), (FASTER_RCNN, 150))
    base_scenes: int = 1000
    base_iterations: tuple[tuple[str, int], ...] = ((SSD, 1500), (FASTER_RCNN, 1200))
    base_batch_size: int = 8
    base_rate: tuple[tuple[str, float], ...] = ((SSD, 1e-3), (FASTER_RCNN, 1e-3))
    rate: tuple[tuple[str, float], ...] = ((SSD, 5e-4), (FASTER_RCNN, 5e-4))
    freeze: int = 0
    proposals: int = 32
    found: int = 200
    warm_up: float = 1 / 3

    def digest(self) -> str:
        """Says whether a stored result belongs to this plan; more seeds or label counts leave it as it is."""
        told = {key: value for key, value in asdict(self).items() if key not in ("seeds", "labels")}
        losses = {name: asdict(config) for name, config in LOSSES.items()}
        return hashlib.sha256(json.dumps([told, losses], sort_keys=True, default=str).encode()).hexdigest()[:12]


FULL = Plan()
QUICK = Plan(
    seeds=2,
    labels=(20,),
    held_out=30,
    size=160,
    iterations=((SSD, 25), (FASTER_RCNN, 15)),
    base_scenes=100,
    base_iterations=((SSD, 80), (FASTER_RCNN, 40)),
)


@dataclass(frozen=True)
class Cell:
    """One training: a detector, how many labelled scenes, which ones, and by which losses."""

    detector: str
    labels: int
    seed: int
    losses: str


def measure(options: Options) -> Outcome:
    """All trainings that are not done yet, then the pairs."""
    logging.basicConfig(level=logging.WARNING)
    logger.setLevel(logging.INFO)
    plan = QUICK if options.quick else FULL
    work = (options.work or WORK) / plan.digest()
    work.mkdir(parents=True, exist_ok=True)
    done, at = read_cells(work / "cells.jsonl"), commit()
    cells = all_cells(plan)
    held_out = _scenes(work / "held-out", plan, HELD_OUT_SEED, 0, plan.held_out)
    for number, cell in enumerate(cells, 1):
        if cell in done:
            continue
        base = _base(work, plan, cell.detector, held_out)
        done[cell] = {**_run(work, plan, cell, base, held_out), "commit": at}
        write_cells(work / "cells.jsonl", done)
        logger.info("%d of %d: %s %s", number, len(cells), cell, done[cell])
    notes = [
        f"{plan.size} px; {plan.labels} labelled scenes of {len(SPECIES)} species, {plan.held_out} held out. "
        f"Steps of {plan.batch_size} images: {_short(plan.iterations)}; {plan.proposals} proposals in Faster R-CNN.",
        f"Start: a base trained on {plan.base_scenes} scenes of other species, {_short(plan.base_iterations)} steps of "
        f"{plan.base_batch_size} images.",
        "huale: AL_LOSSES=huale, that is emphasis, EIoU (safe), variance head and their synchronic mix; warm-up a "
        "third of the steps. difference: "
        "huale minus library, mean over pairs; low and high: its 95 % interval by Student's t.",
        f"Trained at commit {', '.join(sorted({str(done[cell]['commit']) for cell in cells}))}.",
    ]
    return Outcome(results=rows(cells, done), notes=notes)


def all_cells(plan: Plan) -> list[Cell]:
    """Every training, pairs together, seed by seed, so that a run that is stopped early leaves whole pairs."""
    return [
        Cell(detector, labels, seed, losses)
        for seed in range(plan.seeds)
        for detector in (SSD, FASTER_RCNN)
        for labels in plan.labels
        for losses in LOSSES
    ]


def read_cells(path: Path) -> dict[Cell, dict[str, Any]]:
    """What earlier runs found."""
    found: dict[Cell, dict[str, Any]] = {}
    for line in path.read_text().splitlines() if path.is_file() else ():
        document = json.loads(line)
        found[Cell(*(document.pop(name) for name in ("detector", "labels", "seed", "losses")))] = document
    return found


def write_cells(path: Path, done: dict[Cell, dict[str, Any]]) -> None:
    """One line for each training; the file is always whole."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps({**asdict(cell), **result}) + "\n" for cell, result in done.items()))
    temporary.replace(path)


def rows(cells: Sequence[Cell], done: dict[Cell, dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each detector, label count and metric."""
    result = []
    for detector, labels in dict.fromkeys((cell.detector, cell.labels) for cell in cells):
        seeds = sorted({cell.seed for cell in cells})
        for metric in METRICS:
            values = {
                name: np.array([done[Cell(detector, labels, seed, name)][metric] for seed in seeds]) for name in LOSSES
            }
            difference = values["huale"] - values["library"]
            low, high = interval(difference)
            result.append(
                {
                    "detector": SHORT[detector],
                    "labels": labels,
                    "metric": metric,
                    "pairs": len(seeds),
                    "library": round(float(values["library"].mean()), 4),
                    "huale": round(float(values["huale"].mean()), 4),
                    "difference": round(float(difference.mean()), 4),
                    "low": low,
                    "high": high,
                    "differences": " ".join(f"{value:+.3f}" for value in difference),
                }
            )
    return result


def interval(values: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """The 95 % interval of the mean by Student's t, for at most 11 values; None for fewer than two."""
    if len(values) < 2:
        return None, None
    reach = STUDENT[len(values) - 2] * float(values.std(ddof=1)) / math.sqrt(len(values))
    return round(float(values.mean()) - reach, 4), round(float(values.mean()) + reach, 4)


def _scenes(
    folder: Path, plan: Plan, seed: int, start: int, count: int, species: tuple[str, ...] = SPECIES
) -> DetectionDataset:
    return write_reef(
        folder, count, seed=seed, size=(plan.size, plan.size), species=species, start=start, burst_share=0.0
    )


def _create(plan: Plan, architecture: str, classes: Sequence[str], base: Path | None, seed: int) -> TorchvisionDetector:
    detector = factory.create(architecture, classes, image_size=plan.size, device="auto", base=base, seed=seed)
    if not isinstance(detector, TorchvisionDetector):
        raise TypeError(f"{architecture} is a {type(detector).__name__}, expected a TorchvisionDetector")
    if architecture == FASTER_RCNN:
        detector.network.roi_heads.fg_bg_sampler.batch_size_per_image = plan.proposals
        detector.network.rpn._post_nms_top_n["testing"] = plan.found
    return detector


def _base(work: Path, plan: Plan, architecture: str, held_out: DetectionDataset) -> Path:
    """The weights that all trainings of a detector start from; trained once."""
    folder = work / "base" / architecture
    path = folder / "weights.safetensors"
    if path.is_file():
        return path
    data = _scenes(work / "base-scenes", plan, BASE_SEED, 0, plan.base_scenes, OTHER_SPECIES)
    detector = _create(plan, architecture, OTHER_SPECIES, None, seed=0)
    config = TrainingConfig(
        iterations=dict(plan.base_iterations)[architecture],
        batch_size=plan.base_batch_size,
        learning_rate=dict(plan.base_rate)[architecture],
        mixed_precision=False,
        checkpoint=work / "base" / f"{architecture}-state",
        checkpoint_every=100,
    )
    report = detector.fit(data, None, config, _say)
    known = _scenes(work / "base-held-out", plan, HELD_OUT_SEED, 0, len(held_out), OTHER_SPECIES)
    found = evaluate(detector, known)
    logger.info("base %s: %.0f s, mAP50 %.3f on its own species", architecture, report.seconds, found.map50 or 0.0)
    detector.save(folder)
    return path


def _run(work: Path, plan: Plan, cell: Cell, base: Path, held_out: DetectionDataset) -> dict[str, Any]:
    most = max(plan.labels)
    data = _scenes(work / f"labelled-{cell.seed}", plan, POOL_SEED + 1000 * (cell.seed + 1), 0, most)
    detector = _create(plan, cell.detector, SPECIES, base, seed=cell.seed)
    iterations = dict(plan.iterations)[cell.detector]
    config = TrainingConfig(
        iterations=iterations,
        batch_size=plan.batch_size,
        learning_rate=dict(plan.rate)[cell.detector],
        freeze=plan.freeze,
        seed=cell.seed,
        mixed_precision=False,
        losses=replace(LOSSES[cell.losses], warm_up=round(plan.warm_up * iterations)),
    )
    started = time.monotonic()
    report = detector.fit(DetectionDataset(data.classes, data.images[: cell.labels]), None, config)
    found = evaluate(detector, held_out)
    return {
        "map50": round(found.map50 or 0.0, 5),
        "map50_95": round(found.map50_95 or 0.0, 5),
        "training_seconds": round(report.seconds, 1),
        "seconds": round(time.monotonic() - started, 1),
        "last_loss": round(report.last_loss, 4),
    }


def _short(by_detector: tuple[tuple[str, int], ...]) -> str:
    return ", ".join(f"{SHORT[detector]} {value}" for detector, value in by_detector)


def _say(progress: Progress) -> None:
    if progress.iteration % 50 == 0:
        logger.info("%d of %d, loss %.3f", progress.iteration, progress.iterations, progress.loss or 0.0)


if __name__ == "__main__":
    raise SystemExit(main("losses", "What do HUALE's losses bring SSD and Faster R-CNN?", measure))
