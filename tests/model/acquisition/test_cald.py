"""CALD against a plain implementation with loops, and its two stages by hand."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from model.acquisition.cald import consistency, novelty
from model.acquisition.strategy import RankingContext, StrategyConfig, create_strategy, measurement_table
from model.detections import Detections
from model.detectors.base import View

SQUARE = (0.0, 0.0, 10.0, 10.0)


def view(boxes: list[tuple[float, ...]], probs: list[tuple[float, ...]], classes: int = 2) -> Detections:
    rows = np.array(probs, np.float32).reshape(-1, classes + 1)
    return Detections(
        xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        score=rows[:, :-1].max(axis=1),
        label=rows[:, :-1].argmax(axis=1),
        probs=rows,
        height=100,
        width=100,
    )


def plain_consistency(original: Detections, other: Detections, beta: float) -> float:
    """As the paper and its code have it, box by box."""
    if len(original) == 0 or len(other) == 0:
        return 0.0
    distances = []
    for box, p in zip(original.xyxy.tolist(), original.probs.tolist(), strict=True):
        best, best_iou = 0, -1.0
        for number, candidate in enumerate(other.xyxy.tolist()):
            width = max(0.0, min(box[2], candidate[2]) - max(box[0], candidate[0]))
            height = max(0.0, min(box[3], candidate[3]) - max(box[1], candidate[1]))
            area = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, candidate)]
            value = width * height / (sum(area) - width * height)
            if value > best_iou:
                best, best_iou = number, value
        q = other.probs[best].tolist()
        middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        divergence = sum(
            sum(a * math.log(a / m) for a, m in zip(row, middle, strict=True) if a > 0) / 2 for row in (p, q)
        )
        distances.append(abs(best_iou + 0.5 * (1 - divergence) * (max(p[:-1]) + max(q[:-1])) - beta))
    return min(distances)


@pytest.mark.parametrize("seed", range(20))
def test_consistency_equals_the_plain_implementation(seed: int) -> None:
    generator = np.random.default_rng(seed)

    def draw() -> Detections:
        count = int(generator.integers(1, 60))
        corner, size = generator.uniform(0, 60, (count, 2)), generator.uniform(1, 40, (count, 2))
        probs = generator.dirichlet([0.3, 0.3, 0.3], size=count)
        return view(np.concatenate([corner, corner + size], axis=1).tolist(), probs.tolist())

    original, other = draw(), draw()
    for beta in (1.3, 0.7):
        assert consistency(original, other, beta) == pytest.approx(plain_consistency(original, other, beta), abs=1e-5)


def test_consistency_by_hand() -> None:
    sure = view([SQUARE], [(0.9, 0.0, 0.1)])
    assert consistency(sure, sure) == pytest.approx(abs(1 + 0.9 - 1.3), abs=1e-6)
    # Half of it is there, with another class: IoU 1/3, JS 0.9 ln 2, both scores 0.9.
    other = view([(5.0, 0.0, 15.0, 10.0)], [(0.0, 0.9, 0.1)])
    expected = abs(1 / 3 + (1 - 0.9 * math.log(2)) * 0.9 - 1.3)
    assert consistency(sure, other) == pytest.approx(expected, abs=1e-6)
    assert consistency(sure, view([], [])) == 0.0
    assert consistency(view([], []), sure) == 0.0


def test_novelty_by_hand() -> None:
    cod = view([SQUARE, SQUARE], [(0.9, 0.0, 0.1), (0.4, 0.1, 0.5)])
    eel = view([SQUARE], [(0.0, 0.9, 0.1)])
    # Labelled (2, 0) count as (3, 1) / 4. What is seen as (1, 0): JS of (1, 0) and (0.75, 0.25).
    near = (math.log2(1 / 0.875) + 0.75 * math.log2(0.75 / 0.875) + 0.25 * math.log2(2)) / 2
    far = (math.log2(1 / 0.625) + 0.25 * math.log2(0.25 / 0.625) + 0.75 * math.log2(2)) / 2
    assert novelty([cod, cod], (2, 0)) == pytest.approx(near, abs=1e-6)
    assert novelty([eel, eel], (2, 0)) == pytest.approx(far, abs=1e-6)
    assert novelty([cod, eel], (5, 5)) == pytest.approx(0.0, abs=1e-6)
    assert novelty([view([], []), view([], [])], (2, 0)) == 0.0


def test_golden_ranking() -> None:
    config = StrategyConfig("cald", cald_beta=1.3, retrieval=2.0)
    context = RankingContext(("cod", "eel"), (2, 0), seed=0, budget=1)
    strategy = create_strategy(config)
    cod, eel = view([SQUARE], [(0.35, 0.0, 0.65)]), view([SQUARE], [(0.0, 0.4, 0.6)])
    sure, nothing = view([SQUARE], [(0.9, 0.0, 0.1)]), view([], [])
    pool = {1: cod, 2: eel, 3: sure, 4: nothing}
    table = measurement_table(
        {task: strategy.measure(task, dict.fromkeys(strategy.views, found), context) for task, found in pool.items()},
        strategy.columns(context),
    )
    # |1 + s - 1.3|: the two lowest are candidates, and of those the class that nobody labelled comes first.
    assert table["consistency"].to_list() == pytest.approx([0.05, 0.1, 0.6, 0.0], abs=1e-6)
    result = strategy.rank(table, context)
    assert result.table["task_id"].to_list() == [2, 1, 3, 4]
    assert result.fitted == {"candidates_up_to": pytest.approx(0.1, abs=1e-6)}
    values = result.table["informativeness"].to_list()
    assert values == pytest.approx([1 + novelty([eel], (2, 0)), 1 + novelty([cod], (2, 0)), 1 / 1.6, -1.0], abs=1e-6)
    # A late image is a candidate by the limit of the ranking, not by how many there are.
    assert set(strategy.views) == set(View)
    row = strategy.measure(9, {**dict.fromkeys(View, nothing), View.ORIGINAL: cod}, context)
    late = strategy.informativeness(measurement_table({9: row}, strategy.columns(context)), context, result.fitted)
    assert row["consistency"] == 0.0
    assert late[0] == pytest.approx(1 + novelty([cod, *[nothing] * 4], (2, 0)))


def test_the_least_consistent_of_1_2_budgets_are_candidates() -> None:
    context = RankingContext(("cod", "eel"), (2, 0), seed=0, budget=10)
    values = [task / 20 for task in range(20)]
    table = pl.DataFrame({"task_id": range(20), "consistency": values, "novelty": [0.5] * 20, "boxes": [1.0] * 20})
    result = create_strategy(StrategyConfig("cald")).rank(table, context)
    assert result.fitted == {"candidates_up_to": values[11]}
    assert result.table["informativeness"].to_list()[:13] == [1.5] * 12 + [1 / (1 + values[12])]


def test_with_one_class_the_least_consistent_come_first() -> None:
    """Not the first tasks among the candidates: all classes seen are those that are labelled."""
    context = RankingContext(("cod",), (2,), seed=0, budget=10)
    values = [1.0 - task / 20 for task in range(20)]
    table = pl.DataFrame({"task_id": range(20), "consistency": values, "novelty": [0.0] * 20, "boxes": [1.0] * 20})
    result = create_strategy(StrategyConfig("cald")).rank(table, context)
    assert result.table["task_id"].to_list() == list(reversed(range(20)))
    assert result.table["informativeness"][0] == pytest.approx(1 / 1.05)


def test_consistency_is_the_mean_of_the_views() -> None:
    strategy = create_strategy(StrategyConfig("cald"))
    context = RankingContext(("cod", "eel"), (2, 0), seed=0, budget=1)
    sure, half = view([SQUARE], [(0.9, 0.0, 0.1)]), view([(5.0, 0.0, 15.0, 10.0)], [(0.9, 0.0, 0.1)])
    row = strategy.measure(1, {**dict.fromkeys(View, sure), View.TURNED: half}, context)
    # Three views as sure as the original: |1 + 0.9 - 1.3|. The turned one has an IoU of 1/3.
    assert row["consistency"] == pytest.approx((3 * 0.6 + abs(1 / 3 + 0.9 - 1.3)) / 4, abs=1e-6)
    assert row["boxes"] == 5
