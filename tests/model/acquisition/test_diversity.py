"""The diversity step, on images whose embeddings lie on a circle."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from model.acquisition.distinct import Images, Scene
from model.acquisition.embedding import LENGTH
from model.acquisition.strategy import RankingContext, StrategyConfig, create_strategy, measurement_table
from model.detections import Detections
from model.detectors.base import View

CONTEXT = RankingContext(("cod", "eel"), (1, 1), seed=0, budget=2)
QUIET = {"exploration": 0.0, "empty_quota": 0.0, "class_weights": False}
Pool = dict[int, Detections]


def image(degrees: float, *scores: float, kind: int = 0) -> Detections:
    """Boxes of one class with these scores; the embedding is a point on a circle."""
    probs = np.zeros((len(scores), 3), np.float32)
    probs[:, kind], probs[:, 2] = scores, 1 - np.array(scores)
    angle = math.radians(degrees)
    return Detections(
        xyxy=np.tile(np.array([1, 1, 9, 9], np.float32), (len(scores), 1)),
        score=np.array(scores, np.float32),
        label=np.full(len(scores), kind, np.int64),
        probs=probs,
        height=10,
        width=10,
        image_embedding=np.array([math.cos(angle), math.sin(angle)], np.float32),
    )


def order(pool: Pool, labelled: Pool | None = None, context: RankingContext = CONTEXT, **settings: object) -> list[int]:
    config = StrategyConfig(**{"diversity": True, **QUIET, **settings})  # type: ignore[arg-type]
    strategy = create_strategy(config)

    def measured(images: Pool) -> pl.DataFrame:
        rows = {task: strategy.measure(task, {View.ORIGINAL: found}, context) for task, found in images.items()}
        return measurement_table(rows, strategy.columns(context))

    ranked = strategy.rank(measured(pool), context, None if labelled is None else measured(labelled)).table
    assert ranked["task_id"].n_unique() == ranked.height == len(pool)
    return list(ranked["task_id"])


# The most uncertain are 1, 2, 3, 4, in this order; twice the budget of 2 is to choose from. Their mean is the centre.
FOUR = {1: image(0, 0.5), 2: image(10, 0.55), 3: image(180, 0.6), 4: image(190, 0.65)}
LESS = {5: image(270, 0.9), 6: image(90, 0.95)}


def test_the_first_places_go_to_images_that_differ() -> None:
    assert order({**FOUR, **LESS}, near_duplicate=0.0) == [1, 3, 2, 4, 5, 6]
    assert order({**FOUR, **LESS}, diversity=False) == [1, 2, 3, 4, 5, 6]


def test_what_is_labelled_need_not_be_chosen() -> None:
    # 0 degrees and what is near is known: the far ones come first, of these the farthest.
    assert order({**FOUR, **LESS}, {100: image(-15, 0.9)})[0] == 3
    # Both sides are known, so the ones that are less near to them come first.
    sides = {100: image(-8, 0.9), 101: image(172, 0.9)}
    assert order({**FOUR, **LESS}, sides, near_duplicate=0.0)[:2] == [2, 4]


def test_images_that_share_no_class_are_not_alike_however_they_look() -> None:
    pool = {1: image(0, 0.5), 2: image(40, 0.52), 3: image(10, 0.55, kind=1), 4: image(30, 0.6), **LESS}
    assert order(pool, near_duplicate=0.0)[:2] == [1, 3]


@pytest.mark.parametrize("degrees", [30, 60, 90, 120, 150])
def test_likeness_is_the_shared_part_of_the_classes_times_half_of_one_and_the_cosine(degrees: int) -> None:
    """Of an image turned by an angle and one that shares a part of the classes the one that is less alike is chosen."""
    circle = np.zeros((12, LENGTH), np.float32)
    circle[:, 0] = np.cos(np.radians(30.0 * np.arange(12)))
    circle[:, 1] = np.sin(np.radians(30.0 * np.arange(12)))
    alike = (1 + math.cos(math.radians(degrees))) / 2
    turned = degrees // 30
    for shared, chosen in ((alike - 0.01, 0), (alike + 0.01, turned)):
        shares = np.tile(np.array([1, 0, 0], np.float32), (12, 1))
        shares[0] = shared, 0, 1 - shared  # looks as the labelled one does
        labelled = Images(circle[:1], np.array([[1, 0, 0]], np.float32))
        scene = Scene(Images(circle, shares), labelled, near_duplicate=0.0, most=12)
        assert scene.choose(np.array([0, turned]), 1) == [chosen]


def test_near_duplicates_are_left_for_later() -> None:
    burst = {1: image(0, 0.5), 2: image(1, 0.51), 3: image(2, 0.52), 4: image(-1, 0.53)}
    pool = {**burst, **LESS, 7: image(180, 0.91)}
    # One of the burst, and of the three that differ from it the farthest; near ones behind these.
    assert order(pool) == [1, 7, 5, 6, 2, 3, 4]
    assert order(pool, near_duplicate=0.0)[:2] == [1, 3]
    # With a labelled image of the burst none of it.
    known = {100: image(0.5, 0.9)}
    assert order(pool, known)[0] == 7
    assert order(pool, known)[1] not in burst
    # There is nothing else: then they are taken all the same.
    same = {task: image(30, 0.5) for task in (3, 1, 2)}
    assert order(same, {100: image(30, 0.9)}, near_duplicate=0.0) == [1, 2, 3]


@pytest.mark.parametrize(("apart", "repeats"), [(0.35, False), (0.62, True)])
def test_near_is_half_of_the_spread_of_the_pool(apart: float, repeats: bool) -> None:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(400, LENGTH))
    vectors[1] = vectors[0] + apart * generator.normal(size=LENGTH)
    pool = {
        task: replace(image(0, 0.5 + task / 1000), image_embedding=vector.astype(np.float32))
        for task, vector in enumerate(vectors)
    }
    context = RankingContext(CONTEXT.classes, CONTEXT.label_counts, seed=0, budget=2)
    pool = {task: pool[task] for task in (0, 1, *range(10, 400))}
    # Two of four are chosen, so what stands first of the others says whether the second was left for later.
    assert (1 in order(pool, context=context)[:4]) is repeats


TWENTY = RankingContext(CONTEXT.classes, CONTEXT.label_counts, seed=0, budget=20)


def bursts(*sizes: int, first: int = 0, boxes: bool = True) -> Pool:
    """Bursts of nearly equal images, the most uncertain first; the thousands of a task are its burst."""
    generator = np.random.default_rng(first)
    pool = {}
    for number, size in enumerate(sizes, first):
        scene = generator.normal(size=LENGTH)
        for shot in range(size):
            seen = image(0, *[0.5 + number / 1000] * boxes)
            vector = (scene + 0.01 * generator.normal(size=LENGTH)).astype(np.float32)
            pool[1000 * number + shot] = replace(seen, image_embedding=vector)
    return pool


def shown(ranked: list[int], count: int = TWENTY.budget) -> list[int]:
    """Which bursts the first images are of."""
    return [task // 1000 for task in ranked[:count]]


@pytest.mark.parametrize("sizes", [[10] * 40, [600, *[1] * 40], [20] * 25], ids=str)
def test_the_search_goes_on_down_the_ranking_until_no_burst_repeats(sizes: list[int]) -> None:
    first = shown(order(bursts(*sizes), context=TWENTY))
    assert len(set(first)) == len(first)
    # Among twice as many that differ, not among all.
    assert max(first) < 40


def test_the_search_ends_when_it_has_looked_at_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = bursts(200, *[1] * 40)
    monkeypatch.setattr("model.acquisition.diversity.LEAST_LOOKED_AT", 0)
    monkeypatch.setattr("model.acquisition.diversity.MOST_LOOKED_AT", 5)
    assert shown(order(pool, context=TWENTY)) == [0] * 20
    monkeypatch.setattr("model.acquisition.diversity.MOST_LOOKED_AT", 11)
    assert len(set(shown(order(pool, context=TWENTY)))) == 20
    # What was seen to be near stands behind all that was looked at, the rest keeps its place.
    rest = shown(order(pool, context=TWENTY)[20:], 220)
    assert rest[0] != 0
    assert rest[1:] == [0] * 199 + list(range(21, 41))


def test_images_without_detections_differ_too_or_leave_their_places_to_the_others() -> None:
    pool = bursts(*[10] * 30)
    found = shown(order(pool | bursts(50, 1, 1, 1, first=90, boxes=False), context=TWENTY, empty_quota=0.2))
    assert sorted(number for number in found if number >= 90) == [90, 91, 92, 93]
    alike = shown(order(pool | bursts(50, first=90, boxes=False), context=TWENTY, empty_quota=0.8))
    assert alike.count(90) == 1
    assert len(set(alike)) == 20
    # Before a detector sees anything there is nothing else to show.
    blind = shown(order(bursts(*[10] * 30, first=90, boxes=False) | bursts(1, 1), context=TWENTY, empty_quota=0.05))
    assert len(set(blind)) == 20


def test_what_is_drawn_at_random_differs_from_what_is_chosen_and_labelled() -> None:
    pool = bursts(*[10] * 25)
    known = {10**6: replace(image(0, 0.5), image_embedding=pool[24_000].image_embedding)}
    for seed in range(5):
        context = RankingContext(CONTEXT.classes, CONTEXT.label_counts, seed=seed, budget=20)
        first = shown(order(pool, known, context=context, exploration=0.5))
        assert len(set(first)) == 20
        assert 24 not in first
    # Where all is known it is drawn all the same.
    drawn = order(bursts(100), {10**6: pool[0]}, context=TWENTY, exploration=1.0)[:20]
    assert sorted(drawn) != list(range(20))


def test_a_share_of_the_places_is_drawn_at_random() -> None:
    pool = {task: image(task, 0.5 + task / 1000) for task in range(1, 400)}
    ten = RankingContext(CONTEXT.classes, CONTEXT.label_counts, seed=0, budget=10)
    plain = order(pool, context=ten, near_duplicate=0.0)
    mixed = order(pool, context=ten, near_duplicate=0.0, exploration=0.3)
    assert max(plain[:10]) <= 20
    drawn = [task for task in mixed[:10] if task > 20]
    assert len(drawn) == 3
    assert [mixed.index(task) for task in drawn] == [1, 5, 8]
    other = RankingContext(CONTEXT.classes, CONTEXT.label_counts, seed=1, budget=10)
    drawn_otherwise = order(pool, context=other, near_duplicate=0.0, exploration=0.3)[:10]
    assert drawn_otherwise != mixed[:10]
    assert {task for task in drawn_otherwise if task <= 20} == set(mixed[:10]) - set(drawn)
    assert sorted(order(pool, context=ten, exploration=1.0)) == sorted(pool)


@pytest.mark.parametrize("policy", ["first", "last"])
def test_images_without_detections_get_their_quota_and_no_more(policy: str) -> None:
    pool = {task: image(task * 7, 0.5 + task / 100) for task in range(1, 21)}
    pool |= {task: image(task * 13) for task in range(50, 70)}
    ten = RankingContext(CONTEXT.classes, CONTEXT.label_counts, seed=0, budget=10)
    found = order(pool, context=ten, empty_quota=0.2, empty_policy=policy)
    assert sum(task >= 50 for task in found[:10]) == 2
    # Behind the budget the policy decides again.
    assert all((task >= 50) is (policy == "first") for task in found[10:18])
    assert sum(task >= 50 for task in order(pool, context=ten, empty_policy=policy)[:10]) == 0
    nothing = {task: found for task, found in pool.items() if task >= 50}
    assert len(order(nothing, context=ten, empty_quota=0.2, empty_policy=policy)) == 20


def test_every_strategy_can_be_followed_by_it() -> None:
    config = StrategyConfig("random", diversity=True)
    strategy = create_strategy(config)
    assert strategy.name == "random"
    assert strategy.views == (View.ORIGINAL,)
    assert strategy.uses_labelled
    huale = create_strategy(StrategyConfig("huale", diversity=True))
    assert huale.candidate_views == (View.ORIGINAL, View.HFLIP)
    assert set(huale.columns(CONTEXT)) == {"entropy", "boxes", "embedding", "class_shares"}


def test_informativeness_stays_that_of_the_strategy() -> None:
    strategy = create_strategy(StrategyConfig(diversity=True, class_weights=False))
    plain = create_strategy(StrategyConfig(class_weights=False))
    row = strategy.measure(1, {View.ORIGINAL: image(0, 0.5, 0.7)}, CONTEXT)
    table = measurement_table({1: row}, strategy.columns(CONTEXT))
    assert strategy.informativeness(table, CONTEXT, {}).to_list() == plain.informativeness(table, CONTEXT, {}).to_list()
    assert row["class_shares"] == [1.0, 0.0, 0.0]
    assert strategy.measure(1, {View.ORIGINAL: image(0)}, CONTEXT)["class_shares"] == [0.0, 0.0, 1.0]
