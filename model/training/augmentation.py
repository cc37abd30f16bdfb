"""Image augmentation for training: mosaic, scale, translation, flip and colour, in plain OpenCV and NumPy.

Everything is axis-aligned (no rotation, no shear), so that a box stays tight around what it holds and an image needs
one resize instead of a warp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

PADDING = 114
"""Grey level of pixels outside every image; the same as in prediction's letterbox."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One image with its boxes, in memory.

    Attributes:
        image: shape (h, w, 3), uint8, RGB.
        xyxy: shape (n, 4), float32, pixels of `image`; n may be 0.
        label: shape (n,), int64.
    """

    image: NDArray[np.uint8]
    xyxy: NDArray[np.float32]
    label: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How strongly to augment.

    Attributes:
        mosaic: probability in [0, 1] that four images are joined into one.
        scale: images are resized by a factor in [1 - scale, 1 + scale].
        translate: shift of a single image, as a fraction of the canvas.
        flip: probability of a horizontal flip.
        hue: relative jitter of hue, saturation and value, each in [0, 1].
        saturation: see `hue`.
        value: see `hue`.
        min_side: boxes whose visible part is narrower than this many pixels are dropped.
        min_visible: boxes of which less than this fraction of the area is left are dropped.
    """

    mosaic: float = 1.0
    scale: float = 0.5
    translate: float = 0.1
    flip: float = 0.5
    hue: float = 0.015
    saturation: float = 0.7
    value: float = 0.4
    min_side: float = 3.0
    min_visible: float = 0.15

    @classmethod
    def none(cls) -> Augmentation:
        """Images as they are, each in the middle of its canvas."""
        return cls(mosaic=0.0, scale=0.0, translate=0.0, flip=0.0, hue=0.0, saturation=0.0, value=0.0)


def mosaic(samples: Sequence[Sample], size: int, settings: Augmentation, rng: np.random.Generator) -> Sample:
    """Four images around one random point of a square canvas, each at its own scale.

    Args:
        samples: exactly four; their longer side is about `size`.
        size: side of the canvas, pixels.
        settings: strength.
        rng: all randomness comes from here.
    """
    if len(samples) != 4:
        raise ValueError(f"a mosaic needs 4 images, found {len(samples)}")
    canvas = np.full((size, size, 3), PADDING, np.uint8)
    x, y = (int(v) for v in rng.uniform(0.25 * size, 0.75 * size, 2))
    parts = []
    for quadrant, sample in enumerate(samples):
        left, top = quadrant % 2 == 0, quadrant < 2
        window = (0 if left else x, 0 if top else y, x if left else size, y if top else size)
        scaled = _resize(sample, rng.uniform(1 - settings.scale, 1 + settings.scale))
        height, width = scaled.image.shape[:2]
        parts.append(_paste(canvas, scaled, x - width if left else x, y - height if top else y, window, settings))
    joined = Sample(canvas, np.concatenate([p.xyxy for p in parts]), np.concatenate([p.label for p in parts]))
    return _colour(_flip(joined, settings, rng), settings, rng)


def single(sample: Sample, size: int, settings: Augmentation, rng: np.random.Generator) -> Sample:
    """One image, scaled and shifted, on a square canvas; arguments as in `mosaic`."""
    canvas = np.full((size, size, 3), PADDING, np.uint8)
    scaled = _resize(sample, rng.uniform(1 - settings.scale, 1 + settings.scale))
    height, width = scaled.image.shape[:2]
    shift = rng.uniform(-settings.translate, settings.translate, 2) * size
    x, y = round((size - width) / 2 + shift[0]), round((size - height) / 2 + shift[1])
    placed = _paste(canvas, scaled, x, y, (0, 0, size, size), settings)
    return _colour(_flip(Sample(canvas, placed.xyxy, placed.label), settings, rng), settings, rng)


def _resize(sample: Sample, factor: float) -> Sample:
    height, width = sample.image.shape[:2]
    new_width, new_height = max(1, round(width * factor)), max(1, round(height * factor))
    image = cv2.resize(sample.image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    ratio = np.array([new_width / width, new_height / height] * 2, np.float32)
    return Sample(np.asarray(image, np.uint8), sample.xyxy * ratio, sample.label)


def _paste(
    canvas: NDArray[np.uint8],
    sample: Sample,
    x: int,
    y: int,
    window: tuple[int, int, int, int],
    settings: Augmentation,
) -> Sample:
    """Draw `sample` with its corner at (x, y), but only inside `window`, and give the boxes that stay visible."""
    height, width = sample.image.shape[:2]
    x1, y1 = max(x, window[0]), max(y, window[1])
    x2, y2 = min(x + width, window[2]), min(y + height, window[3])
    if x2 > x1 and y2 > y1:
        canvas[y1:y2, x1:x2] = sample.image[y1 - y : y2 - y, x1 - x : x2 - x]
    moved = sample.xyxy + np.array([x, y, x, y], np.float32)
    clipped = np.clip(moved, [x1, y1, x1, y1], [max(x1, x2), max(y1, y2)] * 2).astype(np.float32)
    side = clipped[:, 2:] - clipped[:, :2]
    area = np.prod(moved[:, 2:] - moved[:, :2], axis=1)
    keep = (side.min(axis=1, initial=np.inf) >= settings.min_side) & (side.prod(axis=1) >= settings.min_visible * area)
    return Sample(canvas, clipped[keep], sample.label[keep])


def _flip(sample: Sample, settings: Augmentation, rng: np.random.Generator) -> Sample:
    if rng.random() >= settings.flip:
        return sample
    width = sample.image.shape[1]
    xyxy = sample.xyxy.copy()
    xyxy[:, [0, 2]] = width - sample.xyxy[:, [2, 0]]
    return Sample(np.asarray(cv2.flip(sample.image, 1), np.uint8), xyxy, sample.label)


def _colour(sample: Sample, settings: Augmentation, rng: np.random.Generator) -> Sample:
    if not (settings.hue or settings.saturation or settings.value):
        return sample  # the way through 8-bit HSV and back is not free of rounding
    gain = 1 + rng.uniform(-1, 1, 3) * [settings.hue, settings.saturation, settings.value]
    level = np.arange(256, dtype=np.float64)
    # OpenCV's 8-bit hue runs from 0 to 179 and is a circle; the other two saturate.
    table = np.stack([level * gain[0] % 180, *(np.clip(level * g, 0, 255) for g in gain[1:])], axis=-1).astype(np.uint8)
    hsv = cv2.cvtColor(sample.image, cv2.COLOR_RGB2HSV)
    image = cv2.cvtColor(cv2.LUT(hsv, table[None]), cv2.COLOR_HSV2RGB)
    return Sample(np.asarray(image, np.uint8), sample.xyxy, sample.label)
