"""HUALE: the published values, the metrics by hand, and the two stages."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from model.acquisition.config import CategoryDiversity
from model.acquisition.geometry import covers
from model.acquisition.huale_metrics import (
    category_diversity,
    localization_confidence,
    overlap_ratio,
    semantic_affinity,
)
from model.acquisition.strategy import (
    RankingContext,
    Strategy,
    StrategyConfig,
    create_strategy,
    measurement_table,
    with_candidates,
)
from model.detections import Detections
from model.detectors.base import View

CONTEXT = RankingContext(("cod", "eel"), (1, 1), seed=0, budget=1)
LEFT, RIGHT = (0.0, 0.0, 20.0, 20.0), (50.0, 0.0, 70.0, 20.0)
SURE, HALF, OTHER = (0.9, 0.0, 0.1), (0.5, 0.0, 0.5), (0.0, 0.9, 0.1)
Box = tuple[float, float, float, float]
Row = tuple[float, float, float]
Views = tuple[Detections, Detections]


def view(*rows: tuple[Box, Row], side_std: float | None = None) -> Detections:
    probs = np.array([row for _, row in rows], np.float32).reshape(-1, 3)
    return Detections(
        xyxy=np.array([box for box, _ in rows], np.float32).reshape(-1, 4),
        score=probs[:, :2].max(axis=1),
        label=probs[:, :2].argmax(axis=1),
        probs=probs,
        height=100,
        width=1000,
        side_std=None if side_std is None else np.full((len(rows), 4), side_std, np.float32),
    )


def js(p: Row, q: Row) -> float:
    """In bits, term by term."""
    total = 0.0
    for a, b in zip(p, q, strict=True):
        m = (a + b) / 2
        total += sum(x / 2 * math.log2(x / m) for x in (a, b) if x > 0)
    return total


def boxes_with_covers(parts: tuple[float, ...]) -> list[Box]:
    """Boxes of which exactly these parts lie inside another box of the list."""
    if parts == (0.0,):
        return [LEFT]
    low, second, *rest = sorted(parts)
    large, beside = (0.0, 0.0, 100.0, 100.0), 100 * (1 - low)
    boxes = [large, (beside, 0.0, beside + 100 * low / second, 100.0)]
    # Small ones look out of the large one to the left.
    boxes += [(10 * part - 10, 20.0 * n, 10 * part, 20.0 * n + 10) for n, part in enumerate(rest)]
    return boxes


@pytest.mark.parametrize(
    ("covered", "published"),
    [
        # The six images of the ablation figure, by the part of each box inside another one.
        ((0.0,), 0.0),  # bottle, person, train and boat: one box each
        ((0.32, 0.94, 0.97, 1.0, 0.82), 0.800),
        ((1.0, 0.46, 0.57, 0.72, 0.70, 0.25), 0.333),
    ],
)
def test_the_published_overlap_ratios(covered: tuple[float, ...], published: float) -> None:
    boxes = boxes_with_covers(covered)
    found = view(*[(box, SURE) for box in boxes])
    assert sorted(covers(found.xyxy)) == pytest.approx(sorted(covered), abs=1e-6)
    assert overlap_ratio(found) == pytest.approx(published, abs=1e-3)


def test_a_box_under_two_classes_does_not_overlap_itself() -> None:
    assert overlap_ratio(view((LEFT, SURE), (LEFT, OTHER))) == 0.0
    assert overlap_ratio(view()) == 0.0


# The metrics


def test_only_the_hundred_most_confident_boxes_count() -> None:
    strategy = create_strategy(StrategyConfig("huale"))
    sure, weak = (LEFT, SURE), (RIGHT, (0.2, 0.3, 0.5))

    def measured(found: Detections) -> tuple[object, object]:
        views = {View.ORIGINAL: found, View.HFLIP: found}
        return strategy.measure(1, views, CONTEXT), strategy.measure_candidate(1, views, CONTEXT)

    hundred = measured(view(*[sure] * 100))
    assert measured(view(weak, *[sure] * 100, weak)) == hundred
    assert measured(view(weak, *[sure] * 99)) != hundred


def test_semantic_affinity_compares_matched_boxes() -> None:
    expected = (js(SURE, HALF) + 0.0) / 2
    original, other = view((LEFT, SURE), (RIGHT, SURE)), view((RIGHT, SURE), (LEFT, HALF))
    assert semantic_affinity(original, other) == pytest.approx(expected, abs=1e-6)
    assert semantic_affinity(other, original) == pytest.approx(expected, abs=1e-6)
    # A box that only one view has does not count here; views that share none at all could not differ more.
    assert semantic_affinity(original, view((LEFT, SURE))) == 0.0
    assert semantic_affinity(view((LEFT, SURE)), view((RIGHT, SURE))) == 1.0
    assert semantic_affinity(view((LEFT, SURE)), view()) == 1.0
    assert semantic_affinity(view(), view()) == 0.0


def test_category_diversity_sees_a_missing_box() -> None:
    original, other = view((LEFT, SURE), (RIGHT, OTHER)), view((LEFT, SURE))
    disagreement = functools.partial(category_diversity, how=CategoryDiversity.DISAGREEMENT)
    assert disagreement(original, other) == pytest.approx(js((0.5, 0.5, 0), (1, 0, 0)), abs=1e-6)
    assert disagreement(original, original) == 0.0
    assert disagreement(original, view()) == 1.0
    assert disagreement(view(), view()) == 0.0


def test_category_diversity_counts_the_classes_of_an_image() -> None:
    both, one = view((LEFT, SURE), (RIGHT, OTHER)), view((LEFT, SURE))
    spread = functools.partial(category_diversity, how=CategoryDiversity.SPREAD)
    assert spread(both, both) == pytest.approx(1.0, abs=1e-6)
    assert spread(one, one) == 0.0
    # One view spreads over both classes, the other over one; a view without boxes says nothing.
    assert spread(both, one) == pytest.approx(0.5, abs=1e-6)
    assert spread(both, view()) == spread(view(), both) == pytest.approx(1.0, abs=1e-6)
    assert spread(view(), view()) == 0.0
    # Three quarters of the boxes are of one class: 0.811 bits of 1; with a single class there is nothing to spread.
    most = view((LEFT, SURE), (LEFT, SURE), (LEFT, SURE), (RIGHT, OTHER))
    assert spread(most, most) == pytest.approx(0.811278, abs=1e-6)
    alone = replace(one, probs=one.probs[:, [0, 2]])
    assert spread(alone, alone) == 0.0


def test_localization_confidence_with_and_without_deviations() -> None:
    # 2 pixels of 20 on every side.
    found = view((LEFT, SURE), side_std=2.0)
    assert localization_confidence(found, found) == pytest.approx(1 - math.exp(-0.1), abs=1e-6)
    unknown = view((LEFT, SURE), side_std=math.nan)
    assert localization_confidence(unknown, unknown) == 1.0
    # Left and right sides moved by 4 of 20 pixels, the others not.
    moved = view(((4.0, 0.0, 24.0, 20.0), SURE))
    assert localization_confidence(view((LEFT, SURE)), moved) == pytest.approx((0.2 + 0 + 0.2 + 0) / 4)
    assert localization_confidence(view((LEFT, SURE)), view((RIGHT, SURE))) == 1.0
    assert localization_confidence(view((LEFT, SURE)), view()) == 1.0
    assert localization_confidence(view(), view()) == 0.0


# The strategy


POOL = {
    1: (view((LEFT, SURE)), view((LEFT, SURE))),  # entropy 0.325, the views agree
    2: (view((LEFT, HALF)), view((LEFT, SURE))),  # entropy 0.693, the views differ about the class
    3: (view((LEFT, HALF), (RIGHT, SURE)), view((LEFT, HALF))),  # and about a box
    4: (view((LEFT, HALF)), view((LEFT, HALF))),
    5: (view((LEFT, (1.0, 0.0, 0.0))), view((LEFT, (1.0, 0.0, 0.0)))),
    6: (view(), view()),
}
INSIDE = (5.0, 5.0, 15.0, 15.0)
CLASS_DISTANCE = js(HALF, SURE)
"""Of task 2, and the largest of the pool; one in 0.9 cod for both views, so histograms agree everywhere."""


def ranked(
    config: StrategyConfig, context: RankingContext = CONTEXT, pool: Mapping[int, Views] = POOL
) -> tuple[Strategy, pl.DataFrame, list[int]]:
    strategy = create_strategy(config)
    views = {task: dict(zip((View.ORIGINAL, View.HFLIP), both, strict=True)) for task, both in pool.items()}
    table = measurement_table(
        {task: strategy.measure(task, {View.ORIGINAL: v[View.ORIGINAL]}, context) for task, v in views.items()},
        strategy.columns(context),
    )
    closer = measurement_table(
        {task: strategy.measure_candidate(task, views[task], context) for task in strategy.candidates(table, context)},
        strategy.candidate_columns(context),
    )
    return strategy, with_candidates(table, closer), closer["task_id"].to_list()


def test_golden_two_stages() -> None:
    strategy, table, candidates = ranked(StrategyConfig("huale"))
    # Four times the budget, by the largest entropy of a box: ln 2 three times, and 0.325.
    assert candidates == [1, 2, 3, 4]
    assert table["entropy"].to_list() == pytest.approx([0.325083, *[math.log(2)] * 3, 0.0, 0.0], abs=1e-6)
    result = strategy.rank(table, CONTEXT)
    assert json.loads(json.dumps(result.fitted)) == result.fitted
    # Over four values the 1st percentile is the lowest, the 99th lies 0.03 below the largest two's difference.
    low, high = result.fitted["low"], result.fitted["high"]
    assert low == [0.0] * 4
    assert high == pytest.approx([CLASS_DISTANCE * 0.97, 0.0, 0.0, 0.0], abs=1e-6)
    # One metric of four at its most, so a length of sqrt(1 / 4); then by id, then the rest by entropy.
    order = dict(result.table.select("task_id", "informativeness").iter_rows())
    assert list(order) == [2, 1, 3, 4, 5, 6]
    assert list(order.values()) == pytest.approx([1.5, 1.0, 1.0, 1.0, 0.0, -1.0])


def test_golden_length_of_four_metrics_that_differ() -> None:
    context = RankingContext(("cod", "eel"), (1, 1), seed=0, budget=3)
    table = pl.DataFrame(
        {
            "task_id": [1, 2, 3],
            "entropy": [0.5] * 3,
            "boxes": [1.0] * 3,
            "semantic_affinity": [0.0, 0.3, 0.6],
            "category_diversity": [0.2, 0.4, 0.0],
            "overlap_ratio": [1.0, 0.0, 0.5],
            "localization_confidence": [0.4, 0.3, 0.5],
        }
    )

    def lengths(**weights: tuple[float, ...]) -> list[float]:
        found = create_strategy(StrategyConfig("huale", **weights)).rank(table, context).table  # type: ignore[arg-type]
        return (found.sort("task_id")["informativeness"] - 1).to_list()

    # As 0 to 1, the first has (0, 0.5, 1, 0.5), the second (0.5, 1, 0, 0), the third (1, 0, 0.5, 1).
    assert lengths() == pytest.approx([math.sqrt(1.5 / 4), math.sqrt(1.25 / 4), math.sqrt(2.25 / 4)])
    # 0.5 + 3 + 4 * 0.25, 0.25 + 2 + 4, 1 + 3 * 0.25, of 10.
    expected = [math.sqrt(0.45), math.sqrt(0.625), math.sqrt(0.175)]
    assert lengths(huale_weights=(1, 2, 3, -4)) == pytest.approx(expected)


def test_signs_and_variants_are_settings() -> None:
    turned = StrategyConfig("huale", huale_weights=(-1, 0, 0, 0))
    strategy, table, _ = ranked(turned)
    values = dict(strategy.rank(table, CONTEXT).table.select("task_id", "informativeness").iter_rows())
    assert [values[task] for task in (1, 2, 3, 4)] == pytest.approx([2.0, 1.0, 2.0, 2.0])
    by_mean, by_sum = StrategyConfig("huale", huale_entropy="mean"), StrategyConfig("huale", huale_entropy="sum")
    mean, total = ranked(by_mean)[1]["entropy"], ranked(by_sum)[1]["entropy"]
    assert mean[2] == pytest.approx((math.log(2) + 0.325083) / 2, abs=1e-6)
    assert total[2] == pytest.approx(math.log(2) + 0.325083, abs=1e-6)
    two_classes = {1: (view((LEFT, SURE), (RIGHT, OTHER)),) * 2}
    by_spread, by_disagreement = StrategyConfig("huale"), StrategyConfig("huale", huale_category="disagreement")
    assert ranked(by_spread, pool=two_classes)[1]["category_diversity"].to_list() == pytest.approx([1.0], abs=1e-6)
    assert ranked(by_disagreement, pool=two_classes)[1]["category_diversity"].to_list() == [0.0]
    assert ranked(StrategyConfig("huale", retrieval=1.5))[2] == [2, 3]
    empty_first = StrategyConfig("huale", empty_policy="first")
    strategy, table, _ = ranked(empty_first)
    assert strategy.rank(table, CONTEXT).table["task_id"][0] == 6
    for wrong in ((1, 1, 1), (0, 0, 0, 0), (1, 1, 1, math.nan)):
        with pytest.raises(ValueError, match="four finite numbers"):
            StrategyConfig("huale", huale_weights=wrong)
    with pytest.raises(ValueError, match=r"retrieval is 0\.5, expected a number from 1"):
        StrategyConfig("huale", retrieval=0.5)


def test_what_rounding_leaves_of_a_constant_metric_says_nothing() -> None:
    context = RankingContext(("cod", "eel"), (1, 1), seed=0, budget=10)
    pool = {}
    for task, width in enumerate((10.0, 13.7, 21.3, 33.3, 47.9, 61.1, 77.7)):
        box = (3.3, 3.3, 3.3 + width, 3.3 + width)
        pool[task] = (view((box, HALF), side_std=0.1 * width),) * 2
    strategy, table, _ = ranked(StrategyConfig("huale"), context, pool)
    values = table["localization_confidence"]
    assert 0 < values.max() - values.min() < 1e-6  # type: ignore[operator]
    assert set(strategy.rank(table, context).table["informativeness"]) == {1.0}


def test_a_late_image_is_judged_by_what_the_ranking_fitted() -> None:
    strategy, table, _ = ranked(StrategyConfig("huale"))
    fitted = strategy.rank(table, CONTEXT).fitted

    def value(original: Detections, flipped: Detections) -> float:
        views = {View.ORIGINAL: original, View.HFLIP: flipped}
        row = strategy.measure(9, views, CONTEXT) | strategy.measure_candidate(9, views, CONTEXT)
        columns = strategy.columns(CONTEXT) | strategy.candidate_columns(CONTEXT)
        return float(strategy.informativeness(measurement_table({9: row}, columns), CONTEXT, fitted)[0])

    assert value(*POOL[2]) == pytest.approx(1.5)
    assert value(*POOL[4]) == pytest.approx(1.0)
    # Less entropy than any candidate had: however the views differ, it would not have been one.
    certain = view((LEFT, (0.95, 0.0, 0.05)))
    assert value(certain, view((LEFT, OTHER))) < 1.0
    assert value(view(), view()) == -1.0


@pytest.mark.parametrize("policy", ["last", "first"])
def test_a_box_that_the_mirrored_view_alone_sees_does_not_make_a_candidate(policy: str) -> None:
    pool = {1: (view((LEFT, HALF)), view((LEFT, SURE))), 2: (view(), view((LEFT, HALF))), 3: (view(), view())}
    context = RankingContext(("cod", "eel"), (1, 1), seed=0, budget=3)
    strategy, table, candidates = ranked(StrategyConfig("huale", empty_policy=policy), context, pool)
    assert candidates == [1], "there is room for twelve"
    result = strategy.rank(table, context)
    assert result.table["task_id"].to_list() == ([1, 2, 3] if policy == "last" else [2, 3, 1])
    # One that comes later is measured in both ways at once, and treated alike.
    views = {View.ORIGINAL: view(), View.HFLIP: view((LEFT, HALF))}
    row = strategy.measure(9, views, context) | strategy.measure_candidate(9, views, context)
    late = measurement_table({9: row}, strategy.columns(context) | strategy.candidate_columns(context))
    value = strategy.informativeness(late, context, result.fitted)[0]
    assert value == (-1.0 if policy == "last" else 1e9)


def test_a_metric_in_which_one_image_of_many_differs_counts() -> None:
    """One of 104 candidates lies above the 99th percentile of the others, which are alike."""
    context = RankingContext(("cod", "eel"), (1, 1), seed=0, budget=26)
    alike = view((LEFT, HALF), (RIGHT, HALF))
    covered = view((LEFT, HALF), (INSIDE, HALF))
    pool = {task: (alike, alike) for task in range(1, 104)} | {104: (covered, covered)}
    strategy, table, candidates = ranked(StrategyConfig("huale"), context, pool)
    assert len(candidates) == 104
    # Of its two boxes one lies inside the other; the three other metrics are the same everywhere.
    assert table.filter(pl.col("task_id") == 104)["overlap_ratio"].item() == 0.5
    result = strategy.rank(table, context).table
    assert result["task_id"][0] == 104
    assert result["informativeness"][0] == pytest.approx(1.5), "one metric of four at its most"
    assert set(result["informativeness"][1:]) == {1.0}
