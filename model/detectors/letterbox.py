"""Fits images into a canvas whose sides are multiples of the network's stride, and maps boxes back."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from model.training.augmentation import PADDING

STRIDE = 32


@dataclass(frozen=True, slots=True)
class Letterbox:
    """The geometry of one image in its canvas; the same numbers as Ultralytics' `LetterBox(auto=True)`.

    Attributes:
        height: of the original image, pixels.
        width: of the original image, pixels.
        inner: (height, width) of the resized image.
        top: rows above the image.
        left: columns left of it.
        canvas: (height, width), multiples of 32.
    """

    height: int
    width: int
    inner: tuple[int, int]
    top: int
    left: int
    canvas: tuple[int, int]

    @classmethod
    def fit(cls, height: int, width: int, size: int) -> Letterbox:
        """Scale the longer side of (`height`, `width`) to `size`, a multiple of 32, and pad as little as possible."""
        ratio = min(size / height, size / width)
        inner = (max(round(height * ratio), 1), max(round(width * ratio), 1))
        # Half the padding on each side; the 0.1 sends an odd pixel to the bottom and to the right.
        pad = [(size - side) % STRIDE / 2 for side in inner]
        top, left = (round(p - 0.1) for p in pad)
        bottom, right = (round(p + 0.1) for p in pad)
        return cls(height, width, inner, top, left, (inner[0] + top + bottom, inner[1] + left + right))

    def draw(self, image: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        """Write `image`, resized, into `out` of shape (*canvas, 3), which is already filled with `PADDING`."""
        height, width = self.inner
        if image.shape[:2] != self.inner:
            image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
        out[self.top : self.top + height, self.left : self.left + width] = image

    @property
    def gain(self) -> tuple[float, float]:
        """Canvas pixels per original pixel, along x and along y."""
        return self.inner[1] / self.width, self.inner[0] / self.height

    def to_original(self, xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes of shape (n, 4) from canvas pixels to pixels of the original image, cut at its border."""
        moved = (xyxy - np.array([self.left, self.top] * 2, np.float32)) / np.array(self.gain * 2, np.float32)
        return np.clip(moved, 0, np.array([self.width, self.height] * 2, np.float32)).astype(np.float32)


def stack(images: list[NDArray[np.uint8]], boxes: list[Letterbox]) -> NDArray[np.uint8]:
    """Letterboxed copies of `images`, shape (b, h, w, 3); all `boxes` have the same canvas."""
    out = np.full((len(images), *boxes[0].canvas, 3), PADDING, np.uint8)
    for image, box, target in zip(images, boxes, out, strict=True):
        box.draw(image, target)
    return out
