"""Detection losses without labels, against numbers computed by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.acquisition.detection_loss import ExpectedLoss, expected_detection_loss, pseudo_label_loss
from model.detections import Detections

Row = tuple[tuple[float, float, float, float], tuple[float, float, float]]
"""A box, and the probabilities of two classes and background."""

SURE = (0.9, 0.0, 0.1)
HALF = (0.5, 0.0, 0.5)
SQUARE = (10.0, 10.0, 30.0, 30.0)
SHIFTED = (14.0, 10.0, 34.0, 30.0)  # IoU 16 * 20 / (800 - 320) = 2/3
FAR = (60.0, 60.0, 80.0, 80.0)
H_SURE, H_HALF = 0.325083, math.log(2)


def view(*rows: Row, height: int = 100) -> Detections:
    probs = np.array([r[1] for r in rows], np.float32).reshape(-1, 3)
    return Detections(
        xyxy=np.array([r[0] for r in rows], np.float32).reshape(-1, 4),
        score=probs[:, :2].max(axis=1),
        label=probs[:, :2].argmax(axis=1),
        probs=probs,
        height=height,
        width=100,
    )


@pytest.mark.parametrize(
    ("original", "other", "classification", "localisation"),
    [
        # Foreground probabilities are 0.9 and 0.5; fewer than one object counts as one.
        ([(SQUARE, SURE)], [(SQUARE, SURE)], H_SURE, 0.0),
        ([(SQUARE, SURE)], [(SHIFTED, HALF)], (H_SURE + H_HALF) / 2, 0.7 / 3),
        ([(SQUARE, SURE)], [(FAR, SURE)], H_SURE, 1.0),
        ([(SQUARE, SURE), (FAR, HALF)], [(SHIFTED, SURE)], ((H_SURE + H_HALF) / 1.4 + H_SURE) / 2, (0.3 + 0.5) / 1.4),
        ([(SQUARE, HALF)], [], H_HALF / 2, 0.5),
        ([], [], 0.0, 0.0),
        # One object is matched once: the second box on it is one that the other view does not have.
        ([(SQUARE, SURE), (SHIFTED, SURE)], [(SQUARE, SURE)], (2 * H_SURE / 1.8 + H_SURE) / 2, 0.5),
    ],
)
def test_expected_loss_by_hand(
    original: list[Row], other: list[Row], classification: float, localisation: float
) -> None:
    found = expected_detection_loss(view(*original), view(*other))
    assert found == pytest.approx((classification, localisation), abs=1e-5)
    assert found.total == pytest.approx(classification + localisation, abs=1e-5)
    assert expected_detection_loss(view(*other), view(*original)) == pytest.approx(found)


# Shifted by a fifth of its width: 10 * 0.2 = 2, smooth L1 1.5.
SHIFT = 1.5
CASES: list[tuple[list[Row], list[Row], float]] = [
    ([(SQUARE, SURE)], [(SQUARE, SURE)], -math.log(0.9)),
    ([(SQUARE, SURE)], [(SHIFTED, HALF)], -math.log(0.5) + SHIFT),
    # Missed, and a box where nothing should be.
    ([(SQUARE, SURE)], [(FAR, SURE)], -math.log(0.05) - math.log(0.1)),
    ([(SQUARE, SURE)], [], -math.log(0.05)),
    # The other view is sure of the second class.
    ([(SQUARE, SURE)], [(SQUARE, (0.2, 0.7, 0.1))], -math.log(0.2)),
    ([(SQUARE, SURE)], [(SQUARE, (0.0, 0.9, 0.1))], -math.log(1e-3)),
    # Two objects, one found.
    ([(SQUARE, SURE), (FAR, SURE)], [(SQUARE, SURE)], (-math.log(0.9) - math.log(0.05)) / 2),
    # Not sure enough to be a label: what the other view has there should be background.
    ([(SQUARE, (0.4, 0.0, 0.6))], [(SQUARE, HALF)], -math.log(0.5)),
    ([], [], 0.0),
    ([(SQUARE, (0.3, 0.3, 0.4))], [], 0.0),
]


@pytest.mark.parametrize(("original", "other", "expected"), CASES)
def test_pseudo_label_loss_by_hand(original: list[Row], other: list[Row], expected: float) -> None:
    assert pseudo_label_loss(view(*original), view(*other)) == pytest.approx(expected, abs=1e-5)


def test_offsets_of_the_size_by_hand() -> None:
    wide = (10.0, 10.0, 34.0, 30.0)  # centre 2 to the right, 1.2 times as wide
    # 10 * 2 / 20 = 1 gives 0.5; 5 ln 1.2 = 0.911608 gives 0.415514
    found = pseudo_label_loss(view((SQUARE, SURE)), view((wide, SURE)))
    assert found == pytest.approx(-math.log(0.9) + 0.5 + 0.415514, abs=1e-5)


@pytest.mark.parametrize(("labels", "counted"), [(0, 3), (1, 3), (2, 6)])
def test_only_the_hardest_background_boxes_count(labels: int, counted: int) -> None:
    objects = [((0.0, 0.0, 10.0, 10.0), SURE), ((0.0, 20.0, 10.0, 30.0), SURE)][:labels]
    doubts = [0.05 * k for k in range(1, 9)]
    extra = [((20.0 + 9 * k, 50.0, 28.0 + 9 * k, 58.0), (p, 0.0, 1 - p)) for k, p in enumerate(doubts)]
    hardest = sum(-math.log(1 - p) for p in doubts[-counted:])
    found = pseudo_label_loss(view(*objects), view(*objects, *extra))
    assert found == pytest.approx((-labels * math.log(0.9) + hardest) / max(1, labels), abs=1e-5)


def test_thresholds_are_settings() -> None:
    one, other = view((SQUARE, (0.4, 0.0, 0.6))), view()
    assert pseudo_label_loss(one, other, min_score=0.3, reported_from=0.1) == pytest.approx(-math.log(0.1))
    with pytest.raises(ValueError, match=r"reported_from is 0.0, expected in \(0, 1\]"):
        pseudo_label_loss(one, other, reported_from=0.0)


@pytest.mark.parametrize("measure", [expected_detection_loss, pseudo_label_loss])
def test_other_images_classes_and_damaged_numbers_are_refused(measure: object) -> None:
    assert callable(measure)
    with pytest.raises(ValueError, match="the same image"):
        measure(view((SQUARE, SURE)), view(height=50))
    with pytest.raises(ValueError, match="the same image"):
        measure(view((SQUARE, SURE)), Detections.empty(100, 100, 5))
    broken = view((SQUARE, SURE))
    with pytest.raises(ValueError, match="not finite"):
        measure(replace(broken, xyxy=broken.xyxy * np.float32(np.nan)), broken)


@st.composite
def any_views(draw: st.DrawFn) -> tuple[Detections, Detections]:
    def rows() -> list[Row]:
        result: list[Row] = []
        for _ in range(draw(st.integers(0, 5))):
            x, y, w, h = (draw(st.integers(0, 50)) for _ in range(4))
            a, b = draw(st.floats(0, 1)), draw(st.floats(0, 1))
            result.append(((x, y, x + w, y + h), (a * b, a * (1 - b), 1 - a)))
        return result

    return view(*rows()), view(*rows())


@given(any_views(), st.integers(0, 1000))
@settings(max_examples=200, deadline=None)
def test_always_finite_and_as_doubtful_for_any_order_of_boxes(views: tuple[Detections, Detections], seed: int) -> None:
    rng = np.random.default_rng(seed)
    shuffled = [v.select(rng.permutation(len(v))) for v in views]
    expected, again = expected_detection_loss(*views), expected_detection_loss(*shuffled)
    assert isinstance(expected, ExpectedLoss)
    assert 0 <= expected.classification < math.inf
    assert 0 <= expected.localisation <= 1 + 1e-9
    assert again.classification == pytest.approx(expected.classification)
    loss = pseudo_label_loss(*views)
    assert 0 <= loss < math.inf


def test_two_views_of_a_detector_can_be_compared_as_they_come() -> None:
    """The order of boxes differs between views; nothing may depend on it."""
    rows: list[Row] = [(SQUARE, SURE), (FAR, HALF), ((40.0, 5.0, 55.0, 25.0), (0.1, 0.8, 0.1))]
    one, other = view(*rows), view(*rows[::-1])
    assert expected_detection_loss(one, other).localisation == 0
    # -ln 0.9, -ln 0.5 and -ln 0.8 over three objects
    assert pseudo_label_loss(one, other) == pytest.approx(-math.log(0.9 * 0.5 * 0.8) / 3, abs=1e-5)
