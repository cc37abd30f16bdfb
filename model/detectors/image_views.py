"""Views that are changed copies of an image: smaller, turned, with holes. The mirrored one is the network's own affair.

They are CALD's (Yu et al., CVPRW 2022, and its code). A copy is predicted like any image; then its boxes are mapped
back.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from model.detections import Detections
from model.detectors.base import Image, View

SMALLER = 0.8
"""Sides of the smaller copy, as a share; CALD's."""
DEGREES = 5.0
"""By which the turned copy is turned; CALD's."""
HOLES = 2
HOLE_SIDES = (0.05, 0.2)
"""Sides of a hole, as a share of the image's; CALD's."""
HOLE_COVERS = (0.1, 0.4)
"""How much of the box that it covers most a hole may cover; CALD's."""
TRIES = 50
AT_ONCE = 4
"""Images whose copies are in memory together: those of a photograph take as much as itself."""
GREY = (114, 114, 114)
"""Around the smaller and the turned copy, the grey that YOLO's letterbox has; holes are black, as CALD's."""

IN_THE_NETWORK = frozenset({View.ORIGINAL, View.HFLIP})
"""Views that detectors make for themselves, of the pixels that they have already resized."""


class Predict(Protocol):
    """`Detector.predict` for the views in `IN_THE_NETWORK`."""

    def __call__(  # noqa: D102
        self, images: Sequence[Image], views: Sequence[View], *, min_score: float
    ) -> list[Mapping[View, Detections]]: ...


class Copy(NamedTuple):
    """A changed image.

    Attributes:
        image: the copy; None if there is nothing to change, so that the original's detections are its own.
        to_original: what was found on the copy, with boxes where they are on the original.
    """

    image: Image | None
    to_original: Callable[[Detections], Detections]


def predict_views(
    predict: Predict, images: Sequence[Image], views: Sequence[View], min_score: float
) -> list[Mapping[View, Detections]]:
    """`Detector.predict` for all views.

    Args:
        predict: for the views that the network makes for itself.
        images: as of `Detector.predict`.
        views: likewise.
        min_score: likewise.

    Raises:
        ValueError: no view.
    """
    if not views:
        raise ValueError("predict needs at least one view, found none")
    copies = [view for view in views if view not in IN_THE_NETWORK]
    if not copies:
        return predict(images, views, min_score=min_score)
    own = [View.ORIGINAL, *(view for view in views if view is View.HFLIP)]
    results = [dict(found) for found in predict(images, own, min_score=min_score)]
    for view in copies:
        for start in range(0, len(images), AT_ONCE):
            block = results[start : start + AT_ONCE]
            originals = [found[View.ORIGINAL] for found in block]
            seen = _on_copies(predict, images[start : start + AT_ONCE], originals, view, min_score)
            for found, detections in zip(block, seen, strict=True):
                found[view] = detections
    return [{view: found[view] for view in views} for found in results]


def _on_copies(
    predict: Predict, images: Sequence[Image], originals: Sequence[Detections], view: View, min_score: float
) -> list[Detections]:
    """What is found on the copies of some images, which are in memory no longer than this takes."""
    made = [_COPIES[view](image, original) for image, original in zip(images, originals, strict=True)]
    changed = [copy.image for copy in made if copy.image is not None]
    seen = iter(predict(changed, (View.ORIGINAL,), min_score=min_score) if changed else ())
    return [
        original if copy.image is None else copy.to_original(next(seen)[View.ORIGINAL])
        for copy, original in zip(made, originals, strict=True)
    ]


def smaller(image: Image, _: Detections) -> Copy:
    """The image at `SMALLER` of its size in the upper left corner of a grey one of its old size."""
    height, width = image.shape[:2]
    rows, columns = max(1, round(height * SMALLER)), max(1, round(width * SMALLER))
    copy = np.full_like(image, GREY)
    copy[:rows, :columns] = np.asarray(Pillow.fromarray(image).resize((columns, rows), Pillow.Resampling.BILINEAR))
    gain = np.array([width / columns, height / rows] * 2, np.float32)

    def to_original(found: Detections) -> Detections:
        wider = None if found.side_std is None else found.side_std * gain
        return _on_original(replace(found, side_std=wider), found.xyxy * gain, height, width)

    return Copy(copy, to_original)


