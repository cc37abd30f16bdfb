"""What HUALE's losses bring SSD and Faster R-CNN beside their library's own, in pairs that differ in nothing else.

A pair has the same labelled scenes, starting weights and batches, and is tried on the same scenes that no training saw.
Every detector first gets a base (`benchmarks._bases`): a training with the library's losses on scenes of other species.

Every finished training is a line of `cells.jsonl` in the detector's folder under the work folder (`--work`,
`.build/losses` unless given), and a base in training keeps its state there: a run that is stopped goes on where it was.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

from benchmarks._bases import BaseRecipe, trained_base
from benchmarks._losses_plan import FASTER_RCNN, FULL, LOSSES, QUICK, SHORT, Cell, Plan, all_cells
from benchmarks._report import Options, Outcome, commit, main
from model.data.dataset import DetectionDataset
from model.data.reef import OTHER_SPECIES, SPECIES, write_reef
from model.detectors import factory
from model.detectors.torchvision_detector import TorchvisionDetector
from model.simulation.statistics import interval
from model.training.config import TrainingConfig
from model.training.evaluation import evaluate

logger = logging.getLogger(__name__)

WORK = Path(__file__).resolve().parent.parent / ".build" / "losses"
METRICS = ("map50", "map50_95")
POOL_SEED, HELD_OUT_SEED = 302, 303


def measure(options: Options) -> Outcome:
    """All trainings that are not done yet, then the pairs."""
    logging.basicConfig(level=logging.WARNING)
    for name in (__name__, "benchmarks"):
        logging.getLogger(name).setLevel(logging.INFO)
    plan = QUICK if options.quick else FULL
    detectors = [name for name, _ in plan.recipes if options.wants(name, SHORT[name])]
    if not detectors:
        known = ", ".join(SHORT.values())
        raise SystemExit(f"No detector is called {' or '.join(options.detectors)}; this benchmark has {known}.")
    cells = all_cells(plan, detectors)
    done: dict[Cell, dict[str, Any]] = {}
    for detector in detectors:
        own = [cell for cell in cells if cell.detector == detector]
        done |= _work_off(own, options.work or WORK, plan)
    notes = [
        f"{plan.labels} labelled scenes of {len(SPECIES)} species, {plan.held_out} held out, {plan.size} px. "
        f"Steps of {plan.batch_size} images: {_short(plan, detectors, 'iterations')}; the network sees "
        f"{_short(plan, detectors, 'image_size')} px; {plan.proposals} proposals in Faster R-CNN.",
        f"Start: a base trained on {plan.base_scenes} scenes of other species, "
        f"{_short(plan, detectors, 'base_iterations')} steps of {plan.base_batch_size} images.",
        *(
            f"{SHORT[one]}: the first {recipe.freeze} blocks of its backbone are those of {SHORT[lender]}'s base and "
            "stay as they are."
            for one in detectors
            if (lender := (recipe := plan.recipe(one)).backbone_of) is not None
        ),
        "huale: AL_LOSSES=huale, that is emphasis, EIoU (safe), variance head and their synchronic mix; warm-up a "
        "third of the steps. difference: "
        "huale minus library, mean over pairs; low and high: its 95 % interval by Student's t.",
        f"Trained at commit {', '.join(sorted({str(done[cell]['commit']) for cell in cells}))}.",
    ]
    return Outcome(results=rows(cells, done), notes=notes)


def _work_off(cells: Sequence[Cell], work: Path, plan: Plan) -> dict[Cell, dict[str, Any]]:
    """Every training of one detector that is not done yet; all results."""
    folder = plan.folder(work, cells[0].detector)
    folder.mkdir(parents=True, exist_ok=True)
    done, at = read_cells(folder / "cells.jsonl"), commit()
    held_out = _scenes(folder / "held-out", plan, HELD_OUT_SEED, plan.held_out)
    for number, cell in enumerate(cells, 1):
        if cell in done:
            continue
        done[cell] = {**_run(folder, plan, cell, _base(work, plan, cell.detector), held_out), "commit": at}
        write_cells(folder / "cells.jsonl", done)
        logger.info("%d of %d: %s %s", number, len(cells), cell, done[cell])
    return done


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
            known = interval(difference.tolist())
            low, high = (known.low, known.high) if known is not None else (None, None)
            result.append(
                {
                    "detector": SHORT[detector],
                    "labels": labels,
                    "metric": metric,
                    "pairs": len(seeds),
                    "library": round(float(values["library"].mean()), 4),
                    "huale": round(float(values["huale"].mean()), 4),
                    "difference": round(float(difference.mean()), 4),
                    "low": None if low is None else round(low, 4),
                    "high": None if high is None else round(high, 4),
                    "differences": " ".join(f"{value:+.3f}" for value in difference),
                }
            )
    return result


def _scenes(folder: Path, plan: Plan, seed: int, count: int) -> DetectionDataset:
    return write_reef(folder, count, seed=seed, size=(plan.size, plan.size), species=SPECIES, burst_share=0.0)


def _create(plan: Plan, architecture: str, classes: Sequence[str], base: Path | None, seed: int) -> TorchvisionDetector:
    image_size = plan.recipe(architecture).image_size
    detector = factory.create(architecture, classes, image_size=image_size, device="auto", base=base, seed=seed)
    if not isinstance(detector, TorchvisionDetector):
        raise TypeError(f"{architecture} is a {type(detector).__name__}, expected a TorchvisionDetector")
    if architecture == FASTER_RCNN:
        detector.network.roi_heads.fg_bg_sampler.batch_size_per_image = plan.proposals
        detector.network.rpn._post_nms_top_n["testing"] = plan.found
    return detector


def _base(work: Path, plan: Plan, detector: str) -> Path:
    """The weights that all trainings of a detector start from; trained once."""
    recipe = plan.recipe(detector)

    def create() -> TorchvisionDetector:
        made = _create(plan, detector, OTHER_SPECIES, None, seed=0)
        if recipe.backbone_of is not None:
            lend_blocks(_base(work, plan, recipe.backbone_of), made, recipe.freeze)
        return made

    return trained_base(
        plan.folder(work, detector),
        BaseRecipe(
            plan.base_scenes, plan.size, recipe.base_iterations, plan.base_batch_size, recipe.base_rate, recipe.freeze
        ),
        create,
    )


def lend_blocks(ssdlite: Path, faster_rcnn: TorchvisionDetector, count: int) -> None:
    """Gives Faster R-CNN the first blocks of MobileNet from an SSDlite's weights.

    Args:
        ssdlite: its weights file.
        faster_rcnn: gets them.
        count: blocks, at most 13: those behind are half as wide in SSDlite.

    Raises:
        ValueError: for more blocks.
    """
    if not 0 <= count <= 13:
        raise ValueError(f"SSDlite shares blocks 0 to 12 of MobileNet with Faster R-CNN, {count} were asked for")
    lent = load_file(ssdlite)
    for number in range(count):
        prefix = f"backbone.features.0.{number}."
        state = {name.removeprefix(prefix): tensor for name, tensor in lent.items() if name.startswith(prefix)}
        faster_rcnn.network.backbone.body[str(number)].load_state_dict(state)


def _run(folder: Path, plan: Plan, cell: Cell, base: Path, held_out: DetectionDataset) -> dict[str, Any]:
    most = max(plan.labels)
    data = _scenes(folder / f"labelled-{cell.seed}", plan, POOL_SEED + 1000 * (cell.seed + 1), most)
    detector = _create(plan, cell.detector, SPECIES, base, seed=cell.seed)
    recipe = plan.recipe(cell.detector)
    config = TrainingConfig(
        iterations=recipe.iterations,
        batch_size=plan.batch_size,
        learning_rate=recipe.rate,
        freeze=recipe.freeze,
        seed=cell.seed,
        mixed_precision=False,
        losses=replace(LOSSES[cell.losses], warm_up=round(plan.warm_up * recipe.iterations)),
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


def _short(plan: Plan, detectors: Sequence[str], name: str) -> str:
    return ", ".join(f"{SHORT[detector]} {getattr(plan.recipe(detector), name)}" for detector in detectors)


if __name__ == "__main__":
    raise SystemExit(main("losses", "What do HUALE's losses bring SSD and Faster R-CNN?", measure))
