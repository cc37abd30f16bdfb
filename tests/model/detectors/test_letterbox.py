from __future__ import annotations

import numpy as np
import pytest
from ultralytics.data.augment import LetterBox

from model.detectors.letterbox import Letterbox, stack

SHAPES = [(240, 320), (331, 200), (480, 640), (37, 500), (1080, 1920), (100, 333), (1, 300), (300, 1), (64, 64)]


@pytest.mark.parametrize("shape", SHAPES)
def test_pixels_equal_ultralytics(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    box = Letterbox.fit(*shape, 320)
    theirs = LetterBox(320, auto=True, stride=32)(image=image)
    np.testing.assert_array_equal(stack([image], [box])[0], theirs)
    assert box.canvas[0] % 32 == 0
    assert box.canvas[1] % 32 == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_boxes_come_back(shape: tuple[int, int]) -> None:
    height, width = shape
    box = Letterbox.fit(height, width, 320)
    original = np.array([[0, 0, width, height], [width / 4, height / 4, width / 2, height / 2]], np.float32)
    canvas = original * np.array(box.gain * 2, np.float32) + np.array([box.left, box.top] * 2, np.float32)
    np.testing.assert_allclose(box.to_original(canvas), original, atol=1e-3)


def test_boxes_are_cut_at_the_border() -> None:
    box = Letterbox.fit(100, 200, 64)
    assert box.to_original(np.array([[-50, -50, 500, 500]], np.float32)).tolist() == [[0, 0, 200, 100]]
    assert box.to_original(np.zeros((0, 4), np.float32)).shape == (0, 4)
