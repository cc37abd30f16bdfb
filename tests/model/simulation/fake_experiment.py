"""A detector without a network, and experiments with it: quick, and better with every box that it has learnt from.

Run as `python -m tests.model.simulation.fake_experiment IMAGES OUT LOG SECONDS PARALLEL` it works on one, for tests
that stop it; a line is added to LOG for each training.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

from model.acquisition.strategy import StrategyConfig
from model.data.dataset import DetectionDataset, LabelledImage
from model.detections import Detections
from model.detectors.base import Image, View
from model.errors import NotEnoughLabels
from model.simulation.cell import Experiment
from model.simulation.data import SimulationData
from model.simulation.plan import Plan, parse_strategy
from model.simulation.runner import run_experiment
from model.training.config import Progress, TrainingConfig, TrainingReport

CLASSES = ("red", "green", "blue")
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
SIZE, SIDE = 32, 10


def draw(folder: Path, labels: Sequence[int | None], *, seed: int = 0) -> DetectionDataset:
    """One picture per label, with a square of that class; None gives an empty one."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    images = []
    for index, label in enumerate(labels):
        pixels = np.full((SIZE, SIZE, 3), 10 + index % 90, np.uint8)
        corner = rng.integers(0, SIZE - SIDE, 2)
        boxes: list[list[int]] = []
        if label is not None:
            x, y = corner
            pixels[y : y + SIDE, x : x + SIDE] = COLOURS[label]
            boxes = [[int(x), int(y), int(x) + SIDE, int(y) + SIDE]]
        path = folder / f"{index}.png"
        Picture.fromarray(pixels).save(path)
        key = f"{folder.name}/{index}"
        xyxy = np.array(boxes, np.float32).reshape(-1, 4)
        images.append(LabelledImage(key, path, xyxy, np.array([] if label is None else [label], np.int64)))
    return DetectionDataset(CLASSES, images)


def sample(folder: Path, count: int = 24) -> SimulationData:
    """Red is common, blue is rare, every sixth picture is empty."""
    kinds: list[int | None] = [0, 0, 1, 0, 2, None]
    pool = [kinds[index % 6] for index in range(count)]
    return SimulationData("squares", draw(folder / "pool", pool), draw(folder / "test", kinds[:5], seed=1))


class Fake:
    """Finds squares of the colours that it was shown; the more of a colour, the surer and the better placed."""

    architecture = "fake"
    image_size = SIZE

    def __init__(self, source: Fakes, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._source = source
        self._seen: NDArray[np.float64] = np.zeros(len(self.classes))

    def fit(
        self,
        train: DetectionDataset,
        validation: DetectionDataset | None,
        config: TrainingConfig,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> TrainingReport:
        if not train.num_boxes:
            raise NotEnoughLabels("no box")
        keys = [image.key for image in train.images]
        if self._source.log is not None:
            with self._source.log.open("a") as log:
                log.write(json.dumps({"keys": keys, "seed": config.seed, "eiou": config.losses.eiou}) + "\n")
        if self._source.fail_on in keys:
            raise RuntimeError(f"{self._source.fail_on} was shown")
        if self._source.die_on in keys:
            os._exit(9)
        for step in range(1, 3):
            time.sleep(self._source.seconds / 2)
            if on_progress is not None:
                on_progress(Progress("train", step, 2, step / 2))
        self._seen = train.class_counts().astype(np.float64)
        return TrainingReport(2, 1, 0, 0.0, 1.0, 0.5)

    def predict(
        self, images: Sequence[Image], views: Sequence[View] = (View.ORIGINAL,), *, min_score: float = 0.05
    ) -> list[Mapping[View, Detections]]:
        return [{view: self._look(image, view, min_score) for view in views} for image in images]

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "fake.json").write_text(json.dumps({"classes": self.classes, "seen": self._seen.tolist()}))

    def _look(self, image: Image, view: View, min_score: float) -> Detections:
        looks = image.mean(axis=(0, 1)).astype(np.float32) / 255
        boxes, probs = [], []
        for label, colour in enumerate(COLOURS):
            y, x = np.nonzero((image == colour).all(axis=2))
            sure = self._seen[label] / (1 + self._seen[label])
            if len(x) and sure >= max(min_score, 0.01):
                shift = SIDE * 0.9 * (1 - sure) * (-1 if view is View.HFLIP else 1)
                boxes.append([x.min() + shift, y.min(), x.max() + 1 + shift, y.max() + 1])
                probs.append([(1 - sure) * 0.3] * len(COLOURS) + [0.0])
                probs[-1][label] = sure
                probs[-1][-1] = 1.0 - sum(probs[-1])
        rows = np.array(probs, np.float32).reshape(-1, len(COLOURS) + 1)
        found = Detections(
            xyxy=np.array(boxes, np.float32).reshape(-1, 4),
            score=rows[:, :-1].max(axis=1, initial=0.0),
            label=rows[:, :-1].argmax(axis=1).astype(np.int64),
            probs=rows,
            height=image.shape[0],
            width=image.shape[1],
            side_std=np.ones((len(rows), 4), np.float32),
            embedding=rows[:, :-1],
            image_embedding=looks,
        )
        return found


@dataclass(frozen=True)
class Fakes:
    """Makes them."""

    seconds: float = 0.0
    log: Path | None = None
    fail_on: str = ""
    die_on: str = ""

    def create(self, classes: Sequence[str], *, seed: int, device: str) -> Fake:
        return Fake(self, classes)

    def load(self, folder: Path, *, device: str) -> Fake:
        document = json.loads((folder / "fake.json").read_text())
        fake = Fake(self, document["classes"])
        fake._seen = np.array(document["seen"])
        return fake

    def describe(self) -> dict[str, Any]:
        return {"architecture": "fake"}

    def use_threads(self, count: int) -> None:
        pass


def plan(*strategies: str, seeds: int = 1, initial: int = 3, budget: int = 3, cycles: int = 3, **more: Any) -> Plan:
    """Settings with defaults that suit these data."""
    config = StrategyConfig(vae_iterations=2)
    named = tuple(parse_strategy(name, config) for name in strategies or ("random", "uncertainty"))
    return Plan(named, tuple(range(seeds)), initial, budget, cycles, **more)


if __name__ == "__main__":
    # Whoever runs the tests in the background of a shell has Ctrl-C ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    images, out, log, seconds, parallel = sys.argv[1:]
    experiment = Experiment(plan(), sample(Path(images)), Fakes(float(seconds), Path(log)), Path(out))
    outcome = run_experiment(experiment, device="cpu", parallel=int(parallel))
    print("ended early" if outcome.ended_early else "to the end", outcome.failures)
