"""Copies of an image: an object found on one is where it was, whatever was done to the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from weakref import ref

import numpy as np
import pytest
from numpy.typing import NDArray

from model.detections import Detections
from model.detectors import image_views
from model.detectors.base import Image, View
from model.detectors.image_views import predict_views

RED, GREEN = (230, 20, 20), (20, 230, 20)
COPIES = (View.SMALLER, View.TURNED, View.HOLES)


def scene(height: int, width: int, *boxes: tuple[int, int, int, int]) -> Image:
    """White, with a red box, then a green one."""
    image = np.full((height, width, 3), 250, np.uint8)
    for (left, top, right, bottom), colour in zip(boxes, (RED, GREEN), strict=False):
        image[top:bottom, left:right] = colour
    return image


class Eye:
    """Finds what is red and what is green, exactly; remembers what it was shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[tuple[View, ...], list[Image]]] = []

    def __call__(
        self, images: Sequence[Image], views: Sequence[View], *, min_score: float
    ) -> list[Mapping[View, Detections]]:
        self.shown.append((tuple(views), list(images)))
        assert min_score == 0.3
        return [{view: self._look(image) for view in views} for image in images]

    def _look(self, image: Image) -> Detections:
        height, width = image.shape[:2]
        boxes, labels = [], []
        for label, colour in enumerate((RED, GREEN)):
            rows, columns = np.nonzero(np.abs(image.astype(int) - colour).max(axis=2) < 100)
            if len(rows):
                boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
                labels.append(label)
        probs = np.eye(3, dtype=np.float32)[labels]
        return Detections(
            xyxy=np.array(boxes, np.float32).reshape(-1, 4),
            score=np.ones(len(boxes), np.float32),
            label=np.array(labels, np.int64),
            probs=probs.reshape(-1, 3),
            height=height,
            width=width,
            side_std=np.ones((len(boxes), 4), np.float32),
        )


def found_in(image: Image, *views: View) -> Mapping[View, Detections]:
    return predict_views(Eye(), [image], views, 0.3)[0]


@pytest.mark.parametrize("view", COPIES)
@pytest.mark.parametrize("shape", [(200, 200), (120, 320), (333, 150)])
def test_boxes_found_on_a_copy_are_where_they_are_on_the_image(view: View, shape: tuple[int, int]) -> None:
    height, width = shape
    boxes = (10, 12, 70, 60), (width - 75, height - 50, width - 5, height - 3)
    found = found_in(scene(height, width, *boxes), view)[view]
    assert (found.height, found.width) == shape
    assert found.label.tolist() == [0, 1]
    # The eye sees whole pixels, which a hole or the border of a turned box may take.
    np.testing.assert_allclose(found.xyxy, boxes, atol=2 if view is not View.HOLES else 15)


def test_deviations_of_the_smaller_copy_are_in_pixels_of_the_image() -> None:
    found = found_in(scene(100, 200, (20, 20, 60, 60)), View.SMALLER)[View.SMALLER]
    np.testing.assert_allclose(found.side_std, [[1.25] * 4])  # type: ignore[arg-type]


def test_a_flat_box_is_turned_back_about_its_centre() -> None:
    """No rectangle has an upright box of this shape once it is turned by five degrees: its sides stay."""

    def flat(images: Sequence[Image], views: Sequence[View], *, min_score: float) -> list[Mapping[View, Detections]]:
        middle = [(image.shape[1] / 2, image.shape[0] / 2) for image in images]
        box = [(x - 50, y - 1, x + 50, y + 1) for x, y in middle]
        return [{view: _one(box[i], image) for view in views} for i, image in enumerate(images)]

    found = predict_views(flat, [scene(200, 300)], (View.TURNED,), 0.3)[0][View.TURNED]
    np.testing.assert_allclose(found.xyxy, [(100, 99, 200, 101)], atol=1e-3)


