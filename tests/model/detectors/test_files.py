from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model.detectors.base import View
from model.detectors.files import predict_files
from model.detectors.yolo import YoloDetector
from model.errors import ImageUnreadable

VIEWS = (View.ORIGINAL, View.HFLIP)


@pytest.mark.parametrize("batch", [2, 16])
def test_files_give_what_their_pixels_give_and_a_damaged_one_its_reason(
    lively: Callable[..., YoloDetector], noise: Callable[..., NDArray[np.uint8]], tmp_path: Path, batch: int
) -> None:
    detector = lively(("a", "b"), image_size=64)
    images = [noise(48, 64, seed) for seed in range(3)]
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for image, file in zip(images, files, strict=True):
        Image.fromarray(image).save(file)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    sources = [files[0], broken, files[1].read_bytes(), tmp_path / "missing.png", files[2]]
    found = list(predict_files(detector, sources, VIEWS, min_score=0.1, batch=batch))
    assert isinstance(found[1], ImageUnreadable)
    assert "broken.png" in str(found[1])
    assert isinstance(found[3], (ImageUnreadable, OSError))
    for image, place in zip(images, (0, 2, 4), strict=True):
        here = found[place]
        assert isinstance(here, Mapping)
        wanted = detector.predict([image], VIEWS, min_score=0.1)[0]
        assert len(wanted[View.ORIGINAL]) > 0
        for view in VIEWS:
            np.testing.assert_allclose(here[view].xyxy, wanted[view].xyxy, atol=1e-2)
            np.testing.assert_allclose(here[view].probs, wanted[view].probs, atol=1e-4)


def test_no_files_give_nothing(lively: Callable[..., YoloDetector]) -> None:
    assert list(predict_files(lively(("a",), image_size=64), [])) == []
