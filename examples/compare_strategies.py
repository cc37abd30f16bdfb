"""Compare two strategies on a COCO file, its labels withheld: `python examples/compare_strategies.py ANNOTATIONS.json`.

The same as `al-backend simulate` in its shortest form, with nothing but `model/`. A run that was stopped goes on where
it was.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from model.data.coco import read_coco
from model.detectors.factory import architectures, find_base
from model.errors import ModelError
from model.names import measure_threshold
from model.simulation.cell import Experiment
from model.simulation.data import hold_out
from model.simulation.detectors import FactoryDetectors
from model.simulation.output import write_report
from model.simulation.plan import Plan, parse_strategy
from model.simulation.results import BASELINE, collect
from model.simulation.runner import SimulationProgress, run_experiment
from model.simulation.summary import summarise
from model.training.config import TrainingConfig


def main(arguments: list[str] | None = None) -> int:
    """Read the command line, run the experiment, print what came out; 1 where it is not complete."""
    asked = parser().parse_args(arguments)
    try:
        document = compare(asked)
    except (ModelError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(document, indent=2) if asked.json else text(document))
    return 0 if document["complete"] else 1


def compare(asked: argparse.Namespace) -> dict[str, Any]:
    """Run or continue the experiment, and write its report.

    Returns:
        Plain values: `complete`, `report` (path) and `strategies`, see `model.simulation.summary.StrategySummary`.

    Raises:
        ModelError: the file cannot be read, or has too few images, or the folder holds another experiment.
        ValueError: there is no strategy of that name, or a number is out of range.
    """
    plan = Plan(
        strategies=tuple(map(parse_strategy, asked.strategies)),
        seeds=tuple(range(asked.seeds)),
        initial=asked.initial,
        budget=asked.budget,
        cycles=asked.cycles,
        training=TrainingConfig(iterations=asked.iterations, batch_size=asked.batch_size),
        min_score=measure_threshold(asked.detector),
    )
    data = hold_out(read_coco(asked.annotations, asked.images), asked.annotations.stem)
    base = find_base(asked.detector, None)
    experiment = Experiment(plan, data, FactoryDetectors(asked.detector, asked.image_size, base), asked.out)
    outcome = run_experiment(experiment, device=asked.device, parallel=asked.parallel, on_progress=_tell)
    results = collect(experiment, outcome)
    files = write_report(results, asked.out)
    return {
        "complete": results.complete,
        "report": str(files["report"]),
        "strategies": [asdict(item) for item in summarise(results)],
    }


def text(document: dict[str, Any]) -> str:
    """What came out, for people."""
    lines = [f"{'strategy':<24} {'seeds':>5} {'labels':>7} {'boxes':>7} {'mAP50':>6}"]
    for item in document["strategies"]:
        labels, boxes, quality = item["last"]
        lines.append(f"{item['strategy']:<24} {item['seeds']:>5} {labels:>7.0f} {boxes:>7.0f} {quality:>6.3f}")
    lines += [item["verdict"] for item in document["strategies"] if item["verdict"]]
    return "\n".join([*lines, f"Report: {document['report']}"])


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description="Compare two strategies on a COCO file, its labels withheld.")
    made.add_argument("annotations", type=Path, help="COCO annotation file; a quarter of its images is held out")
    made.add_argument("--images", type=Path, help="folder of the images; default: looked for beside the file")
    made.add_argument("--strategies", nargs=2, default=[BASELINE, "uncertainty"], help="two; NAME+diversity works, too")
    made.add_argument("--out", type=Path, default=Path("runs/compare"), help="folder of the experiment")
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--initial", type=int, default=20, help="labels at the start")
    made.add_argument("--budget", type=int, default=20, help="labels per cycle")
    made.add_argument("--cycles", type=int, default=3)
    made.add_argument("--detector", choices=architectures(), default="yolov5n")
    made.add_argument("--image-size", type=int, default=320)
    made.add_argument("--iterations", type=int, default=200, help="steps of each training")
    made.add_argument("--batch-size", type=int, default=8)
    made.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    made.add_argument("--parallel", type=int, help="curves side by side; default: what there is room for")
    made.add_argument("--json", action="store_true", help="one JSON document on stdout")
    return made


def _tell(now: SimulationProgress) -> None:
    print(f"\r{now.done:.1f} of {now.total} trainings", end="", file=sys.stderr, flush=True)
    if now.done >= now.total:
        print(file=sys.stderr)


if __name__ == "__main__":  # curves side by side are processes of their own
    sys.exit(main())
