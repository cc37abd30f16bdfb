"""Intervals of an evaluation by drawing its images again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model.data.dataset import LabelledImage
from model.detections import Detections
from model.training.evaluation import score
from model.training.intervals import LEAST_IMAGES, _matched, _quality, quality_intervals


def scenes(count: int, *, skill: float, seed: int = 0) -> tuple[list[LabelledImage], list[Detections]]:
    """Images with up to five boxes of two classes, and detections that find a share of them, some beside the box."""
    random = np.random.default_rng(seed)
    truth, found = [], []
    for number in range(count):
        boxes = int(random.integers(0, 6))
        corner = random.uniform(0, 70, (boxes, 2))
        real = np.concatenate([corner, corner + random.uniform(10, 30, (boxes, 2))], axis=1).astype(np.float32)
        label = random.integers(0, 2, boxes)
        truth.append(LabelledImage(str(number), Path("x.png"), real, label))
        seen = np.flatnonzero(random.random(boxes) < skill)
        guesses = int(random.integers(0, 4))
        places = random.uniform(0, 60, (guesses, 2))
        wrong = np.concatenate([places, places + 20], axis=1)
        xyxy = np.concatenate([real[seen] + random.normal(0, 2, (len(seen), 4)), wrong]).astype(np.float32)
        labels = np.concatenate([label[seen], random.integers(0, 2, guesses)])
        # Two decimals, so that equal confidences occur.
        scores = np.round(random.uniform(0.05, 1, len(xyxy)), 2).astype(np.float32)
        probs = np.full((len(xyxy), 3), 1 / 3, np.float32)
        found.append(Detections(xyxy, scores, labels, probs, 100, 100))
    return truth, found


def quality(
    truth: list[LabelledImage],
    found: list[Detections],
    classes: tuple[str, ...],
    found_classes: tuple[str, ...] | None = None,
) -> tuple[float, float]:
    """What one drawing counts if it draws every image once: which chance does not do behind the public door."""
    map50, map50_95 = _quality(_matched(truth, found, classes, found_classes or classes), np.ones(len(truth)))
    return float(map50), float(map50_95)


@pytest.mark.parametrize("seed", range(6))
def test_images_as_they_are_count_as_coco_counts_them(seed: int) -> None:
    truth, found = scenes(25, skill=0.7, seed=seed)
    expected = score(truth, found, ("a", "b"))
    assert quality(truth, found, ("a", "b")) == pytest.approx((expected.map50, expected.map50_95), abs=1e-9)


def test_classes_are_matched_by_name() -> None:
    truth, found = scenes(12, skill=0.8)
    expected = score(truth, found, ("a", "b"), ("b", "gone"))
    assert quality(truth, found, ("a", "b"), ("b", "gone"))[0] == pytest.approx(expected.map50)


def test_the_interval_holds_the_number_and_is_the_same_again() -> None:
    truth, found = scenes(60, skill=0.6)
    intervals = quality_intervals(truth, found, ("a", "b"))
    assert intervals is not None
    for name, value in zip(("map50", "map50_95"), quality(truth, found, ("a", "b")), strict=True):
        low, high = intervals[name]
        assert 0 <= low < value < high <= 1
    assert quality_intervals(truth, found, ("a", "b")) == intervals


def test_more_images_say_it_more_exactly() -> None:
    few = quality_intervals(*scenes(20, skill=0.6), ("a", "b"))
    many = quality_intervals(*scenes(320, skill=0.6), ("a", "b"))
    assert few is not None
    assert many is not None
    assert many["map50"][1] - many["map50"][0] < 0.5 * (few["map50"][1] - few["map50"][0])


def test_a_perfect_detector_leaves_nothing_to_chance() -> None:
    truth, _ = scenes(30, skill=1)
    found = [
        Detections(
            item.xyxy,
            np.ones(len(item.label), np.float32),
            item.label,
            np.full((len(item.label), 3), 1 / 3, np.float32),
            100,
            100,
        )
        for item in truth
    ]
    intervals = quality_intervals(truth, found, ("a", "b"))
    assert intervals is not None
    assert intervals["map50"] == pytest.approx((1, 1))


@pytest.mark.parametrize("count", [0, LEAST_IMAGES - 1])
def test_too_few_images_say_nothing(count: int) -> None:
    assert quality_intervals(*scenes(count, skill=0.9), ("a", "b")) is None


def test_images_without_a_box_say_nothing() -> None:
    empty = LabelledImage("x", Path("x.png"), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    nothing = Detections(
        np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros((0, 3), np.float32), 9, 9
    )
    assert quality_intervals([empty] * 8, [nothing] * 8, ("a", "b")) is None
