"""Fits images into the canvas that torchvision's detectors look at, and maps boxes back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.detectors.base import View


@dataclass(frozen=True, slots=True)
class Canvas:
    """The geometry of one image in its canvas, at the top left; the same numbers as torchvision's transform.

    Attributes:
        height: of the original image, pixels.
        width: of the original image, pixels.
        inner: (height, width) of the resized image.
        outer: (height, width) of the canvas.
    """

    height: int
    width: int
    inner: tuple[int, int]
    outer: tuple[int, int]

    @classmethod
    def proportional(cls, height: int, width: int, size: int, multiple: int) -> Canvas:
        """Scale the longer side of (`height`, `width`) to `size`, and pad both to the next multiple."""
        scale = size / max(height, width)
        # Rounded down, as torch.nn.functional.interpolate does, but never to nothing.
        rows, columns = (max(1, math.floor(side * scale)) for side in (height, width))
        return cls(
            height, width, (rows, columns), (-(-rows // multiple) * multiple, -(-columns // multiple) * multiple)
        )

    @classmethod
    def stretched(cls, height: int, width: int, size: int) -> Canvas:
        """Fill a square of side `size`, whatever the proportions of the image."""
        return cls(height, width, (size, size), (size, size))

    def to_original(self, xyxy: NDArray[np.float32], view: View) -> NDArray[np.float32]:
        """Boxes of shape (n, 4) from pixels of the (possibly flipped) resized image to pixels of the original one."""
        rows, columns = self.inner
        if view is View.HFLIP:
            xyxy = np.stack([columns - xyxy[:, 2], xyxy[:, 1], columns - xyxy[:, 0], xyxy[:, 3]], axis=1)
        gain = np.array([self.width / columns, self.height / rows] * 2, np.float32)
        return np.clip(xyxy * gain, 0, np.array([self.width, self.height] * 2, np.float32)).astype(np.float32)

    def std_to_original(self, side_std: NDArray[np.float32], view: View) -> NDArray[np.float32]:
        """Standard deviations of left, top, right, bottom, shape (n, 4), from pixels as in `to_original`."""
        rows, columns = self.inner
        if view is View.HFLIP:
            side_std = side_std[:, [2, 1, 0, 3]]
        return (side_std * np.array([self.width / columns, self.height / rows] * 2, np.float32)).astype(np.float32)


def draw(
    images: Sequence[NDArray[np.uint8]],
    canvases: Sequence[Canvas],
    views: Sequence[View],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
) -> Tensor:
    """Resized and normalised copies of `images`: shape (views * b, 3, h, w), float32, first all of the first view.

    Pixels are those of torchvision's `GeneralizedRCNNTransform` up to float rounding: bilinear without antialiasing,
    and padding of the mean colour. Normalising comes after the resize, because on a large photograph it costs more
    than the network; bilinear weights sum to 1, so the order does not matter.

    Args:
        images: shape (h, w, 3) each, RGB.
        canvases: one per image, all with the same `outer`.
        views: at least one.
        mean: per channel, of pixels in [0, 1].
        std: per channel.
        device: where the result lives.
    """
    height, width = canvases[0].outer
    out = torch.zeros((len(views) * len(images), 3, height, width), device=device)
    out = out.contiguous(memory_format=torch.channels_last)
    shift = torch.tensor(mean, device=device).view(3, 1, 1) * 255
    scale = 1 / (torch.tensor(std, device=device).view(3, 1, 1) * 255)
    for index, (image, canvas) in enumerate(zip(images, canvases, strict=True)):
        pixels = torch.from_numpy(np.require(image, requirements=["C", "W"])).to(device).permute(2, 0, 1).float()
        if image.shape[:2] != canvas.inner:
            pixels = torch.nn.functional.interpolate(
                pixels[None], size=canvas.inner, mode="bilinear", align_corners=False
            )[0]
        normal = (pixels - shift) * scale
        for number, view in enumerate(views):
            target = out[number * len(images) + index, :, : canvas.inner[0], : canvas.inner[1]]
            target.copy_(normal.flip(2) if view is View.HFLIP else normal)
    return out
