"""What holds for every strategy, with and without the diversity step."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from model.acquisition.strategy import (
    INFORMATIVENESS,
    Ranked,
    RankingContext,
    StrategyConfig,
    create_strategy,
    measurement_table,
    strategy_names,
    with_candidates,
)
from model.detections import Detections
from model.detectors.base import View

Views = dict[View, Detections]
CONFIGS = [StrategyConfig(name, diversity=diversity) for name in strategy_names() for diversity in (False, True)]
NAMES = [f"{config.name}{' diverse' if config.diversity else ''}" for config in CONFIGS]


def measured(
    config: StrategyConfig, pool: dict[int, Views], context: RankingContext, shards: Sequence[Sequence[int]]
) -> pl.DataFrame:
    """Both phases, shard by shard, each by a strategy object of its own."""
    strategy = create_strategy(config)

    def phase(tasks: Sequence[int]) -> pl.DataFrame:
        mine = create_strategy(config)
        return measurement_table({t: mine.measure(t, pool[t], context) for t in tasks}, mine.columns(context))

    table = pl.concat([phase([]), *map(phase, shards)])
    chosen = strategy.candidates(table, context)
    closer = {task: strategy.measure_candidate(task, pool[task], context) for task in chosen}
    return with_candidates(table, measurement_table(closer, strategy.candidate_columns(context)))


def full(config: StrategyConfig, images: dict[int, Views], context: RankingContext) -> pl.DataFrame:
    """Both phases of every image, as for labelled and late ones."""
    strategy = create_strategy(config)
    rows = {
        task: strategy.measure(task, views, context) | strategy.measure_candidate(task, views, context)
        for task, views in images.items()
    }
    return measurement_table(rows, strategy.columns(context) | strategy.candidate_columns(context))


def ranked(
    config: StrategyConfig, pool: dict[int, Views], context: RankingContext, labelled: dict[int, Views] | None = None
) -> Ranked:
    known = None if labelled is None else full(config, labelled, context)
    return create_strategy(config).rank(measured(config, pool, context, [list(pool)]), context, known)


def scene(generator: np.random.Generator, boxes: int, classes: int, sharpness: float, kinds: int) -> Views:
    """The views of an image; all but the original may lose boxes. Some images look exactly alike."""
    corner = generator.uniform(0, 60, (boxes, 2))
    probs = generator.dirichlet(np.full(classes + 1, sharpness), size=boxes).astype(np.float32)
    embedding = np.zeros((boxes, 70), np.float32)
    embedding[np.arange(boxes), generator.integers(0, 70, boxes)] = 1
    look = np.zeros(70, np.float32)
    look[generator.integers(0, kinds)] = 1
    found = Detections(
        xyxy=np.concatenate([corner, corner + generator.uniform(0, 40, (boxes, 2))], axis=1).astype(np.float32),
        score=probs[:, :-1].max(axis=1),
        label=probs[:, :-1].argmax(axis=1),
        probs=probs,
        height=100,
        width=100,
        embedding=embedding,
        image_embedding=look,
        novelty=float(generator.integers(0, kinds)) / 30,
    )
    return {
        view: found if view is View.ORIGINAL else found.select(generator.uniform(size=boxes) < 0.7) for view in View
    }


@st.composite
def pools(draw: st.DrawFn) -> tuple[dict[int, Views], RankingContext, dict[int, Views] | None]:
    classes = draw(st.integers(1, 3))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    sharpness = draw(st.sampled_from([0.05, 1.0, 50.0]))
    most, kinds = draw(st.sampled_from([0, 1, 4])), draw(st.sampled_from([1, 30]))

    def scenes(tasks: list[int]) -> dict[int, Views]:
        return {
            task: scene(generator, int(generator.integers(0, most + 1)), classes, sharpness, kinds) for task in tasks
        }

    ids = draw(st.lists(st.integers(0, 2**62), min_size=1, max_size=9, unique=True))
    labelled = draw(st.sampled_from([None, 1, 3]))
    counts = tuple(int(n) for n in generator.integers(0, 10 ** int(generator.integers(1, 7)), classes))
    quality = tuple(generator.uniform(size=classes).tolist()) if generator.uniform() < 0.5 else ()
    names = tuple("abc"[:classes])
    context = RankingContext(names, counts, draw(st.integers(0, 2**70)), draw(st.integers(1, 4)), quality)
    return scenes(ids), context, None if labelled is None else scenes(list(range(labelled)))


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
@settings(max_examples=12, deadline=None)
@given(pools(), st.integers(1, 4), st.integers(0, 1000))
def test_a_ranking_is_finite_and_depends_on_neither_order_nor_shards(
    config: StrategyConfig,
    drawn: tuple[dict[int, Views], RankingContext, dict[int, Views] | None],
    shard_size: int,
    seed: int,
) -> None:
    pool, context, labelled = drawn
    expected = ranked(config, pool, context, labelled)
    values = expected.table[INFORMATIVENESS]
    assert values.dtype == pl.Float64
    assert values.is_finite().all()
    assert sorted(expected.table["task_id"]) == sorted(pool)
    if not config.diversity:
        assert values.is_sorted(descending=True)
    assert json.loads(json.dumps(expected.fitted, allow_nan=False)) == expected.fitted

    tasks = list(pool)
    random.Random(seed).shuffle(tasks)
    cuts = [tasks[start : start + shard_size] for start in range(0, len(tasks), shard_size)]
    known = None if labelled is None else full(config, labelled, context)
    again = create_strategy(config).rank(measured(config, pool, context, cuts), context, known)
    assert_frame_equal(again.table, expected.table, check_exact=True)
    assert again.fitted == expected.fitted

    # An image that comes later is judged alone, whichever others come with it.
    strategy, late = create_strategy(config), full(config, pool, context)
    stored = json.loads(json.dumps(expected.fitted))
    together = strategy.informativeness(late, context, stored)
    assert together.is_finite().all()
    alone = [strategy.informativeness(late[row], context, stored)[0] for row in range(late.height)]
    assert together.to_list() == pytest.approx(alone, abs=1e-6)


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_an_empty_pool_and_one_where_all_are_equal(config: StrategyConfig) -> None:
    context = RankingContext(("a", "b"), (5, 0), 3, budget=2)
    assert ranked(config, {}, context).table.height == 0
    same = scene(np.random.default_rng(0), 3, 2, 1.0, 1)
    found = ranked(config, {task: same for task in (5, 3, 9, 1, 7)}, context, {100: same}).table
    assert sorted(found["task_id"]) == [1, 3, 5, 7, 9]
    assert np.isfinite(found[INFORMATIVENESS].to_list()).all()
    if config.name != "random" and not config.diversity:
        assert found["task_id"].to_list() == [1, 3, 5, 7, 9]


def one(score: float, label: int, box: tuple[float, ...], angle: float, novelty: float) -> Detections:
    probs = np.zeros((1, 3), np.float32)
    probs[0, label], probs[0, -1] = score, 1 - score
    look = np.array([np.cos(angle), np.sin(angle)], np.float32)
    return Detections(
        xyxy=np.array([box], np.float32),
        score=np.array([score], np.float32),
        label=np.array([label]),
        probs=probs,
        height=100,
        width=100,
        embedding=look[None],
        image_embedding=look,
        novelty=novelty,
    )


BORING = {view: one(0.99, 0, (10, 10, 60, 60), 0.0, 0.01) for view in View}
"""Certain, of a class that is labelled often, the same in all views, and looking like what is labelled."""
EXCITING = {
    **dict.fromkeys(View, one(0.5, 0, (18, 10, 68, 60), 3.0, 0.05)),
    View.ORIGINAL: one(0.5, 1, (10, 10, 60, 60), 3.0, 0.05),
}
"""Doubtful, of a class that is never labelled, another one in the other views, and looking like nothing known."""


@pytest.mark.parametrize("diversity", [False, True])
@pytest.mark.parametrize("name", [name for name in strategy_names() if name not in ("random", "typical")])
def test_an_informative_image_comes_before_boring_ones(name: str, diversity: bool) -> None:
    config = StrategyConfig(name, diversity=diversity, exploration=0.0)
    context = RankingContext(("a", "b"), (1000, 0), 0, budget=1, class_quality=(0.9, 0.1))
    pool = {task: BORING for task in (1, 2, 3, 5)} | {4: EXCITING}
    table = ranked(config, pool, context, {100: BORING}).table
    assert table["task_id"][0] == 4
    assert table[INFORMATIVENESS][0] > table[INFORMATIVENESS][1:].max()


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
@pytest.mark.parametrize("field", ["xyxy", "score", "probs"])
def test_damaged_detections_are_refused(config: StrategyConfig, field: str) -> None:
    context = RankingContext(("a", "b"), (5, 0), 3)
    damaged = {}
    for view, found in BORING.items():
        broken = getattr(found, field).copy()
        broken.flat[0] = np.nan
        damaged[view] = replace(found, **{field: broken})
    if create_strategy(config).views:
        with pytest.raises(ValueError, match=r"task 3: the detector gave .* not finite; its weights are damaged"):
            create_strategy(config).measure(3, damaged, context)
