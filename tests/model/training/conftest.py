from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.data.dataset import DetectionDataset, LabelledImage

COLOURS = ((220, 40, 40), (40, 60, 220), (240, 220, 40))


def draw_squares(
    folder: Path, count: int, *, classes: tuple[str, ...] = ("red", "blue"), size: tuple[int, int] = (48, 64)
) -> DetectionDataset:
    """Images with one coloured square each; every fifth is empty."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    images = []
    for index in range(count):
        pixels = rng.integers(90, 130, (*size, 3)).astype(np.uint8)
        boxes: list[list[int]] = []
        if index % 5 != 4:
            x, y = rng.integers(0, size[1] - 24), rng.integers(0, size[0] - 24)
            pixels[y : y + 24, x : x + 24] = COLOURS[index % len(classes)]
            boxes = [[int(x), int(y), int(x) + 24, int(y) + 24]]
        path = folder / f"{index}.png"
        Image.fromarray(pixels).save(path)
        xyxy = np.array(boxes, np.float32).reshape(-1, 4)
        images.append(LabelledImage(str(index), path, xyxy, np.array([index % len(classes)] * len(boxes), np.int64)))
    return DetectionDataset(classes, images)


@pytest.fixture(name="squares")
def squares_fixture(tmp_path: Path) -> Callable[..., DetectionDataset]:
    def make(count: int = 10, **options: object) -> DetectionDataset:
        return draw_squares(tmp_path / "squares", count, **options)  # type: ignore[arg-type]

    return make
