"""The work of an experiment: train, measure, choose, and again; each finished cycle is kept."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from model.acquisition.strategy import create_strategy
from model.data.dataset import DetectionDataset
from model.detectors.base import Detector
from model.simulation.data import SimulationData
from model.simulation.detectors import DetectorSource
from model.simulation.environment import made_on
from model.simulation.plan import Cell, Plan, derived_seed
from model.simulation.selection import Chosen, choose
from model.simulation.store import SimulationError, Store, read_json, write_json
from model.training.config import Progress
from model.training.evaluation import evaluate

_TRAINING, _MEASURING = 0.8, 0.1
"""Rough shares of a cycle's time; the rest is choosing."""
_STATES = 5
"""States of a running training that are written, so that a killed one loses a fifth of it at most."""

Report = Callable[[float, str], None]
"""Called with the trainings that are done, a running one as a fraction, and what is being done."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """Everything that the work on a cell needs; picklable.

    Attributes:
        plan: settings.
        data: pool and held-out images.
        source: of detectors.
        folder: of the `Store`.
    """

    plan: Plan
    data: SimulationData
    source: DetectorSource
    folder: Path

    @property
    def store(self) -> Store:
        """The experiment's folder."""
        return Store(self.folder)


def run_cell(experiment: Experiment, cell: Cell, *, device: str, threads: int, report: Report) -> None:
    """Work on one curve until it is complete, from the first cycle that is not kept yet.

    Args:
        experiment: everything about it.
        cell: which curve.
        device: as `model.detectors.factory.resolve_device` takes it.
        threads: that read images during a training.
        report: see `Report`; what it raises ends the work.
    """
    plan, data, store = experiment.plan, experiment.data, experiment.store
    worker = _Worker(experiment, cell.losses, cell.seed, device, threads, report)
    done = store.cycles(cell)
    labelled = data.initial(plan.initial, cell.seed)
    position = {image.key: task for task, image in enumerate(data.pool.images)}
    for document in done:
        labelled += [position[row["key"]] for row in document["selected"]]
    added = labelled[:] if not done else [position[row["key"]] for row in done[-1]["selected"]]
    for cycle in range(len(done), plan.cycles + 1):
        if cycle and not added:
            break  # the pool was exhausted by an earlier cycle
        if cycle == 0:
            detector, measured = worker.start(labelled)
        else:
            detector, measured = worker.train(labelled, cycle, store.cell_folder(cell) / "training")
        chosen = Chosen((), ())
        started = time.monotonic()
        if cycle < plan.cycles:
            report(cycle + _TRAINING + _MEASURING, "choosing")
            strategy = create_strategy(plan.strategy(cell.strategy))
            chosen = choose(
                strategy,
                worker.with_novelty(detector, labelled, cell, cycle) if strategy.needs_novelty else detector,
                data.pool,
                labelled,
                budget=plan.budget,
                seed=derived_seed(cell.seed, "ranking", cycle),
                min_score=plan.min_score,
                pool_size=plan.pool_size,
            )
        report(cycle + _TRAINING + _MEASURING, "writing")  # raises where the parent is gone, and another may be at work
        images = data.pool.images
        store.write_cycle(
            cell,
            {
                "cycle": cycle,
                **measured,
                "labelled": [images[task].key for task in added],
                "selected": [
                    {"key": images[task].key, "informativeness": value}
                    for task, value in zip(chosen.tasks, chosen.informativeness, strict=True)
                ],
                "unreadable": list(chosen.unreadable),
                "choosing_seconds": round(time.monotonic() - started, 3),
            },
        )
        # Its state was kept for a killed training; that the cycle is written makes it worthless.
        shutil.rmtree(store.cell_folder(cell) / "training", ignore_errors=True)
        added = list(chosen.tasks)
        labelled = [*labelled, *added]
        report(cycle + 1, "")


def run_full(experiment: Experiment, losses: str, seed: int, *, device: str, threads: int, report: Report) -> None:
    """Train once on the whole pool, as a reference, unless that is kept already."""
    store = experiment.store
    path = store.full_path(losses, seed)
    if read_json(path) is None:
        worker = _Worker(experiment, losses, seed, device, threads, report)
        state = path.with_suffix(".training")
        _, measured = worker.train(range(len(experiment.data.pool)), 0, state)
        write_json(path, measured)
        shutil.rmtree(state, ignore_errors=True)
    report(1, "")


