"""PPAL: weights and distances against plain implementations, and the choice by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from model.acquisition.embedding import LENGTH
from model.acquisition.object_sets import ObjectSets, largest_objects, medoids
from model.acquisition.ppal import Ppal, difficulty_weights
from model.acquisition.strategy import (
    RankingContext,
    StrategyConfig,
    create_strategy,
    measurement_table,
    with_candidates,
)
from model.detections import Detections
from model.detectors.base import View

LARGE = (10.0, 10.0, 60.0, 60.0)
CONTEXT = RankingContext(("cod", "eel"), (3, 0), seed=0, budget=2, class_quality=(1.0, 0.0))


def towards(*axes: int) -> np.ndarray:
    """One unit vector per number, along that axis."""
    return np.eye(LENGTH, dtype=np.float32)[list(axes)].reshape(-1, LENGTH)


def sets(*images: list[tuple[int, int, float]]) -> ObjectSets:
    """Images given as (axis, class, score) of each object."""
    return ObjectSets(
        [towards(*(axis for axis, _, _ in image)) for image in images],
        [np.array([kind for _, kind, _ in image], np.int64) for image in images],
        [np.array([score for _, _, score in image], np.float32) for image in images],
    )


def plain_distance(first: list[tuple], second: list[tuple]) -> float:
    """PPAL's distance of two images, given as (vector, class, score), in words."""

    def one_way(these: list[tuple], those: list[tuple]) -> float:
        total = weight = 0.0
        for vector, kind, score in these:
            same = [1 - float(vector @ other) for other, other_kind, _ in those if other_kind == kind]
            total += score * (min(same) if same else 2.0)
            weight += score
        return total / weight

    return (one_way(first, second) + one_way(second, first)) / 2


def test_difficulty_weights_equal_the_formula() -> None:
    for quality in (0.0, 0.2, 0.5, 0.9, 1.0):
        expected = 1 + 0.3 * 0.2 * math.log(1 + (math.e ** (1 / 0.3) - 1) * (1 - quality))
        assert difficulty_weights((quality,))[0] == pytest.approx(expected)
    assert difficulty_weights((1.0, 0.0)).tolist() == pytest.approx([1.0, 1.2])


