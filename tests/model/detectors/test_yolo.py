from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from ultralytics import YOLO

from model.detections import Detections
from model.detectors import yolo
from model.detectors.base import View
from model.detectors.yolo import YoloDetector

SHAPES = [(72, 96), (96, 72), (128, 128), (200, 130), (48, 300), (64, 64), (333, 500), (37, 41), (90, 160), (500, 640)]

Make = Callable[..., YoloDetector]
Noise = Callable[..., NDArray[np.uint8]]


@pytest.fixture(scope="module")
def detector(lively: Make) -> YoloDetector:
    return lively(("cod", "eel", "wrasse"))


def first(detector: YoloDetector, image: NDArray[np.uint8], min_score: float = 0.05) -> Detections:
    return detector.predict([image], min_score=min_score)[0][View.ORIGINAL]


def assert_same(a: Detections, b: Detections, atol: float = 5e-3) -> None:
    assert len(a) == len(b)
    for name in ("xyxy", "score", "probs", "side_std", "embedding", "image_embedding"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=atol, rtol=1e-4, err_msg=name)
    np.testing.assert_array_equal(a.label, b.label)


def test_fifty_images_equal_ultralytics_own_predict(detector: YoloDetector, noise: Noise) -> None:
    theirs: Any = YOLO("yolov5n.yaml")
    theirs.model = copy.deepcopy(detector._network)
    total = 0
    for seed in range(50):
        image = noise(*SHAPES[seed % len(SHAPES)], seed)
        expected = theirs.predict(image[..., ::-1].copy(), imgsz=96, conf=0.05, verbose=False, device="cpu")[0].boxes
        found = first(detector, image)
        assert len(found) == len(expected), seed
        np.testing.assert_allclose(found.xyxy, expected.xyxy.numpy(), atol=1e-4, rtol=0)
        np.testing.assert_allclose(found.score, expected.conf.numpy(), atol=1e-4, rtol=0)
        np.testing.assert_array_equal(found.label, expected.cls.numpy().astype(int))
        total += len(found)
    assert total > 500


