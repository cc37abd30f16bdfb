from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.data.dataset import DetectionDataset
from model.data.reef import write_reef
from model.detectors import factory
from model.detectors.base import Detector
from model.detectors.several_devices import fit_on
from model.errors import NotEnoughLabels, TrainingCancelled
from model.images import load_image
from model.training.config import Progress, TrainingConfig

TWO = ("cpu", "cpu")
CONFIG = TrainingConfig(iterations=6, batch_size=4, workers=0, mixed_precision=False, seed=3)
SPECIES = ("cod", "plaice")


@pytest.fixture(name="scenes", scope="module")
def scenes_fixture(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    folder = tmp_path_factory.mktemp("scenes")
    return write_reef(folder, 8, seed=1, size=(96, 96), species=SPECIES, empty_share=0.0, burst_share=0.0)


def start() -> Detector:
    return factory.create("ssdlite320_mobilenet_v3_large", SPECIES, image_size=96, device="cpu", base=None)


def test_two_devices_share_every_batch_and_go_on_after_a_kill(scenes: DetectionDataset, tmp_path: Path) -> None:
    seen: list[Progress] = []
    config = replace(CONFIG, checkpoint=tmp_path / "state", checkpoint_every=2)
    detector, report = fit_on(TWO, start(), scenes, None, config, seen.append)
    assert (report.iterations, report.batch_size, report.resumed_after) == (6, 4, 0)
    assert seen[-1].iteration == 6
    assert seen[-1].epoch == pytest.approx(6 * 4 / 8)
    assert detector.classes == SPECIES
    image = load_image(scenes.images[0].path)

    # The ended training is found by one with the same settings, and gives the same detector.
    again, resumed = fit_on(TWO, start(), scenes, None, config)
    assert resumed.resumed_after == 6
    one, other = (next(iter(d.predict([image], min_score=0.0)[0].values())) for d in (detector, again))
    np.testing.assert_array_equal(one.xyxy, other.xyxy)
    np.testing.assert_array_equal(one.probs, other.probs)


def test_one_device_is_a_plain_fit(scenes: DetectionDataset) -> None:
    detector = start()
    trained, report = fit_on(("cpu",), detector, scenes, None, replace(CONFIG, iterations=1))
    assert trained is detector
    assert report.iterations == 1


def test_what_progress_raises_ends_all(scenes: DetectionDataset) -> None:
    def stop(progress: Progress) -> None:
        raise TrainingCancelled("asked to stop")

    with pytest.raises(TrainingCancelled, match="asked to stop"):
        fit_on(TWO, start(), scenes, None, replace(CONFIG, iterations=1000), stop)


def test_errors_arrive_as_they_were_raised(scenes: DetectionDataset) -> None:
    without = DetectionDataset(
        SPECIES, [replace(image, xyxy=image.xyxy[:0], label=image.label[:0]) for image in scenes.images]
    )
    with pytest.raises(NotEnoughLabels, match="no box"):
        fit_on(TWO, start(), without, None, CONFIG)


@pytest.mark.parametrize(("devices", "words"), [((), "at least one device"), (("cpu", "cuda:99"), "cuda:99")])
def test_devices_are_checked(devices: tuple[str, ...], words: str, scenes: DetectionDataset) -> None:
    with pytest.raises(ValueError, match=words):
        fit_on(devices, start(), scenes, None, CONFIG)