@pytest.mark.parametrize("seed", range(5))
def test_distances_equal_the_plain_implementation(seed: int) -> None:
    generator = np.random.default_rng(seed)
    images = []
    for _ in range(8):
        count = int(generator.integers(1, 6))
        vectors = generator.normal(size=(count, LENGTH)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        images.append((vectors, generator.integers(0, 3, count), generator.uniform(0.1, 1, count).astype(np.float32)))
    found = ObjectSets(*map(list, zip(*images, strict=True)))
    for index, image in enumerate(images):
        expected = [plain_distance(list(zip(*image, strict=True)), list(zip(*o, strict=True))) for o in images]
        assert found.distances(found, index).tolist() == pytest.approx(expected, abs=1e-5)


def test_images_without_objects_are_alike_and_unlike_all_others() -> None:
    found = sets([], [], [(0, 1, 0.5)])
    assert found.distances(found, 0).tolist() == [0.0, 0.0, 2.0]


def test_medoids_stand_for_their_groups_and_leave_the_labelled_alone() -> None:
    group, other, lonely = [(0, 0, 0.9)], [(1, 0, 0.9)], [(2, 1, 0.9)]
    # The third has something of both groups, so it is in the middle of neither.
    pool = sets(group, group, [*group, *other], other, lonely)
    assert medoids(pool, 3, sets()) == [0, 3, 4]
    # What is labelled needs no medoid: with one place left it goes to what is farthest from all of that.
    assert medoids(pool, 1, sets(lonely, group)) == [3]
    assert medoids(pool, 9, sets()) == [0, 1, 2, 3, 4]
    assert medoids(sets(), 2, sets(group)) == []


def test_medoids_move_to_the_middle_of_their_groups() -> None:
    angles = np.radians([0, 10, 20, 90, 100, 110])
    vectors = np.zeros((6, LENGTH), np.float32)
    vectors[:, 0], vectors[:, 1] = np.cos(angles), np.sin(angles)
    pool = ObjectSets(list(vectors[:, None]), [np.zeros(1, np.int64)] * 6, [np.ones(1, np.float32)] * 6)
    # The farthest apart are 0 and 110 degrees.
    assert medoids(pool, 2, sets()) == [1, 4]


def test_small_and_stretched_boxes_are_not_compared() -> None:
    # 16 of 1333 pixels are 1.2 of 100.
    boxes = np.array([[0, 0, 1.3, 1.3], [0, 0, 1.1, 1.1], [0, 0, 50, 10.1], [0, 0, 50, 10.0], [5, 5, 5, 9]], np.float32)
    found = Detections(
        xyxy=boxes,
        score=np.ones(5, np.float32),
        label=np.zeros(5, np.int64),
        probs=np.tile(np.array([1, 0], np.float32), (5, 1)),
        height=50,
        width=100,
    )
    assert largest_objects(found).tolist() == [True, False, True, False, False]


def image(*objects: tuple[int, int, float], box: tuple[float, ...] = LARGE) -> Detections:
    """Objects as (axis of the embedding, class, score)."""
    probs = np.zeros((len(objects), 3), np.float32)
    for row, (_, kind, score) in zip(probs, objects, strict=True):
        row[kind], row[-1] = score, 1 - score
    return Detections(
        xyxy=np.tile(np.array(box, np.float32), (len(objects), 1)),
        score=np.array([score for _, _, score in objects], np.float32),
        label=np.array([kind for _, kind, _ in objects], np.int64),
        probs=probs,
        height=100,
        width=100,
        embedding=towards(*(axis for axis, _, _ in objects)),
    )


def measured(pool: dict[int, Detections], context: RankingContext, **settings: float) -> tuple[Ppal, pl.DataFrame]:
    """The strategy and both of its phases' measurements."""
    strategy = Ppal(StrategyConfig("ppal", **settings))  # type: ignore[arg-type]
    views = {task: {View.ORIGINAL: found} for task, found in pool.items()}
    table = measurement_table(
        {task: strategy.measure(task, v, context) for task, v in views.items()}, strategy.columns(context)
    )
    closer = measurement_table(
        {task: strategy.measure_candidate(task, views[task], context) for task in strategy.candidates(table, context)},
        strategy.candidate_columns(context),
    )
    return strategy, with_candidates(table, closer)


def test_an_image_without_comparable_objects_takes_no_place() -> None:
    tiny = image((3, 0, 0.5), box=(0.0, 0.0, 1.0, 1.0))
    pool = {1: image((0, 0, 0.5)), 2: image((0, 0, 0.5), (1, 0, 0.5)), 3: image((1, 0, 0.5)), 5: tiny, 6: image()}
    strategy, table = measured(pool, CONTEXT)
    result = strategy.rank(table, CONTEXT).table
    assert result["task_id"].to_list()[3:] == [5, 6]
    assert result["informativeness"].to_list()[3:] == [0.0, -1.0]
    assert sum(result["informativeness"] > 1) == CONTEXT.budget
    strategy, table = measured({5: tiny, 6: image()}, CONTEXT)
    assert strategy.rank(table, CONTEXT).table["task_id"].to_list() == [5, 6]


def test_only_boxes_from_a_score_on_count_and_only_the_strongest_are_compared() -> None:
    def coin(score: float) -> float:
        return -score * math.log(score) - (1 - score) * math.log(1 - score)

    strategy = create_strategy(StrategyConfig("ppal"))
    views = {View.ORIGINAL: image((0, 0, 0.04), (0, 0, 0.06), (0, 0, 0.3))}
    assert strategy.measure(1, views, CONTEXT)["uncertainty"] == pytest.approx(coin(0.06) + coin(0.3), abs=1e-6)
    scores = [0.1 + number / 100 for number in range(40)]
    closer = strategy.measure_candidate(1, {View.ORIGINAL: image(*[(0, 0, score) for score in scores])}, CONTEXT)
    assert sorted(closer["object_scores"]) == pytest.approx(scores[8:])  # type: ignore[arg-type]


def test_golden_ranking() -> None:
    pool = {
        1: image((0, 0, 0.5), (0, 0, 0.5)),  # two coins: 2 ln 2
        2: image((0, 0, 0.5)),  # the same object once more
        3: image((1, 1, 0.5)),  # of a class that the detector does not know: 1.2 ln 2
        4: image((0, 0, 1.0)),
        5: image(),
        6: image((0, 1, 0.5), box=(0.0, 0.0, 1.0, 1.0)),  # too small
    }
    strategy = create_strategy(StrategyConfig("ppal", retrieval=1.5))
    views = {task: {View.ORIGINAL: found} for task, found in pool.items()}
    table = measurement_table(
        {task: strategy.measure(task, v, CONTEXT) for task, v in views.items()}, strategy.columns(CONTEXT)
    )
    half = math.log(2)
    assert table["uncertainty"].to_list() == pytest.approx([2 * half, half, 1.2 * half, 0, 0, 0], abs=1e-6)
    assert strategy.candidates(table, CONTEXT) == [1, 2, 3]

    def closer(tasks: list[int]) -> pl.DataFrame:
        rows = {task: strategy.measure_candidate(task, views[task], CONTEXT) for task in tasks}
        return measurement_table(rows, strategy.candidate_columns(CONTEXT))

    measured = with_candidates(table, closer([1, 2, 3]))
    result = strategy.rank(measured, CONTEXT)
    # 1 and 2 show the same, so two places go to one of them and to 3; among these uncertainty decides.
    assert result.table["task_id"].to_list() == [1, 3, 2, 4, 6, 5]
    order = [2 * half, 1.2 * half, half]
    expected = [1 + order[0] / (1 + order[0]), 1 + order[1] / (1 + order[1]), half / (1 + half), 0, 0, -1]
    assert result.table["informativeness"].to_list() == pytest.approx(expected, abs=1e-6)
    # With the object of 1 and 2 labelled, both places still go to what is left, 3 the first.
    one_place = RankingContext(CONTEXT.classes, CONTEXT.label_counts, 0, 1, CONTEXT.class_quality)
    labelled = with_candidates(table, closer([2])).filter(measured["task_id"] == 2)
    assert strategy.rank(measured, one_place, labelled).table["task_id"][0] == 3


def test_a_detector_without_embeddings_is_refused() -> None:
    found = image((0, 0, 0.5))
    bare = Detections(found.xyxy, found.score, found.label, found.probs, 100, 100)
    strategy = create_strategy(StrategyConfig("ppal"))
    with pytest.raises(ValueError, match="task 4: the detector gave no embeddings of boxes"):
        strategy.measure_candidate(4, {View.ORIGINAL: bare}, CONTEXT)


def test_an_embedding_that_is_not_finite_costs_its_image_and_not_the_ranking() -> None:
    found = image((0, 0, 0.5))
    assert found.embedding is not None
    broken = replace(found, embedding=np.full_like(found.embedding, np.nan))
    with pytest.raises(ValueError, match="task 4: embeddings of boxes are not finite"):
        create_strategy(StrategyConfig("ppal")).measure_candidate(4, {View.ORIGINAL: broken}, CONTEXT)
