"""Batches of images of all sizes, with files that are none among them; the detector is made up."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from al_backend import inference
from al_backend.errors import ImageUnavailable
from al_backend.inference import BATCH, Inference
from al_backend.settings import load_settings
from model.detectors.base import View


class Widths:
    """A detector that finds the width of every image, and remembers how many it was given at a time."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.seconds = 0.0

    def predict(self, images: Sequence[Any], views: Sequence[View], *, min_score: float) -> list[dict[View, int]]:
        self.batches.append(len(images))
        time.sleep(self.seconds * len(images) * len(views))
        return [dict.fromkeys(views, image.shape[1]) for image in images]


class Files:
    """Images by their path; an empty value cannot be had."""

    def fetch_many(self, items: Iterable[tuple[int, str]]) -> dict[int, Path | ImageUnavailable]:
        return {task: Path(value) if value else ImageUnavailable("gone.", passing=True) for task, value in items}


@pytest.fixture
def detector() -> Widths:
    return Widths()


@pytest.fixture
def made(tmp_path: Path, detector: Widths, monkeypatch: pytest.MonkeyPatch) -> Inference:
    files: Any = Files()
    registry: Any = None
    inference = Inference(load_settings(data_dir=tmp_path), registry, files)
    monkeypatch.setattr(inference, "detector", lambda *_: detector)
    return inference


def picture(folder: Path, width: int, height: int) -> str:
    path = folder / f"{width}x{height}.png"
    if not path.exists():
        Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(path)
    return str(path)


def detect(made: Inference, values: Sequence[str | None]) -> list[Any]:
    found = list(made.detect(7, "v1", list(enumerate(values)), min_score=0.1))
    assert [outcome.task_id for outcome in found] == list(range(len(values)))
    return [outcome.error if outcome.detections is None else outcome.detections[View.ORIGINAL] for outcome in found]


def test_images_come_in_batches_and_keep_their_order(made: Inference, detector: Widths, tmp_path: Path) -> None:
    sizes = [10 + number for number in range(BATCH + 3)]
    assert detect(made, [picture(tmp_path, size, 8) for size in sizes]) == sizes
    assert detector.batches == [BATCH, 3]
    assert detect(made, []) == []


def test_a_slow_detector_gets_fewer_at_a_time_so_that_a_person_need_not_wait_for_many(
    made: Inference, detector: Widths, tmp_path: Path
) -> None:
    detector.seconds = 0.06
    sizes = [10 + number for number in range(BATCH)]
    values = [picture(tmp_path, size, 8) for size in sizes]
    assert detect(made, values) == sizes
    detector.batches.clear()
    assert detect(made, values) == sizes
    assert 2 <= max(detector.batches) <= 4, "a quarter of a second at most"
    detector.batches.clear()
    list(made.detect(7, "v1", list(enumerate(values)), views=tuple(View)[:2], min_score=0.1))
    assert max(detector.batches) <= 2, "two views take twice as long"


def test_large_images_come_in_smaller_batches(
    made: Inference, detector: Widths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "PIXELS", 1000)
    sizes = [(10, 10), (40, 10), (50, 10), (80, 10), (200, 10), (10, 10), (20, 10)]
    assert detect(made, [picture(tmp_path, *size) for size in sizes]) == [width for width, _ in sizes]
    assert detector.batches == [3, 1, 1, 2], "no more than 1000 pixels, or a single image"


def test_what_is_no_image_has_a_reason_and_the_others_their_own_detections(
    made: Inference, detector: Widths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "a.png"
    text.write_text("no image")
    odd = picture(tmp_path, 11, 8)
    whole = inference.load_image

    def load(path: Path) -> Any:
        if str(path) == odd:
            raise MemoryError("for want of memory")
        return whole(path)

    monkeypatch.setattr(inference, "load_image", load)
    found = detect(made, [None, picture(tmp_path, 12, 8), str(text), "", odd, picture(tmp_path, 13, 8)])
    assert found[1::4] == [12, 13]
    assert "names no image" in found[0]
    assert "expected an image" in found[2]
    assert found[3] == "gone."
    assert found[4] == "The image cannot be decoded: MemoryError: for want of memory."
    assert detector.batches == [2]


def test_without_a_readable_image_nothing_is_predicted(made: Inference, detector: Widths) -> None:
    assert detect(made, ["", ""]) == ["gone.", "gone."]
    assert detector.batches == []
