from __future__ import annotations

import numpy as np
import pytest
import torch

from model.detectors.base import View
from model.detectors.canvas import Canvas, draw

PLAIN = {"mean": [0.0] * 3, "std": [1 / 255] * 3, "device": torch.device("cpu")}


@pytest.mark.parametrize(
    ("shape", "inner", "outer"),
    [
        ((480, 640), (96, 128), (96, 128)),
        ((640, 480), (128, 96), (128, 96)),
        ((100, 333), (38, 128), (64, 128)),  # 38.4 is rounded down, as torchvision does
        ((1, 300), (1, 128), (32, 128)),
        ((64, 64), (128, 128), (128, 128)),
    ],
)
def test_proportions_are_kept(shape: tuple[int, int], inner: tuple[int, int], outer: tuple[int, int]) -> None:
    canvas = Canvas.proportional(*shape, 128, 32)
    assert (canvas.inner, canvas.outer) == (inner, outer)


@pytest.mark.parametrize("canvas", [Canvas.proportional(100, 333, 128, 32), Canvas.stretched(100, 333, 300)])
def test_boxes_come_back(canvas: Canvas) -> None:
    rows, columns = canvas.inner
    whole = np.array([[0, 0, columns, rows], [0, 0, columns / 2, rows / 4]], np.float32)
    back = canvas.to_original(whole, View.ORIGINAL)
    np.testing.assert_allclose(back, np.array([[0, 0, 333, 100], [0, 0, 166.5, 25]]), rtol=1e-5)
    flipped = canvas.to_original(whole, View.HFLIP)
    np.testing.assert_allclose(flipped, np.array([[0, 0, 333, 100], [166.5, 0, 333, 25]]), rtol=1e-5)
    assert canvas.to_original(np.full((1, 4), 1e4, np.float32), View.ORIGINAL).tolist() == [[333, 100, 333, 100]]
    assert canvas.to_original(np.zeros((0, 4), np.float32), View.HFLIP).shape == (0, 4)


def test_deviations_come_back() -> None:
    canvas = Canvas.stretched(100, 300, 200)
    sides = np.array([[2, 4, 6, 8]], np.float32)
    np.testing.assert_allclose(canvas.std_to_original(sides, View.ORIGINAL), [[3, 2, 9, 4]])
    np.testing.assert_allclose(canvas.std_to_original(sides, View.HFLIP), [[9, 2, 3, 4]])
    assert canvas.std_to_original(sides[:0], View.HFLIP).shape == (0, 4)


def test_pixels_padding_and_views() -> None:
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    image.flags.writeable = False
    canvas = Canvas(2, 3, (2, 3), (4, 4))
    pixels = draw([image], [canvas], (View.ORIGINAL, View.HFLIP), **PLAIN)  # type: ignore[arg-type]
    assert pixels.shape == (2, 3, 4, 4)
    expected = torch.zeros(3, 4, 4)
    expected[:, :2, :3] = torch.tensor(image.copy()).permute(2, 0, 1)
    torch.testing.assert_close(pixels[0], expected)
    torch.testing.assert_close(pixels[1, :, :2, :3], expected[:, :2, :3].flip(2))
    assert pixels[1, :, :, 3].abs().max() == 0