class _Worker:
    """Trains and measures on the images that are labelled so far."""

    def __init__(
        self, experiment: Experiment, losses: str, seed: int, device: str, threads: int, report: Report
    ) -> None:
        self._experiment, self._losses, self._seed = experiment, losses, seed
        self._device, self._threads, self._report = device, threads, report

    def start(self, labelled: Sequence[int]) -> tuple[Detector, dict[str, Any]]:
        """The training on the initial set: made by the strategy that comes first, read by all others.

        It would be the same for all of them. On a GPU, where no training repeats itself to the last bit, sharing it
        also makes sure that the curves begin at the same point.
        """
        folder = self._experiment.store.start_folder(self._losses, self._seed)
        folder.mkdir(parents=True, exist_ok=True)
        self._report(0.0, "starting")
        with FileLock(folder / ".lock"):
            measured = read_json(folder / "measured.json")
            # Weights are large, and whoever keeps only the numbers of an experiment gets them by the same training.
            if measured is not None and (folder / "detector").is_dir():
                return self._experiment.source.load(folder / "detector", device=self._device), measured
            detector, now = self.train(labelled, 0, folder / "training")
            # Killed while it writes, there are the whole weights or none: the folder alone says that they are there.
            detector.save(folder / "saving")
            shutil.rmtree(folder / "detector", ignore_errors=True)  # whose numbers are lost
            if measured is None:
                measured = now
                write_json(folder / "measured.json", measured)
            (folder / "saving").rename(folder / "detector")
            shutil.rmtree(folder / "training", ignore_errors=True)
            return detector, measured

    def train(self, labelled: Sequence[int], cycle: int, state: Path) -> tuple[Detector, dict[str, Any]]:
        """Train from the base weights on these images and measure on the held-out ones.

        Returns:
            The detector, and what is kept of it as plain JSON values.
        """
        plan, data = self._experiment.plan, self._experiment.data
        train = self._labelled(labelled)
        config = plan.training_of(self._losses, self._seed, cycle)
        config = replace(
            config,
            checkpoint=state,
            checkpoint_every=max(1, config.iterations // _STATES),
            workers=self._threads,
        )
        weights = derived_seed(self._seed, "weights")
        detector = self._experiment.source.create(data.pool.classes, seed=weights, device=self._device)
        report = detector.fit(train, None, config, self._progress(cycle, 0.0, _TRAINING, "training"))
        started = time.monotonic()
        evaluation = evaluate(
            detector, data.test, on_progress=self._progress(cycle, _TRAINING, _MEASURING, "measuring")
        )
        if evaluation.map50 is None:
            raise SimulationError(
                f"none of the held-out images with a box can be read: {'; '.join(evaluation.skipped[:3])}"
            )
        counts = dict(zip(train.classes, train.class_counts().tolist(), strict=True))
        return detector, {
            "labels": len(train),
            "boxes": train.num_boxes,
            "class_counts": counts,
            "metrics": evaluation.as_dict(),
            "training": report.as_dict(),
            "measuring_seconds": round(time.monotonic() - started, 3),
            "made_on": made_on(self._device),
        }

    def _labelled(self, tasks: Sequence[int]) -> DetectionDataset:
        pool = self._experiment.data.pool
        return DetectionDataset(pool.classes, [pool.images[task] for task in sorted(tasks)])

    def with_novelty(self, detector: Detector, labelled: Sequence[int], cell: Cell, cycle: int) -> Detector:
        """The detector beside an autoencoder of the labelled images, for a strategy that asks for novelty."""
        from model.acquisition.novelty import with_novelty  # brings torch

        train = self._labelled(labelled)
        seed = derived_seed(self._seed, "autoencoder", cycle)
        return with_novelty(
            detector, train, self._experiment.plan.strategy(cell.strategy), seed=seed, device=self._device
        )

    def _progress(self, cycle: int, before: float, share: float, what: str) -> Callable[[Progress], None]:
        def report(progress: Progress) -> None:
            self._report(cycle + before + share * progress.iteration / max(1, progress.iterations), what)

        return report
