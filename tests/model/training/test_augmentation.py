from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from model.training.augmentation import PADDING, Augmentation, Sample, mosaic, single

STILL = Augmentation(scale=0, translate=0, flip=0, hue=0, saturation=0, value=0)
WHITE = 255


def white_square(height: int = 60, width: int = 64, box: tuple[int, int, int, int] = (10, 20, 40, 50)) -> Sample:
    image = np.zeros((height, width, 3), np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = WHITE
    return Sample(image, np.array([box], np.float32), np.array([3]))


def extent(image: NDArray[np.uint8]) -> list[int]:
    """The smallest box around the white pixels."""
    rows, columns = np.nonzero((image > 180).all(axis=2))
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


def test_without_strength_an_image_is_only_padded() -> None:
    found = single(white_square(), 64, STILL, np.random.default_rng(0))
    assert found.image.shape == (64, 64, 3)
    assert found.xyxy.tolist() == [[10, 22, 40, 52]]
    assert found.label.tolist() == [3]
    assert (found.image[:2] == PADDING).all()
    assert extent(found.image) == [10, 22, 40, 52]


@pytest.mark.parametrize("seed", range(12))
def test_boxes_stay_tight_around_what_they_hold(seed: int) -> None:
    strength = Augmentation(hue=0, saturation=0, value=0, min_visible=0.5)
    found = single(white_square(), 64, strength, np.random.default_rng(seed))
    if len(found.label):
        np.testing.assert_allclose(found.xyxy[0], extent(found.image), atol=1.5)


def test_flip_mirrors_boxes_and_pixels() -> None:
    flipping = Augmentation(scale=0, translate=0, flip=1, hue=0, saturation=0, value=0)
    found = single(white_square(64, 64), 64, flipping, np.random.default_rng(0))
    assert found.xyxy.tolist() == [[24, 20, 54, 50]]
    assert extent(found.image) == [24, 20, 54, 50]


@pytest.mark.parametrize("seed", range(8))
def test_mosaic_boxes_lie_on_their_objects(seed: int) -> None:
    found = mosaic([white_square()] * 4, 64, Augmentation(hue=0, saturation=0, value=0), np.random.default_rng(seed))
    assert found.image.shape == (64, 64, 3)
    for x1, y1, x2, y2 in found.xyxy:
        assert 0 <= x1 < x2 <= 64
        assert 0 <= y1 < y2 <= 64
        inside = found.image[int(y1) + 1 : int(y2) - 1, int(x1) + 1 : int(x2) - 1]
        assert inside.size == 0 or inside.mean() > 200


def test_boxes_that_are_cut_away_are_dropped() -> None:
    corner = white_square(64, 64, (0, 0, 8, 8))
    shifted = Augmentation(scale=0, translate=0.5, flip=0, hue=0, saturation=0, value=0)
    kept = [len(single(corner, 64, shifted, np.random.default_rng(seed)).label) for seed in range(40)]
    assert 0 < sum(kept) < 40


def test_images_without_boxes_stay_without() -> None:
    empty = Sample(np.zeros((64, 64, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    assert mosaic([empty] * 4, 64, Augmentation(), np.random.default_rng(0)).xyxy.shape == (0, 4)
    assert single(empty, 64, Augmentation(), np.random.default_rng(0)).xyxy.shape == (0, 4)


def test_colour_changes_pixels_not_boxes() -> None:
    base = Sample(np.full((64, 64, 3), (200, 90, 40), np.uint8), np.array([[1, 2, 30, 40]], np.float32), np.array([0]))
    coloured = Augmentation(scale=0, translate=0, flip=0)
    found = single(base, 64, coloured, np.random.default_rng(0))
    assert (found.image != base.image).any()
    assert found.xyxy.tolist() == base.xyxy.tolist()


def test_a_mosaic_needs_four() -> None:
    with pytest.raises(ValueError, match="needs 4 images, found 3"):
        mosaic([white_square()] * 3, 64, STILL, np.random.default_rng(0))
