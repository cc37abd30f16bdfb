"""Every family learns from random weights or its base: a few images by heart, and from them something about others.

What this would find: statistics of normalisations that belong to other weights, labels off by one against background,
anchors that no box matches, boxes in the coordinates of another image size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from model.data.dataset import DetectionDataset
from model.data.reef import write_reef
from model.detectors import factory
from model.training.augmentation import Augmentation
from model.training.config import TrainingConfig
from model.training.evaluation import evaluate

pytestmark = pytest.mark.slow

SPECIES = ("cod", "plaice")


@dataclass(frozen=True)
class Case:
    """The smallest setting that was found to do; see the durations of the tests."""

    architecture: str
    image_size: int
    iterations: int
    batch_size: int = 8
    learning_rate: float | None = None
    held_out: float = 0.0
    """That mAP50 on other images has to exceed."""


CASES = [
    Case("yolov5n", 160, iterations=60, held_out=0.3),
    # From random weights sixteen images teach little about others.
    Case("ssdlite320_mobilenet_v3_large", 160, iterations=80, held_out=0.003),
    Case("fasterrcnn_mobilenet_v3_large_fpn", 192, iterations=360, batch_size=4, learning_rate=1e-3, held_out=0.003),
]
LONG = {"fasterrcnn_mobilenet_v3_large_fpn"}


def scenes(folder: Path, count: int, size: int, seed: int) -> DetectionDataset:
    return write_reef(folder, count, seed=seed, size=(size, size), species=SPECIES, empty_share=0.0, burst_share=0.0)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.architecture, marks=pytest.mark.long if case.architecture in LONG else ())
        for case in CASES
    ],
)
def test_sixteen_images_are_learned_by_heart(case: Case, tmp_path: Path) -> None:
    train = scenes(tmp_path / "train", 16, case.image_size, seed=1)
    held_out = scenes(tmp_path / "held-out", 16, case.image_size, seed=2)
    base = factory.find_base(case.architecture, None)
    detector = factory.create(case.architecture, SPECIES, image_size=case.image_size, device="cpu", base=base)
    before = evaluate(detector, held_out).map50
    config = TrainingConfig(
        iterations=case.iterations,
        batch_size=case.batch_size,
        learning_rate=case.learning_rate,
        freeze=0,
        augmentation=Augmentation.none(),
        workers=0,
    )
    report = detector.fit(train, None, config)
    assert report.iterations == case.iterations
    after, learned = evaluate(detector, held_out).map50, evaluate(detector, train).map50
    assert learned is not None
    assert learned >= 0.9
    assert before is not None
    assert after is not None
    assert after > max(5 * before, case.held_out), (before, after)
