"""Strategies through their Protocol: golden values, and the same ranking however the pool is cut."""

from __future__ import annotations

import itertools
import random

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from model.acquisition.random_sampling import draw_pool
from model.acquisition.strategy import (
    INFORMATIVENESS,
    RankingContext,
    Strategy,
    StrategyConfig,
    create_strategy,
    measurement_table,
    strategy_names,
)
from model.detections import Detections
from model.detectors.base import View

CONTEXT = RankingContext(classes=("cod", "eel"), label_counts=(3, 0), seed=5)
GOLDEN_SHUFFLE = [4, 1, 5, 6, 9, 7, 8, 3, 10, 2]


def detections(*rows: list[float], num_classes: int = 2) -> Detections:
    if not rows:
        return Detections.empty(10, 10, num_classes)
    probs = np.array(rows, np.float32)
    return Detections(
        xyxy=np.tile(np.array([1, 1, 5, 5], np.float32), (len(rows), 1)),
        score=probs[:, :-1].max(axis=1),
        label=probs[:, :-1].argmax(axis=1),
        probs=probs,
        height=10,
        width=10,
    )


def measured(strategy: Strategy, pool: dict[int, Detections], context: RankingContext = CONTEXT) -> pl.DataFrame:
    rows = {task: strategy.measure(task, {View.ORIGINAL: found}, context) for task, found in pool.items()}
    return measurement_table(rows, strategy.columns(context))


def ranked_ids(strategy: Strategy, pool: dict[int, Detections], context: RankingContext = CONTEXT) -> list[int]:
    return strategy.rank(measured(strategy, pool, context), context).table["task_id"].to_list()


def all_configs() -> list[StrategyConfig]:
    options = itertools.product(
        ("least_confidence", "margin", "entropy"), ("sum", "mean", "max"), (True, False), ("first", "last")
    )
    return [StrategyConfig("uncertainty", *option) for option in options] + [StrategyConfig("random")]


@pytest.mark.parametrize(
    ("uncertainty", "aggregation", "weights", "expected"),
    [
        # Class weights for (3, 0) are 0.4 and 1.6; the rows are 0.4 and 0.5 by least confidence.
        ("least_confidence", "sum", True, 0.4 * 0.4 + 1.6 * 0.5),
        ("least_confidence", "mean", True, (0.4 * 0.4 + 1.6 * 0.5) / 2),
        ("least_confidence", "max", True, 1.6 * 0.5),
        ("least_confidence", "sum", False, 0.9),
        ("margin", "sum", False, 0.49 + 0.64),
        ("margin", "max", True, 1.6 * 0.64),
        ("entropy", "sum", False, 0.897946 + 1.029653),
        ("entropy", "sum", True, 0.4 * 0.897946 + 1.6 * 1.029653),
    ],
)
def test_golden_informativeness(uncertainty: str, aggregation: str, weights: bool, expected: float) -> None:
    strategy = create_strategy(StrategyConfig("uncertainty", uncertainty, aggregation, weights))
    table = measured(strategy, {1: detections([0.6, 0.3, 0.1], [0.2, 0.5, 0.3])})
    assert table.row(0, named=True) == {"task_id": 1, "uncertainty": pytest.approx(expected, abs=1e-6), "boxes": 2.0}
    assert strategy.informativeness(table, CONTEXT, {}).to_list() == pytest.approx([expected], abs=1e-6)


def test_weights_go_by_each_box_not_by_the_first() -> None:
    strategy = create_strategy(StrategyConfig(uncertainty="least_confidence"))
    one_way = measured(strategy, {1: detections([0.6, 0.3, 0.1], [0.2, 0.5, 0.3])})
    other_way = measured(strategy, {1: detections([0.2, 0.5, 0.3], [0.6, 0.3, 0.1])})
    assert_frame_equal(one_way, other_way)


def test_a_rare_class_comes_before_a_common_one() -> None:
    pool = {1: detections([0.6, 0.3, 0.1]), 2: detections([0.3, 0.6, 0.1])}
    assert ranked_ids(create_strategy(StrategyConfig()), pool) == [2, 1]
    assert ranked_ids(create_strategy(StrategyConfig(class_weights=False)), pool) == [1, 2]


@pytest.mark.parametrize(("policy", "expected"), [("last", [3, 1, 2, 4]), ("first", [2, 4, 3, 1])])
def test_empty_policy(policy: str, expected: list[int]) -> None:
    pool = {
        1: detections([1.0, 0.0, 0.0]),  # certain: as little to learn as it gets, and still before an empty image
        2: detections(),
        3: detections(*[[0.5, 0.3, 0.2]] * 50),
        4: detections(),
    }
    assert ranked_ids(create_strategy(StrategyConfig(empty_policy=policy)), pool) == expected


