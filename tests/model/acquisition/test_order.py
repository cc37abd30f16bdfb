"""Order scores: unique, inside (0, 1), 0 = label first; new tasks fall where their informativeness puts them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.acquisition.order import order_scores, place

VALUES = st.floats(-1e9, 1e9)
IDS = st.integers(0, 2**62)


def test_golden_scores() -> None:
    assert order_scores(0).tolist() == []
    assert order_scores(1).tolist() == [0.5]
    assert order_scores(4).tolist() == [0.125, 0.375, 0.625, 0.875]
    with pytest.raises(ValueError, match="-1 tasks"):
        order_scores(-1)


@pytest.mark.parametrize("n", [1, 2, 3, 1000, 1_000_000])
def test_scores_are_unique_ascending_and_inside(n: int) -> None:
    scores = order_scores(n)
    assert scores.dtype == np.float64
    assert (np.diff(scores) > 0).all()
    assert scores[0] > 0
    assert scores[-1] < 1


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        (9.0, 0.0, 0.125),
        (4.5, 0.125, 0.375),
        (4.0, 0.625, 0.875),
        (3.0, 0.625, 0.875),
        (2.0, 0.875, 1.0),
        (-7, 0.875, 1.0),
    ],
)
def test_a_new_task_lies_between_its_neighbours(value: float, low: float, high: float) -> None:
    ranked = np.array([5.0, 4.0, 4.0, 2.0])
    assert low < place(value, 77, ranked, order_scores(4)) < high


@given(st.lists(VALUES, max_size=20), VALUES, VALUES, IDS)
def test_place_is_monotone_and_inside(ranked: list[float], one: float, other: float, task: int) -> None:
    values = np.array(sorted(ranked, reverse=True))
    scores = order_scores(len(values))
    higher, lower = max(one, other), min(one, other)
    first, second = (place(value, task, values, scores) for value in (higher, lower))
    assert 0 < first <= second < 1


@given(st.lists(VALUES, min_size=1, max_size=20), VALUES, IDS)
@example([0.0, -5e-324], 0.0, 0)
def test_place_agrees_with_the_ranking(ranked: list[float], value: float, task: int) -> None:
    values = np.array(sorted(ranked, reverse=True))
    scores = order_scores(len(values))
    score = place(value, task, values, scores)
    assert ((scores < score) == (values >= value)).all()


def test_new_tasks_of_one_value_are_sorted_by_id_and_distinct_in_a_large_ranking() -> None:
    n = 1_000_000
    values: NDArray[np.float64] = np.linspace(5, 0, n, dtype=np.float64)
    scores = order_scores(n)
    placed = [place(float(values[n - 3]), task, values, scores) for task in range(500_000, 500_300)]
    assert (np.diff(placed) > 0).all()
    assert placed[0] > scores[n - 3]
    assert placed[-1] < scores[n - 2]


def test_before_the_first_ranking() -> None:
    none = np.zeros(0)
    assert 0 < place(3.0, 1, none, none) < place(0.0, 1, none, none) < place(-1.0, 1, none, none) < 1


def test_wrong_use_is_refused() -> None:
    with pytest.raises(ValueError, match="task 4: informativeness is nan"):
        place(float("nan"), 4, np.zeros(0), np.zeros(0))
    with pytest.raises(ValueError, match="2 ranked values, but 1 ranked scores"):
        place(1.0, 4, np.array([2.0, 1.0]), np.array([0.5]))
