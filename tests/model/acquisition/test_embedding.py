"""Strategies that compare whole images: core-set and the cold start, on points that can be drawn by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import polars as pl
import pytest

from model.acquisition.embedding import EMBEDDING, LENGTH, Whitening, farthest_first, nearest, projected
from model.acquisition.strategy import RankingContext, Strategy, StrategyConfig, create_strategy
from model.detections import Detections
from model.detectors.base import View

CONTEXT = RankingContext(("cod",), (0,), seed=0, budget=3)


def table(angles: dict[int, float]) -> pl.DataFrame:
    """Images on a circle, by task id and degrees."""
    rows = []
    for degrees in angles.values():
        row = [0.0] * LENGTH
        row[:2] = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        rows.append(row)
    return pl.DataFrame(
        {"task_id": list(angles), "embedding": rows}, schema={"task_id": pl.Int64, "embedding": EMBEDDING}
    )


def chord(degrees: float) -> float:
    return 2 * math.sin(math.radians(degrees) / 2)


def ids(strategy: Strategy, pool: pl.DataFrame, labelled: pl.DataFrame | None = None) -> list[int]:
    return strategy.rank(pool, CONTEXT, labelled).table["task_id"].to_list()


def test_core_set_takes_the_farthest_from_all_that_is_labelled_or_chosen() -> None:
    strategy = create_strategy(StrategyConfig("core_set"))
    pool = table({1: 10, 2: 180, 3: 90, 4: 170, 5: 80, 6: -5})
    result = strategy.rank(pool, CONTEXT, table({100: 0}))
    # 180 is farthest from 0, then 90 from both, then 10 and 170 and 80 are all 10 from something: by id.
    assert result.table["task_id"].to_list() == [2, 3, 1, 4, 5, 6]
    assert result.table["informativeness"].to_list() == pytest.approx(
        [chord(180), chord(90), chord(10), chord(10), chord(10), chord(5)], abs=1e-3
    )
    assert json.loads(json.dumps(result.fitted)) == result.fitted
    # A late image: 40 degrees from the nearest of 0, 180, 90 and what was chosen third (10).
    late = strategy.informativeness(table({9: 50, 10: 180}), CONTEXT, result.fitted)
    assert late.to_list() == pytest.approx([chord(40), 0.0], abs=1e-3)


def test_core_set_without_labels_begins_in_the_middle() -> None:
    strategy = create_strategy(StrategyConfig("core_set"))
    pool = table({1: 0, 2: 20, 3: 40, 4: 45, 5: 120})
    result = strategy.rank(pool, CONTEXT)
    assert result.table["task_id"].to_list()[:2] == [3, 5]
    assert strategy.informativeness(table({9: 0}), CONTEXT, {"centres": []}).to_list() == [2.0]
    assert strategy.rank(pool.clear(), CONTEXT).table.height == 0


def test_core_set_begins_with_what_it_chose_whatever_rounding_says() -> None:
    strategy = create_strategy(StrategyConfig("core_set"))
    # Ties all around: corners of a hexagon, and each of them twice.
    corners = {index: 60.0 * index + 17 for index in range(6)}
    assert ids(strategy, table(corners))[:3] == [0, 3, 1]
    twice = table(corners | {index + 6: angle for index, angle in corners.items()})
    four = RankingContext(CONTEXT.classes, CONTEXT.label_counts, seed=0, budget=4)
    ranked = strategy.rank(twice, four).table
    assert ranked["task_id"].to_list()[:4] == [0, 3, 1, 2]
    assert ranked["informativeness"].is_sorted(descending=True)


def test_core_set_keeps_few_centres_that_cover_the_rest() -> None:
    strategy = create_strategy(StrategyConfig("core_set"))
    labelled = table({task: task * 360 / 2000 for task in range(2000)})
    result = strategy.rank(table({5000: 1.0}), CONTEXT, labelled)
    centres = np.array(result.fitted["centres"])
    assert centres.shape == (512, LENGTH)
    late = strategy.informativeness(labelled, CONTEXT, result.fitted)
    assert max(late) <= chord(360 / 512 * 1.01)


def test_typical_takes_one_of_each_kind_large_kinds_first() -> None:
    strategy = create_strategy(StrategyConfig("typical"))
    groups = {0: [1, 2], 100: [3, 4, 5, 6, 7], 200: [8, 9, 10]}
    spread = [-2, 2, 0.5, 4, -4]
    angles = {task: middle + spread[n] for middle, tasks in groups.items() for n, task in enumerate(tasks)}
    result = strategy.rank(table(angles), CONTEXT)
    # 0.5 is nearest to the mean of each group; the group of two has a tie, which goes to the lower id.
    assert result.table["task_id"].to_list()[:3] == [5, 10, 1]
    assert result.table["informativeness"].to_list()[:3] == pytest.approx([1.5, 1.3, 1.2])
    assert result.table["informativeness"][3] < 1
    assert json.loads(json.dumps(result.fitted)) == result.fitted
    # A late image is never the first of its kind; near the middle it comes before one that is far from everything.
    near, far = strategy.informativeness(table({20: 100.1, 21: 300}), CONTEXT, result.fitted)
    assert 0 < far < near <= 1


def test_typical_with_fewer_kinds_than_places() -> None:
    strategy = create_strategy(StrategyConfig("typical"))
    assert ids(strategy, table(dict.fromkeys([4, 2, 9], 30.0))) == [2, 4, 9]
    assert ids(strategy, table({4: 1.0})) == [4]
    assert ids(strategy, table({})) == []


def drawn_kinds(seed: int, sizes: list[int], spread: float = 0.25, outliers: int = 0) -> pl.DataFrame:
    """Images of kinds, by the thousands of their ids; outliers have negative ids."""
    generator = np.random.default_rng(seed)
    modes = generator.normal(size=(len(sizes), LENGTH))
    tasks = [1000 * kind + number for kind, size in enumerate(sizes) for number in range(size)]
    points = modes[np.array(tasks) // 1000] + spread * generator.normal(size=(len(tasks), LENGTH))
    points = projected(np.concatenate([points, generator.normal(size=(outliers, LENGTH))]).astype(np.float32))
    return pl.DataFrame(
        {"task_id": [*tasks, *range(-outliers, 0)], "embedding": points},
        schema={"task_id": pl.Int64, "embedding": EMBEDDING},
    )


@pytest.mark.parametrize("seed", range(5))
def test_typical_gives_no_place_to_outliers(seed: int) -> None:
    strategy = create_strategy(StrategyConfig("typical"))
    context = RankingContext(("cod",), (0,), seed=seed, budget=20)
    first = strategy.rank(drawn_kinds(seed, [50] * 10, outliers=15), context).table["task_id"].to_numpy()[:20]
    assert sum(first < 0) <= 1
    assert len(set(first[first >= 0] // 1000)) == 10
    # Unless nothing but copies is left.
    copies = drawn_kinds(seed, [50] * 10, spread=0.0, outliers=15)
    first = strategy.rank(copies, context).table["task_id"].to_numpy()[:20]
    assert sum(first < 0) == 10
    assert len(set(first[first >= 0])) == 10


def test_typical_goes_on_with_all_kinds_after_the_budget() -> None:
    strategy = create_strategy(StrategyConfig("typical"))
    context = RankingContext(("cod",), (0,), seed=0, budget=10)
    pool = drawn_kinds(0, [50] * 10)
    result = strategy.rank(pool, context)
    kinds = result.table["task_id"].to_numpy() // 1000
    assert sorted(kinds[:10]) == list(range(10))
    assert np.bincount(kinds[10:40], minlength=10).max() <= 7
    # A narrow kind does not come as a whole either.
    narrow = drawn_kinds(1, [40], spread=0.01).with_columns(pl.col("task_id") + 90_000)
    kinds = strategy.rank(pl.concat([pool, narrow]), context).table["task_id"].to_numpy() // 1000
    assert sum(kinds[10:40] == 90) <= 7
    # Rankings of former releases have one radius for all clusters.
    former = result.fitted | {"radius": 0.5}
    assert strategy.informativeness(pool, context, former).is_between(0, 1).all()


@pytest.mark.parametrize("name", ["core_set", "typical"])
def test_the_rows_may_come_in_any_order(name: str) -> None:
    # A pool full of ties: the order of the rows must not decide any.
    pool = table({task: 45.0 * (task * task % 8) + 5 * (task % 3) for task in range(60)})
    strategy = create_strategy(StrategyConfig(name))
    expected = strategy.rank(pool, CONTEXT)
    for seed in range(5):
        again = strategy.rank(pool.sample(fraction=1.0, shuffle=True, seed=seed), CONTEXT)
        assert again.table["task_id"].to_list() == expected.table["task_id"].to_list()
        assert again.fitted == expected.fitted


def test_typical_draws_by_the_seed() -> None:
    pool = drawn_kinds(0, [30] * 6, outliers=5)
    strategy = create_strategy(StrategyConfig("typical"))
    orders = [strategy.rank(pool, RankingContext(("cod",), (0,), seed, 9)).table["task_id"] for seed in (1, 2)]
    assert orders[0].to_list() != orders[1].to_list()


def test_projection_keeps_distances_and_direction() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(40, 500)).astype(np.float32)
    short = projected(vectors)
    assert np.linalg.norm(short, axis=1).tolist() == pytest.approx([1.0] * 40, abs=1e-5)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    error = short @ short.T - unit @ unit.T
    assert np.abs(error[~np.eye(40, dtype=bool)]).mean() < 1.2 / math.sqrt(LENGTH)
    # Written down once: shards of other processes and releases have to fit.
    assert projected(np.eye(1, 65, dtype=np.float32))[0, :6].tolist() == GOLDEN_SIGNS
    assert projected(3 * vectors) == pytest.approx(short, abs=1e-6)
    narrow = generator.normal(size=(3, 10)).astype(np.float32)
    expected = narrow / np.linalg.norm(narrow, axis=1, keepdims=True)
    assert projected(narrow)[:, :10] == pytest.approx(expected, abs=1e-6)
    assert projected(np.zeros((2, 500), np.float32)).tolist() == [[0.0] * LENGTH] * 2


GOLDEN_SIGNS = [-0.125, 0.125, 0.125, 0.125, -0.125, 0.125]


def test_nearest_in_chunks_equals_all_at_once() -> None:
    generator = np.random.default_rng(1)
    points = projected(generator.normal(size=(9000, 8)).astype(np.float32))
    others = projected(generator.normal(size=(300, 8)).astype(np.float32))
    distance, position = nearest(points, others)
    whole = ((points[8000:, None] - others[None]) ** 2).sum(axis=2)
    assert position[8000:].tolist() == whole.argmin(axis=1).tolist()
    assert distance[8000:] == pytest.approx(whole.min(axis=1), abs=1e-5)
    assert np.isinf(nearest(points, others[:0])[0]).all()


def test_farthest_first_stops_when_nothing_may_be_chosen() -> None:
    line = np.array([0.0, 1.0, 5.0, 9.0], np.float32)
    covered = np.array([np.inf, np.inf, -1.0, np.inf], np.float32)
    chosen, radii = farthest_first(covered, lambda index: np.abs(line - line[index]), 9, first=1)
    assert chosen == [1, 3, 0]
    assert radii == [np.inf, 8.0, 1.0]
    assert farthest_first(covered[:0], lambda index: line, 3) == ([], [])


@pytest.mark.parametrize("name", ["core_set", "typical"])
def test_a_detector_without_embeddings_is_refused(name: str) -> None:
    strategy = create_strategy(StrategyConfig(name))
    with pytest.raises(ValueError, match="task 7: the detector gave no embedding of the image"):
        strategy.measure(7, {View.ORIGINAL: Detections.empty(5, 5, 1)}, CONTEXT)


def test_whitening_gives_every_direction_the_same_weight() -> None:
    generator = np.random.default_rng(2)
    points = generator.normal(size=(5000, LENGTH)).astype(np.float32)
    points[:, 0] *= 30
    points[:, 1] += 100
    white = Whitening(points)(points)
    assert white.mean(axis=0) == pytest.approx(np.zeros(LENGTH), abs=1e-3)
    assert np.square(white).sum(axis=1).mean() == pytest.approx(1.0, abs=1e-3)
    # The first direction had 900 of 963 parts of the variance; it now has what the shrinkage leaves it.
    least = 0.1 * (900 + 63) / 64
    expected = (900 / (900 + least)) / (900 / (900 + least) + 63 / (1 + least))
    assert white[:, 0].var() == pytest.approx(expected, rel=0.05)
    same = np.tile(points[:1], (4, 1))
    assert Whitening(same)(same).tolist() == [[0.0] * LENGTH] * 4
