from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.data.dataset import DetectionDataset, LabelledImage
from model.detectors import factory
from model.detectors.base import View
from model.detectors.yolo import YoloDetector
from model.errors import NotEnoughLabels, TrainingCancelled
from model.images import load_image
from model.training.config import Progress, TrainingConfig
from model.training.evaluation import evaluate
from model.training.freezing import blocks_to_freeze
from model.training.losses import LossConfig

Squares = Callable[..., DetectionDataset]
SHORT = TrainingConfig(iterations=4, batch_size=8, workers=0, mixed_precision=False)


def create(classes: tuple[str, ...] = (), **options: Any) -> YoloDetector:
    detector = factory.create("yolov5n", classes, image_size=64, device="cpu", **options)
    assert isinstance(detector, YoloDetector)
    return detector


def from_base(classes: tuple[str, ...] = ()) -> YoloDetector:
    return create(classes, base=factory.find_base("yolov5n", None))


def test_a_few_images_are_learned(squares: Squares) -> None:
    data = squares(10)
    detector = from_base()
    report = detector.fit(data, None, replace(SHORT, iterations=40))
    assert detector.classes == ("red", "blue")
    assert report.last_loss < 0.7 * report.first_loss
    assert report.frozen_blocks == blocks_to_freeze(10, 10)
    result = evaluate(detector, data)
    assert result.map50 is not None
    assert result.map50 > 0.3


def test_switched_losses_reach_the_training(squares: Squares) -> None:
    data = squares(10)
    results = {}
    for losses in (LossConfig(), replace(LossConfig.huale(), warm_up=5)):
        detector = from_base()
        report = detector.fit(data, None, replace(SHORT, iterations=40, losses=losses))
        results[losses.emphasis] = report.last_loss
        assert report.last_loss < 0.8 * report.first_loss
        result = evaluate(detector, data)
        assert result.map50 is not None
        assert result.map50 > 0.3
    assert results[True] != results[False]


def test_same_seed_same_detector(squares: Squares) -> None:
    data = squares(6)
    one, again = from_base(), from_base()
    one.fit(data, None, SHORT)
    again.fit(data, None, replace(SHORT, workers=2))
    for name, value in one.tensors().items():
        assert torch.equal(value, again.tensors()[name]), name


def test_a_size_that_is_set_later_is_rounded_before_it_trains(squares: Squares) -> None:
    detector = from_base()
    detector.image_size = 70
    assert detector.fit(squares(2), None, replace(SHORT, iterations=1, batch_size=2)).iterations == 1
    assert detector.description()["image_size"] == 96


def test_known_classes_keep_their_rows(squares: Squares) -> None:
    data = squares(6)
    detector = from_base(("blue", "red", "old"))
    before = [branch[-1].weight.detach().clone() for branch in detector._network.model[-1].cv3]
    detector.fit(data, None, replace(SHORT, iterations=1, learning_rate=0.0))
    after = [branch[-1].weight.detach() for branch in detector._network.model[-1].cv3]
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old[[1, 0]])


def test_leading_blocks_stay_fixed_when_pretrained(squares: Squares) -> None:
    data = squares(6)
    detector = from_base()
    before = {name: value.clone() for name, value in detector.tensors().items()}
    report = detector.fit(data, None, replace(SHORT, freeze=5))
    assert report.frozen_blocks == 5
    changed = {int(name.split(".")[1]) for name, value in detector.tensors().items() if not same(before, name, value)}
    assert min(changed) == 5
    assert max(changed) == 24


def same(before: dict[str, torch.Tensor], name: str, value: torch.Tensor) -> bool:
    return before[name].shape == value.shape and torch.equal(before[name], value)


@pytest.mark.parametrize("architecture", ["yolov5n", "ssdlite320_mobilenet_v3_large"])
def test_what_began_from_random_weights_is_never_frozen(architecture: str, squares: Squares, tmp_path: Path) -> None:
    """What a few images have taught its backbone is nothing to keep for the next training."""
    data, once = squares(6), replace(SHORT, iterations=1)
    detector = factory.create(architecture, (), image_size=64, device="cpu")
    assert detector.fit(data, None, once).frozen_blocks == 0
    detector.save(tmp_path)
    again = factory.load(tmp_path, device="cpu")
    assert again.fit(data, None, once).frozen_blocks == 0
    again.save(tmp_path)
    # Who names it as a base says that its backbone is good.
    based = factory.create(architecture, (), image_size=64, device="cpu", base=tmp_path / "weights.safetensors")
    frozen = based.fit(data, None, once).frozen_blocks
    assert frozen >= 10
    based.save(tmp_path)
    assert factory.load(tmp_path, device="cpu").fit(data, None, once).frozen_blocks == frozen


@pytest.mark.parametrize(("images", "blocks"), [(1, 10), (199, 10), (200, 5), (1000, 5), (1001, 0)])
def test_fewer_blocks_are_frozen_with_more_images(images: int, blocks: int) -> None:
    assert blocks_to_freeze(images, 10) == blocks


def test_cancelled_training_leaves_the_detector_as_it_was(squares: Squares) -> None:
    data, seen = squares(6), []
    detector = from_base(("a",))
    before = {name: value.clone() for name, value in detector.tensors().items()}

    def stop(progress: Progress) -> None:
        seen.append(progress)
        raise TrainingCancelled("asked to stop")

    with pytest.raises(TrainingCancelled):
        detector.fit(data, None, SHORT, stop)
    assert len(seen) == 1
    assert detector.classes == ("a",)
    for name, value in detector.tensors().items():
        assert torch.equal(value, before[name]), name


def test_prediction_follows_a_training(squares: Squares) -> None:
    data = squares(6)
    image = load_image(data.images[0].path)
    detector = from_base()
    assert len(detector.predict([image], min_score=0.0)[0][View.ORIGINAL]) == 0
    detector.fit(data, None, SHORT)
    assert detector.predict([image], min_score=0.0)[0][View.ORIGINAL].num_classes == 2


def test_no_box_is_not_enough(squares: Squares) -> None:
    data = squares(3)
    bare = [LabelledImage(i.key, i.path, np.zeros((0, 4), np.float32), np.zeros(0, np.int64)) for i in data.images]
    with pytest.raises(NotEnoughLabels, match="3 training images with no box"):
        create().fit(DetectionDataset(data.classes, bare), None, SHORT)


def test_unreadable_images_are_reported(squares: Squares) -> None:
    data = squares(4)
    data.images[3].path.write_bytes(b"broken")
    report = create().fit(data, None, SHORT)
    assert len(report.skipped) == 1
    assert report.skipped[0].startswith("3: ")


@pytest.mark.parametrize("name", ["yolov8n.yaml", "yolo26n.yaml"])
def test_other_ultralytics_networks_train(squares: Squares, name: str) -> None:
    detector = factory.create(name, (), image_size=64, device="cpu")
    report = detector.fit(squares(4), None, replace(SHORT, iterations=2))
    assert np.isfinite(report.last_loss)
    assert detector.classes == ("red", "blue")
