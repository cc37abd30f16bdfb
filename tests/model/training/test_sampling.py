from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.data.dataset import DetectionDataset, LabelledImage
from model.detectors.base import View
from model.detectors.canvas import Canvas, draw
from model.detectors.letterbox import Letterbox, stack
from model.errors import NotEnoughLabels
from model.training.augmentation import Augmentation
from model.training.sampling import BatchSampler, ImageStore

Squares = Callable[..., DetectionDataset]
STILL = Augmentation(mosaic=0, scale=0, translate=0, flip=0, hue=0, saturation=0, value=0)


def test_images_and_boxes_are_scaled_together(squares: Squares) -> None:
    data = squares(1, size=(96, 48))
    sample = ImageStore(data.images, 48).get(0)
    assert sample.image.shape == (48, 24, 3)
    np.testing.assert_allclose(sample.xyxy, data.images[0].xyxy / 2)


def test_boxes_are_cut_at_the_image_and_empty_ones_dropped(squares: Squares) -> None:
    image = squares(1).images[0]
    boxes = np.array([[-10, -10, 30, 30], [70, 10, 90, 20], [5, 5, 5, 9]], np.float32)
    store = ImageStore([LabelledImage("a", image.path, boxes, np.array([0, 1, 0]))], 64)
    assert store.get(0).xyxy.tolist() == [[0, 0, 30, 30]]
    assert store.get(0).label.tolist() == [0]


def test_memory_is_bounded(squares: Squares) -> None:
    data = squares(4)
    store = ImageStore(data.images, 64, max_bytes=2 * 48 * 64 * 3)
    kept = [store.get(i) for i in range(4)]
    again = [store.get(i) for i in range(4)]
    assert [a is b for a, b in zip(kept, again, strict=True)] == [True, True, False, False]


def test_unreadable_images_are_skipped_and_named(squares: Squares) -> None:
    data = squares(3)
    data.images[1].path.write_bytes(b"not an image")
    store = ImageStore(data.images, 64)
    assert store.get(1).xyxy.tolist() == ImageStore(data.images, 64).get(2).xyxy.tolist()
    assert len(store.skipped) == 1
    assert store.skipped[0].startswith("1: ")


def test_no_readable_image_is_an_error(squares: Squares) -> None:
    data = squares(2)
    for image in data.images:
        image.path.unlink()
    with pytest.raises(NotEnoughLabels, match="none of the 2 training images can be read"):
        ImageStore(data.images, 64).get(0)


def test_every_image_once_per_pass(squares: Squares) -> None:
    data = squares(6, classes=("a",))
    sampler = BatchSampler(data, 64, seed=3, augmentation=STILL)
    whole = np.concatenate([sampler.batch(i, 3, use_mosaic=False).images for i in range(2)])
    expected = {ImageStore(data.images, 64).get(i).image.tobytes() for i in range(6)}
    assert {image[8:-8].tobytes() for image in whole} == expected


def test_threads_do_not_change_batches(squares: Squares) -> None:
    data = squares(7)
    runs = []
    for workers in (0, 1, 3):
        sampler = BatchSampler(data, 64, seed=1)
        runs.append([b.images.tobytes() for b in sampler.batches(0, 6, 4, mosaic_until=4, workers=workers)])
    assert runs[0] == runs[1] == runs[2]
    assert len(set(runs[0])) == 6


def test_another_seed_gives_other_batches(squares: Squares) -> None:
    data = squares(7)
    one, other = (BatchSampler(data, 64, seed=seed).batch(0, 4, use_mosaic=True).images for seed in (1, 2))
    assert (one != other).any()


def test_sizes_vary_within_the_range(squares: Squares) -> None:
    sampler = BatchSampler(squares(3), 64, seed=0, size_range=(32, 96))
    sizes = {sampler.batch(i, 1, use_mosaic=i % 2 == 0).images.shape[1] for i in range(20)}
    assert sizes == {32, 64, 96}


def test_closing_early_stops_the_threads(squares: Squares) -> None:
    import threading

    batches = BatchSampler(squares(3), 64, seed=0).batches(0, 1000, 2, mosaic_until=0, workers=2)
    next(batches)
    batches.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("augment")]


def test_images_are_stretched_for_networks_that_see_them_so(tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    Image.fromarray(np.zeros((20, 80, 3), np.uint8)).save(path)
    box = np.array([[40, 5, 80, 10]], np.float32)
    data = DetectionDataset(("a",), [LabelledImage("1", path, box, np.zeros(1, np.int64))])
    batches = [
        BatchSampler(data, 64, seed=0, augmentation=STILL, stretch=stretch).batch(0, 1, use_mosaic=False)
        for stretch in (False, True)
    ]
    assert batches[0].xyxy[0].tolist() == [[32, 28, 64, 32]]  # 64 x 16, in the middle of the square
    assert batches[1].xyxy[0].tolist() == [[32, 16, 64, 32]]
    assert batches[1].images[0].max() == 0  # no padding is left


def test_a_large_image_is_seen_as_in_prediction(tmp_path: Path) -> None:
    """Thin lines, which one way of shrinking keeps and another one skips."""
    path = tmp_path / "large.png"
    pixels = np.random.default_rng(0).integers(0, 256, (384, 512, 3)).astype(np.uint8)
    pixels[::7] = pixels[:, ::5] = 255
    Image.fromarray(pixels).save(path)
    data = DetectionDataset(("a",), [LabelledImage("1", path, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))])
    for size in (128, 160, 320):
        trained = BatchSampler(data, size, seed=0, augmentation=STILL).batch(0, 1, use_mosaic=False).images[0]
        inner = slice((size - size * 3 // 4) // 2, (size + size * 3 // 4) // 2)
        box = Letterbox.fit(384, 512, size)
        shown = stack([pixels], [box])[0, box.top : box.top + box.inner[0], box.left : box.left + box.inner[1]]
        np.testing.assert_array_equal(trained[inner], shown)
        canvas = Canvas.proportional(384, 512, size, 32)
        drawn = draw([pixels], [canvas], [View.ORIGINAL], mean=[0] * 3, std=[1 / 255] * 3, device=torch.device("cpu"))
        shown = drawn[0, :, : canvas.inner[0], : canvas.inner[1]].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(trained[inner], shown, atol=1)  # one rounds, the other does not
    stretched = BatchSampler(data, 128, seed=0, augmentation=STILL, stretch=True).batch(0, 1, use_mosaic=False).images
    canvas = Canvas.stretched(384, 512, 128)
    drawn = draw([pixels], [canvas], [View.ORIGINAL], mean=[0] * 3, std=[1 / 255] * 3, device=torch.device("cpu"))
    np.testing.assert_allclose(stretched[0], drawn[0].permute(1, 2, 0).numpy(), atol=1)