def _one(box: tuple[float, ...], image: Image) -> Detections:
    return Detections(
        xyxy=np.array([box], np.float32),
        score=np.ones(1, np.float32),
        label=np.zeros(1, np.int64),
        probs=np.array([[1, 0, 0]], np.float32),
        height=image.shape[0],
        width=image.shape[1],
    )


@pytest.mark.parametrize("view", [View.SMALLER, View.TURNED])
def test_what_is_found_beside_the_image_is_dropped(view: View) -> None:
    def corner(images: Sequence[Image], views: Sequence[View], *, min_score: float) -> list[Mapping[View, Detections]]:
        return [
            {
                view: _one((image.shape[1] - 4, image.shape[0] - 4, image.shape[1], image.shape[0]), image)
                for view in views
            }
            for image in images
        ]

    found = predict_views(corner, [scene(100, 160)], (View.ORIGINAL, view), 0.3)[0]
    assert len(found[View.ORIGINAL]) == 1
    assert len(found[view]) == 0


def test_holes_hide_a_part_of_a_box_and_are_the_same_each_time() -> None:
    eyes = Eye(), Eye()
    image = scene(200, 200, (40, 40, 120, 120), (130, 130, 190, 190))
    before = image.copy()
    for eye in eyes:
        predict_views(eye, [image], (View.HOLES,), 0.3)
    np.testing.assert_array_equal(image, before)
    copies: list[NDArray[np.uint8]] = [eye.shown[1][1][0] for eye in eyes]
    np.testing.assert_array_equal(copies[0], copies[1])
    black = (copies[0] == 0).all(axis=2)
    covers = [black[40:120, 40:120].mean(), black[130:190, 130:190].mean()]
    assert max(covers) >= 0.1
    # Two holes at most, of at most a fifth of each side, each covering at most 0.4 of any box.
    assert black.sum() <= 2 * 40 * 40
    assert max(covers) <= 0.8


class Counting(Eye):
    """Counts how many of the copies that it was shown are still in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[ref[Image]] = []
        self.most = 0

    def __call__(
        self, images: Sequence[Image], views: Sequence[View], *, min_score: float
    ) -> list[Mapping[View, Detections]]:
        if View.HFLIP not in views:
            self.copies += [ref(image) for image in images]
        self.most = max(self.most, sum(copy() is not None for copy in self.copies))
        return [{view: self._look(image) for view in views} for image in images]


def test_few_copies_are_in_memory_together() -> None:
    eye = Counting()
    scenes = [scene(60, 60 + number, (10, 12, 40, 40)) for number in range(10)]
    together = predict_views(eye, scenes, tuple(View), 0.3)
    assert len(eye.copies) == 10 * len(COPIES)
    assert eye.most <= 4
    for image, views in zip(scenes, together, strict=True):
        alone = found_in(image, *View)
        for view in View:
            np.testing.assert_array_equal(views[view].xyxy, alone[view].xyxy)


def test_an_image_without_boxes_has_no_holes_and_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_views.zlib, "crc32", None)  # not even its pixels are read
    eye = Eye()
    found = predict_views(eye, [scene(64, 64)], (View.HOLES, View.ORIGINAL), 0.3)[0]
    assert list(found) == [View.HOLES, View.ORIGINAL]
    assert found[View.HOLES] is found[View.ORIGINAL]
    assert len(eye.shown) == 1


def test_only_the_views_that_were_asked_for_come_back() -> None:
    eye = Eye()
    (found,) = predict_views(eye, [scene(64, 96, (10, 10, 40, 40))], (View.TURNED, View.HFLIP), 0.3)
    assert list(found) == [View.TURNED, View.HFLIP]
    assert [views for views, _ in eye.shown] == [(View.ORIGINAL, View.HFLIP), (View.ORIGINAL,)]


def test_tiny_images_and_none() -> None:
    assert predict_views(Eye(), [], tuple(View), 0.3) == []
    found = found_in(scene(1, 1), *View)
    assert {(view.height, view.width) for view in found.values()} == {(1, 1)}


def test_no_view_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one view"):
        predict_views(Eye(), [scene(8, 8)], (), 0.3)