def test_ties_break_by_task_id() -> None:
    pool = {task: detections([0.6, 0.3, 0.1]) for task in (9, 2, 30, 1)}
    assert ranked_ids(create_strategy(StrategyConfig()), pool) == [1, 2, 9, 30]


def test_random_is_a_stable_shuffle_by_seed() -> None:
    strategy = create_strategy(StrategyConfig("random"))
    assert strategy.views == ()
    assert strategy.measure(1, {}, CONTEXT) == {}
    table = pl.DataFrame({"task_id": range(1, 11)})
    # Written down once: another release, platform or Python must give the same.
    assert strategy.rank(table, CONTEXT).table["task_id"].to_list() == GOLDEN_SHUFFLE
    other = RankingContext(CONTEXT.classes, CONTEXT.label_counts, seed=6)
    assert strategy.rank(table, other).table["task_id"].to_list() != GOLDEN_SHUFFLE


def test_random_is_evenly_spread_and_independent_of_the_id() -> None:
    strategy = create_strategy(StrategyConfig("random"))
    values = strategy.informativeness(pl.DataFrame({"task_id": range(100_000)}), CONTEXT, {}).to_numpy()
    assert values.min() >= 0
    assert values.max() < 1
    counts, _ = np.histogram(values, bins=20, range=(0, 1))
    assert abs(counts - 5000).max() < 5 * np.sqrt(5000)
    assert abs(np.corrcoef(values, np.arange(100_000))[0, 1]) < 0.02
    assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 0.02


@pytest.mark.parametrize("size", [0, 5, 6])
def test_the_whole_pool_is_drawn_when_there_is_no_limit_below_it(size: int) -> None:
    assert draw_pool([5, 3, 9, 1, 7], size, seed=0) == [5, 3, 9, 1, 7]


def test_a_part_of_the_pool_depends_on_the_tasks_and_the_seed_alone() -> None:
    pool = list(range(100))
    drawn = draw_pool(pool, 10, seed=0)
    assert len(set(drawn)) == 10
    assert set(drawn) < set(pool)
    assert draw_pool(pool[::-1], 10, seed=0) == drawn
    assert set(draw_pool(pool, 10, seed=1)) != set(drawn)
    assert all(type(task) is int for task in drawn)


def test_an_empty_pool_is_drawn_empty() -> None:
    assert draw_pool([], 10, seed=0) == []


@st.composite
def pools(draw: st.DrawFn) -> dict[int, Detections]:
    ids = draw(st.lists(st.integers(0, 2**62), min_size=1, max_size=12, unique=True))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    pool = {}
    for task in ids:
        probs = generator.dirichlet(np.full(3, draw(st.sampled_from([0.05, 1.0, 50.0]))), size=draw(st.integers(0, 4)))
        pool[task] = detections(*probs.astype(np.float32).tolist())
    return pool


@settings(max_examples=60, deadline=None)
@given(pools(), st.sampled_from(all_configs()), st.integers(0, 2**70), st.integers(1, 5))
def test_the_ranking_depends_on_neither_order_nor_shards(
    pool: dict[int, Detections], config: StrategyConfig, seed: int, shard_size: int
) -> None:
    context = RankingContext(("cod", "eel"), (40, 2), seed)
    strategy = create_strategy(config)
    expected = strategy.rank(measured(strategy, pool, context), context).table

    tasks = list(pool)
    random.Random(seed).shuffle(tasks)
    cuts = [tasks[start : start + shard_size] for start in range(0, len(tasks), shard_size)]
    shards = [measured(create_strategy(config), {task: pool[task] for task in cut}, context) for cut in cuts]
    assert_frame_equal(strategy.rank(pl.concat(shards), context).table, expected, check_exact=True)

    values = expected[INFORMATIVENESS].to_numpy()
    assert expected[INFORMATIVENESS].dtype == pl.Float64
    assert np.isfinite(values).all()
    assert (np.diff(values) <= 0).all()
    assert sorted(expected["task_id"].to_list()) == sorted(pool)


@settings(max_examples=60, deadline=None)
@given(pools(), st.sampled_from(all_configs()), st.floats(0, 1))
def test_a_more_certain_copy_never_ranks_higher(
    pool: dict[int, Detections], config: StrategyConfig, amount: float
) -> None:
    strategy = create_strategy(config)
    if config.name == "random":
        return
    for found in pool.values():
        certain = np.zeros_like(found.probs)
        certain[np.arange(len(found)), found.label] = 1
        mixed = (1 - amount) * found.probs + amount * certain
        # Only rows whose likeliest entry is a class get more certain by moving towards that class.
        sharper = np.where((found.probs.argmax(axis=1) == found.label)[:, None], mixed, found.probs)
        table = measured(strategy, {1: found, 2: detections(*sharper.tolist())})
        before, after = strategy.informativeness(table, CONTEXT, {})
        assert after <= before + 1e-5