class JumpingClock:
    """Every look at it is a hundred years after the one before."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def time(self) -> float:
        self.seconds += 100 * 365 * 86400.0
        return self.seconds


def test_a_slow_suppression_empties_no_image(
    detector: YoloDetector, noise: Noise, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [noise(72, 96, seed) for seed in range(6)]
    usual = detector.predict(images)
    assert all(len(views[View.ORIGINAL]) for views in usual)
    monkeypatch.setattr("ultralytics.utils.nms.time", JumpingClock())
    theirs: Any = YOLO("yolov5n.yaml")
    theirs.model = copy.deepcopy(detector._network)
    bgr = [image[..., ::-1].copy() for image in images]
    their_counts = [
        len(r.boxes) for r in theirs.predict(bgr, imgsz=96, conf=0.05, batch=6, verbose=False, device="cpu")
    ]
    assert their_counts[0] > 0, "the library gives up after the first image"
    assert their_counts[1:] == [0] * 5
    for views, expected in zip(detector.predict(images), usual, strict=True):
        assert_same(views[View.ORIGINAL], expected[View.ORIGINAL], atol=0)


def test_fields_are_consistent(detector: YoloDetector, noise: Noise) -> None:
    found = first(detector, noise(140, 180))
    assert len(found) > 0
    assert (found.height, found.width) == (140, 180)
    np.testing.assert_allclose(found.probs.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(found.probs[:, :-1].argmax(axis=1), found.label)
    assert (found.score >= 0.05).all()
    assert (found.xyxy >= 0).all()
    assert (found.xyxy <= [180, 140, 180, 140]).all()
    assert found.side_std is not None
    assert (found.side_std >= 0).all()
    assert found.embedding is not None
    assert found.embedding.shape == (len(found), 64 + 128 + 256)
    np.testing.assert_allclose(np.linalg.norm(found.embedding, axis=1), 1, atol=1e-4)
    assert found.image_embedding is not None
    assert found.image_embedding.shape == (64,)


def test_probabilities_follow_option_d(detector: YoloDetector, noise: Noise) -> None:
    found = first(detector, noise(96, 96))
    # The ratio of a class to background is p / prod(1 - p), so the winner's sigmoid can be had back from the row.
    odds = found.probs[:, :-1] / found.probs[:, -1:]
    assert len(found) > 0
    for row, label, score in zip(odds, found.label, found.score, strict=True):
        others = np.prod([1 - p for p in _sigmoids(row)])
        assert row[label] == pytest.approx(score / others, rel=1e-3)


def _sigmoids(odds: NDArray[np.float32]) -> NDArray[np.float64]:
    """Solve odds_c = p_c / prod(1 - p) for p, where p_c = odds_c * q and q = prod(1 - odds_c q), by bisection."""
    low, high = 0.0, 1.0
    for _ in range(100):
        q = (low + high) / 2
        low, high = (q, high) if np.prod(1 - np.clip(odds * q, 0, 1)) > q else (low, q)
    return odds.astype(np.float64) * low


def test_batch_equals_one_by_one(detector: YoloDetector, noise: Noise, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [noise(72, 96, 1), noise(96, 72, 2), noise(72, 96, 3), noise(150, 200, 4), noise(31, 90, 5)]
    monkeypatch.setattr(yolo, "BATCH", {"cpu": 2})
    together = detector.predict(images)
    for image, views in zip(images, together, strict=True):
        assert_same(views[View.ORIGINAL], first(detector, image))


def test_flipped_view_equals_prediction_of_the_flipped_image(detector: YoloDetector, noise: Noise) -> None:
    # 64 x 96 needs no resizing and no padding, so that flipping before or after is the same.
    image = noise(64, 96)
    views = detector.predict([image], (View.ORIGINAL, View.HFLIP))[0]
    flipped = first(detector, image[:, ::-1].copy())
    mirrored = views[View.HFLIP]
    assert_same(views[View.ORIGINAL], first(detector, image))
    assert len(mirrored) == len(flipped) > 0
    np.testing.assert_allclose(mirrored.xyxy[:, [0, 2]], 96 - flipped.xyxy[:, [2, 0]], atol=1e-3)
    np.testing.assert_allclose(mirrored.xyxy[:, [1, 3]], flipped.xyxy[:, [1, 3]], atol=1e-3)
    assert mirrored.side_std is not None
    assert flipped.side_std is not None
    np.testing.assert_allclose(mirrored.side_std, flipped.side_std[:, [2, 1, 0, 3]], atol=1e-3)


def test_a_symmetric_image_gives_symmetric_views(detector: YoloDetector, noise: Noise) -> None:
    half = noise(70, 90)
    image = np.concatenate([half, half[:, ::-1]], axis=1)
    views = detector.predict([image], (View.HFLIP, View.ORIGINAL))[0]
    assert list(views) == [View.HFLIP, View.ORIGINAL]
    assert views[View.HFLIP].width == 180
    a = views[View.ORIGINAL].xyxy
    b = views[View.HFLIP].xyxy.copy()
    b[:, [0, 2]] = 180 - b[:, [2, 0]]
    np.testing.assert_allclose(np.sort(a, axis=0), np.sort(b, axis=0), atol=0.1)


def test_an_image_without_detections(detector: YoloDetector, noise: Noise) -> None:
    empty, full = detector.predict([noise(72, 96), noise(72, 96)], min_score=1.0)[0], first(detector, noise(72, 96))
    assert len(empty[View.ORIGINAL]) == 0
    assert empty[View.ORIGINAL].probs.shape == (0, 4)
    assert empty[View.ORIGINAL].image_embedding is not None
    assert len(full) > 0


def test_empty_and_full_images_in_one_batch(detector: YoloDetector, noise: Noise) -> None:
    images = [noise(72, 96), np.full((72, 96, 3), 114, np.uint8), noise(72, 96, 7)]
    alone = [first(detector, image, 0.3) for image in images]
    for views, expected in zip(detector.predict(images, min_score=0.3), alone, strict=True):
        assert_same(views[View.ORIGINAL], expected)


def test_nothing_to_predict(detector: YoloDetector, noise: Noise) -> None:
    assert detector.predict([]) == []
    with pytest.raises(ValueError, match="at least one view"):
        detector.predict([noise(10, 10)], ())


def test_more_views_than_a_batch_holds(detector: YoloDetector, noise: Noise, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yolo, "BATCH", {"cpu": 1})
    assert set(detector.predict([noise(64, 64)], (View.ORIGINAL, View.HFLIP))[0]) == {View.ORIGINAL, View.HFLIP}


@pytest.mark.parametrize("count", [1, 80])
def test_one_and_many_classes(lively: Make, noise: Noise, count: int) -> None:
    found = first(lively(tuple(f"c{i}" for i in range(count))), noise(80, 96))
    assert len(found) > 0
    assert found.probs.shape == (len(found), count + 1)
    np.testing.assert_allclose(found.probs.sum(axis=1), 1, atol=1e-5)


def test_a_detector_without_classes_finds_nothing(noise: Noise) -> None:
    detector = yolo.create(
        "yolov5n", (), image_size=64, device=torch.device("cpu"), base=None, seed=0, allow_pickle=False
    )
    assert len(first(detector, noise(50, 60))) == 0


def test_odd_image_size_is_rounded_up(lively: Make, noise: Noise) -> None:
    detector = lively(("a",), image_size=70)
    assert detector.image_size == 96
    assert first(detector, noise(33, 47)).width == 47
    detector.image_size = 100  # as the product does when its setting has changed
    assert detector.image_size == 128
    assert first(detector, noise(33, 47)).width == 47
    with pytest.raises(ValueError, match="at least 32"):
        detector.image_size = 31


def test_fusing_changes_nothing(detector: YoloDetector) -> None:
    pixels = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        plain = detector._network(pixels)[1]
        fused = detector._inference_network()(pixels)
    for name in ("boxes", "scores"):
        torch.testing.assert_close(plain[name], fused[name], atol=5e-3, rtol=1e-3)


def test_exif_rotation_comes_back_in_upright_coordinates(detector: YoloDetector, noise: Noise, tmp_path: Path) -> None:
    from PIL import Image

    from model.images import load_image

    upright = noise(60, 96)
    stored = Image.fromarray(np.rot90(upright, 1).copy())  # orientation 6: turn by 90 degrees clockwise to view
    exif = stored.getexif()
    exif[0x0112] = 6
    stored.save(tmp_path / "turned.png", exif=exif)
    loaded = load_image(tmp_path / "turned.png")
    assert loaded.shape == (60, 96, 3)
    assert_same(first(detector, loaded), first(detector, upright))
