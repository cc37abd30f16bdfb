"""Uncertainties, aggregation and class weights against numbers computed by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from model.acquisition.aggregation import Aggregation, aggregate
from model.acquisition.class_weights import CAP, class_weights
from model.acquisition.uncertainty import MEASURES, entropy, least_confidence, margin

Measure = Callable[[NDArray[np.float32]], NDArray[np.float64]]


@pytest.mark.parametrize(
    ("row", "expected_least_confidence", "expected_margin", "expected_entropy"),
    [
        ([0.6, 0.3, 0.1], 0.4, 0.49, 0.897946),
        ([0.2, 0.5, 0.3], 0.5, 0.64, 1.029653),
        ([1.0, 0.0, 0.0], 0.0, 0.0, 0.0),
        ([0.0, 0.0, 1.0], 0.0, 0.0, 0.0),
        ([0.5, 0.5, 0.0], 0.5, 1.0, math.log(2)),
        ([0.25, 0.25, 0.25, 0.25], 0.75, 1.0, math.log(4)),
        ([0.05, 0.05, 0.9], 0.1, 0.0225, 0.394398),
        ([0.9, 0.1], 0.1, 0.04, 0.325083),
        ([0.5, 0.5], 0.5, 1.0, math.log(2)),
    ],
)
def test_golden_numbers(
    row: list[float], expected_least_confidence: float, expected_margin: float, expected_entropy: float
) -> None:
    probs = np.array([row], np.float32)
    assert least_confidence(probs) == pytest.approx([expected_least_confidence], abs=1e-6)
    assert margin(probs) == pytest.approx([expected_margin], abs=1e-6)
    assert entropy(probs) == pytest.approx([expected_entropy], abs=1e-6)


@pytest.mark.parametrize("measure", MEASURES.values())
def test_no_detections_give_no_values(measure: Measure) -> None:
    assert measure(np.zeros((0, 3), np.float32)).shape == (0,)


@pytest.mark.parametrize("measure", MEASURES.values())
def test_what_is_no_probability_is_refused(measure: Measure) -> None:
    with pytest.raises(ValueError, match="not finite"):
        measure(np.array([[np.nan, 0.5]], np.float32))
    with pytest.raises(ValueError, match=r"shape \(1, 1\)"):
        measure(np.ones((1, 1), np.float32))


@pytest.mark.parametrize("measure", MEASURES.values())
def test_one_class_is_bernoulli_and_peaks_at_one_half(measure: Measure) -> None:
    score = np.linspace(0, 1, 101, dtype=np.float32)
    values = measure(np.stack([score, 1 - score], axis=1))
    assert values.argmax() == 50
    assert (np.diff(values[:51]) > 0).all()
    assert values == pytest.approx(values[::-1], abs=1e-6)


def test_a_sure_background_box_is_certain_not_junk_at_the_top() -> None:
    junk = np.array([[0.04, 0.03, 0.93]], np.float32)
    doubtful = np.array([[0.5, 0.1, 0.4]], np.float32)
    for measure in MEASURES.values():
        assert measure(junk)[0] < measure(doubtful)[0]


@st.composite
def rows(draw: st.DrawFn) -> NDArray[np.float32]:
    shape = (draw(st.integers(1, 6)), draw(st.integers(2, 9)))
    raw = draw(hnp.arrays(np.float32, shape, elements=st.floats(0, 1, width=32)))
    raw[:, 0] += np.float32(1e-3)
    result: NDArray[np.float32] = raw / raw.sum(axis=1, keepdims=True)
    return result


@given(rows(), st.floats(0, 1))
def test_a_more_certain_copy_is_never_more_uncertain(probs: NDArray[np.float32], amount: float) -> None:
    certain = np.zeros_like(probs)
    certain[np.arange(len(probs)), probs.argmax(axis=1)] = 1
    sharper = ((1 - amount) * probs + amount * certain).astype(np.float32)
    for measure in MEASURES.values():
        before, after = measure(probs), measure(sharper)
        assert np.isfinite(after).all()
        assert (after >= 0).all()
        assert (after <= before + 1e-6).all()


@pytest.mark.parametrize("columns", [2, 3, 9, 1204])
def test_the_margin_is_between_the_two_largest(columns: int) -> None:
    probs = np.random.default_rng(0).dirichlet(np.ones(columns), size=200).astype(np.float32)
    expected = []
    for row in probs.tolist():
        *_, second, first = sorted(row)
        expected.append((1 - (first - second)) ** 2)
    assert margin(probs) == pytest.approx(expected, abs=1e-6)


@given(rows())
def test_the_order_of_classes_does_not_matter(probs: NDArray[np.float32]) -> None:
    for measure in MEASURES.values():
        assert measure(probs[:, ::-1]) == pytest.approx(measure(probs), abs=1e-6)


@pytest.mark.parametrize(("how", "expected"), [(Aggregation.SUM, 0.9), (Aggregation.MEAN, 0.3), (Aggregation.MAX, 0.6)])
def test_aggregation(how: Aggregation, expected: float) -> None:
    assert aggregate(np.array([0.1, 0.6, 0.2]), how) == pytest.approx(expected)
    assert aggregate(np.zeros(0), how) == 0.0
    assert aggregate(np.array([0.7]), how) == 0.7


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.randoms(use_true_random=False))
def test_aggregation_does_not_depend_on_the_order_of_boxes(values: list[float], chance: object) -> None:
    shuffled = list(values)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    for how in Aggregation:
        assert aggregate(np.array(values), how) == aggregate(np.array(shuffled), how)


def test_class_weights_by_hand() -> None:
    # N = 3, C = 2: 5 / 4 and 5 / 1, mean 3.125.
    assert class_weights([3, 0]) == pytest.approx([0.4, 1.6])
    # N = 8, C = 3: 11 / 8, 11 / 2, 11 / 2, mean 4.125.
    assert class_weights([7, 1, 1]) == pytest.approx([1 / 3, 4 / 3, 4 / 3])


@pytest.mark.parametrize("counts", [[0], [17], [0, 0, 0], [5, 5, 5, 5]])
def test_equal_counts_weigh_nothing(counts: list[int]) -> None:
    assert class_weights(counts) == pytest.approx(np.ones(len(counts)))


def test_one_unseen_class_among_many_common_ones_is_capped() -> None:
    weights = class_weights([1000] * 19 + [0])
    assert weights[-1] == CAP
    assert (weights[:-1] > 0).all()
    assert (weights[:-1] < 0.1).all()


def test_no_classes_and_negative_counts() -> None:
    assert class_weights([]).shape == (0,)
    with pytest.raises(ValueError, match="negative, found -1"):
        class_weights([3, -1])


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=40))
def test_rarer_classes_never_weigh_less(counts: list[int]) -> None:
    weights = class_weights(counts)
    assert np.isfinite(weights).all()
    assert (weights > 0).all()
    assert (weights <= CAP).all()
    by_count = weights[np.argsort(counts, kind="stable")]
    assert (np.diff(by_count) <= 1e-12).all()
    if weights.max() < CAP:
        assert weights.mean() == pytest.approx(1.0)