@pytest.mark.parametrize("config", all_configs())
def test_one_class_one_task_and_an_empty_pool(config: StrategyConfig) -> None:
    strategy = create_strategy(config)
    context = RankingContext(("cod",), (0,), 0)
    for found in (detections([0.7, 0.3]), detections(num_classes=1)):
        ranked = strategy.rank(measured(strategy, {4: found}, context), context).table
        assert ranked["task_id"].to_list() == [4]
        assert np.isfinite(ranked[INFORMATIVENESS].to_list()).all()
    none = measured(strategy, {4: detections([0.7, 0.3])}, context).clear()
    assert strategy.rank(none, context).table.height == 0


@pytest.mark.parametrize("counts", [(0, 0), (10**12, 0), (0, 10**12), (1, 10**6)])
def test_unseen_and_dominant_classes_stay_finite(counts: tuple[int, int]) -> None:
    context = RankingContext(("cod", "eel"), counts, 0)
    strategy = create_strategy(StrategyConfig())
    table = measured(strategy, {1: detections([0.6, 0.3, 0.1], [0.2, 0.5, 0.3])}, context)
    value = strategy.informativeness(table, context, {})[0]
    assert np.isfinite(value)
    assert value > 0


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    names = ("al_vae", "cald", "core_set", "huale", "ppal", "random", "typical", "uncertainty")
    assert strategy_names() == names
    with pytest.raises(ValueError, match="'bald', expected one of: al_vae, cald, core_set"):
        create_strategy(StrategyConfig(name="bald"))
    with pytest.raises(ValueError, match="uncertainty is 'bald', expected one of: least_confidence, margin, entropy"):
        StrategyConfig(uncertainty="bald")
    with pytest.raises(ValueError, match="aggregation is 'median'"):
        StrategyConfig(aggregation="median")
    with pytest.raises(ValueError, match="empty_policy is 'middle', expected one of: first, last"):
        StrategyConfig(empty_policy="middle")


def test_defaults_are_the_published_ones_and_those_of_the_documentation() -> None:
    default = StrategyConfig()
    assert (default.cald_beta, default.retrieval) == (1.3, None)
    assert (default.exploration, default.empty_quota, default.near_duplicate) == (0.05, 0.05, 0.5)


@pytest.mark.parametrize(("name", "column"), [("huale", "entropy"), ("ppal", "uncertainty")])
def test_four_budgets_are_looked_at_again(name: str, column: str) -> None:
    context = RankingContext(CONTEXT.classes, CONTEXT.label_counts, seed=0, budget=5)
    values = {column: [task / 100 for task in range(100)], "boxes": [1.0] * 100}
    table = pl.DataFrame({"task_id": range(100), **values})
    assert create_strategy(StrategyConfig(name)).candidates(table, context) == list(range(80, 100))


def test_wrong_contexts_and_tables_are_refused() -> None:
    strategy = create_strategy(StrategyConfig())
    with pytest.raises(ValueError, match="1 label counts for 2 classes"):
        RankingContext(("a", "b"), (1,), 0)
    with pytest.raises(ValueError, match="negative"):
        RankingContext(("a",), (-1,), 0)
    with pytest.raises(ValueError, match="task 8: the detections have 3 classes, the ranking 2"):
        strategy.measure(8, {View.ORIGINAL: detections([0.1, 0.2, 0.3, 0.4], num_classes=3)}, CONTEXT)
    with pytest.raises(ValueError, match="expected 'boxes'"):
        strategy.rank(pl.DataFrame({"task_id": [1], "uncertainty": [0.5]}), CONTEXT)
    for wrong in (None, float("nan"), float("inf")):
        table = pl.DataFrame({"task_id": [1, 2], "uncertainty": [0.5, wrong], "boxes": [1.0, 1.0]})
        with pytest.raises(ValueError, match="1 of 2 measurements of 'uncertainty'"):
            strategy.rank(table, CONTEXT)
    twice = pl.DataFrame({"task_id": [3, 3], "uncertainty": [0.5, 0.5], "boxes": [1.0, 1.0]})
    with pytest.raises(ValueError, match="task 3 was measured more than once"):
        strategy.rank(twice, CONTEXT)