def turned(image: Image, _: Detections) -> Copy:
    """The image turned clockwise by `DEGREES` about its centre, on a grey one large enough for all of it.

    Boxes are turned back exactly: a filled rectangle (w, h) has the upright box (w cos + h sin, w sin + h cos) once it
    is turned, and its centre turns with the image. A box too flat to be one of these keeps its sides.
    """
    height, width = image.shape[:2]
    cos, sin = math.cos(math.radians(DEGREES)), math.sin(math.radians(DEGREES))
    rows, columns = math.ceil(width * sin + height * cos), math.ceil(width * cos + height * sin)
    # From a place on the copy to the one on the image that it shows; pixels have their centres at one half.
    shift = (width - columns * cos - rows * sin) / 2, (height + columns * sin - rows * cos) / 2
    copy = Pillow.fromarray(image).transform(
        (columns, rows),
        Pillow.Transform.AFFINE,
        (cos, sin, shift[0], -sin, cos, shift[1]),
        Pillow.Resampling.BILINEAR,
        fillcolor=GREY,
    )

    def to_original(found: Detections) -> Detections:
        boxes = found.xyxy.astype(np.float64)
        x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
        x, y = cos * x + sin * y + shift[0], -sin * x + cos * y + shift[1]
        wide, high = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
        w, h = (wide * cos - high * sin) / (cos**2 - sin**2), (high * cos - wide * sin) / (cos**2 - sin**2)
        possible = (w > 0) & (h > 0)
        w, h = np.where(possible, w, wide), np.where(possible, h, high)
        back = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], axis=1)
        return _on_original(found, back, height, width)

    return Copy(np.asarray(copy), to_original)


def with_holes(image: Image, original: Detections) -> Copy:
    """The image with `HOLES` black rectangles, each of which hides a part of a box, but none too much of one.

    Without a box, or when none of `TRIES` rectangles is like this, the image is as it was. The same image has the same
    holes whenever it is asked for.
    """
    if not len(original):
        return Copy(None, lambda found: found)
    height, width = image.shape[:2]
    random = np.random.default_rng(zlib.crc32(np.ascontiguousarray(image).data))
    copy, holes = image.copy(), 0
    for _ in range(TRIES):
        rows, columns = (max(1, round(random.uniform(*HOLE_SIDES) * side)) for side in (height, width))
        top, left = int(random.integers(height - rows + 1)), int(random.integers(width - columns + 1))
        if HOLE_COVERS[0] <= _covers(original.xyxy, left, top, left + columns, top + rows).max() <= HOLE_COVERS[1]:
            copy[top : top + rows, left : left + columns] = 0
            holes += 1
        if holes == HOLES:
            break
    return Copy(copy if holes else None, lambda found: found)


def _covers(boxes: NDArray[np.float32], left: int, top: int, right: int, bottom: int) -> NDArray[np.float64]:
    """Share of each box that lies in the rectangle; 0 for a box without area."""
    wide = np.clip(np.minimum(boxes[:, 2], right) - np.maximum(boxes[:, 0], left), 0, None)
    high = np.clip(np.minimum(boxes[:, 3], bottom) - np.maximum(boxes[:, 1], top), 0, None)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    covers: NDArray[np.float64] = wide * high / np.maximum(area, 1e-9)
    return covers


def _on_original(found: Detections, boxes: NDArray[np.floating], height: int, width: int) -> Detections:
    """`found` with these boxes, without those that lie beside the image."""
    inside = np.clip(boxes, 0, [width, height, width, height]).astype(np.float32)
    moved = replace(found, xyxy=inside, height=height, width=width)
    return moved.select(np.flatnonzero((inside[:, 2:] > inside[:, :2]).all(axis=1)))


_COPIES: Mapping[View, Callable[[Image, Detections], Copy]] = {
    View.SMALLER: smaller,
    View.TURNED: turned,
    View.HOLES: with_holes,
}
