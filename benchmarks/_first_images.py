"""The first images that people label, before anything is trained: by a strategy that asks no detector, or at random."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._label_goals import LIBRARY
from model.acquisition.strategy import create_strategy
from model.data.dataset import DetectionDataset
from model.simulation.cell import Experiment
from model.simulation.plan import derived_seed
from model.simulation.results import BASELINE
from model.simulation.selection import choose
from model.simulation.statistics import interval
from model.simulation.store import read_json, write_json
from model.training.evaluation import evaluate

FOLDER = "first"


def measure_first(experiment: Experiment, strategies: Sequence[str], device: str) -> None:
    """Train on the first images of each strategy, with the seeds and steps of the experiment's starts.

    Args:
        experiment: its folder gets `first/`; what is there is not done again.
        strategies: names, of those that need no head.
        device: that trains and predicts.
    """
    for seed in experiment.plan.seeds:
        for name in strategies:
            path = _path(experiment.folder, name, seed)
            if read_json(path) is None:
                write_json(path, _measured(experiment, name, seed, device))


def first_rows(experiment: Experiment, strategies: Sequence[str]) -> list[dict[str, Any]]:
    """mAP50 after the first training by strategy, and beside random order's of the same seed."""
    values = {BASELINE: {seed: _start(experiment, seed) for seed in experiment.plan.seeds}}
    for name in strategies:
        values[name] = {seed: _kept(experiment, name, seed) for seed in experiment.plan.seeds}
    known = {name: {s: v for s, v in by_seed.items() if v is not None} for name, by_seed in values.items()}
    return [_row(name, by_seed, known[BASELINE]) for name, by_seed in known.items() if by_seed]


def _measured(experiment: Experiment, name: str, seed: int, device: str) -> dict[str, Any]:
    plan, pool = experiment.plan, experiment.data.pool
    detector = experiment.source.create(pool.classes, seed=derived_seed(seed, "weights"), device=device)
    chosen = choose(
        create_strategy(plan.strategy(name)),
        detector,
        pool,
        (),
        budget=plan.initial,
        seed=derived_seed(seed, "first"),
        min_score=1.0,  # as the product does: what the head says is noise
    )
    images = [pool.images[task] for task in sorted(chosen.tasks)]
    detector.fit(DetectionDataset(pool.classes, images), None, plan.training_of(LIBRARY, seed, 0))
    return {
        "map50": evaluate(detector, experiment.data.test).map50,
        "boxes": sum(len(image.label) for image in images),
        "labelled": [pool.images[task].key for task in chosen.tasks],
    }


def _start(experiment: Experiment, seed: int) -> float | None:
    """Random order's first images are the start that all curves share."""
    document = read_json(experiment.store.start_folder(LIBRARY, seed) / "measured.json")
    return None if document is None else float(document["metrics"]["map50"])


def _kept(experiment: Experiment, name: str, seed: int) -> float | None:
    document = read_json(_path(experiment.folder, name, seed))
    return None if document is None else float(document["map50"])


def _row(name: str, values: dict[int, float], random: dict[int, float]) -> dict[str, Any]:
    pairs = [] if name == BASELINE else [values[seed] - random[seed] for seed in values if seed in random]
    return {
        "strategy": name,
        "seeds": len(values),
        "map50": round(float(np.mean(list(values.values()))), 4),
        "lowest": round(min(values.values()), 4),
        "highest": round(max(values.values()), 4),
        "against_random": interval(pairs),
    }


def _path(folder: Path, name: str, seed: int) -> Path:
    return folder / FOLDER / f"{name}-{seed}.json"
