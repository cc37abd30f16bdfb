"""The order that comes out of measurements, and the places of tasks that come after it."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import polars as pl
import pytest

from al_backend.jobs.context import Context
from al_backend.jobs.importing import prediction_items
from al_backend.jobs.ranking import (
    asks_for_more,
    newest_ranking,
    order,
    place_measured,
)
from al_backend.jobs.sizes import WINDOW
from al_backend.jobs.strategies import strategy_fields, strategy_of
from al_backend.registry import Ranking
from al_backend.settings import LearningSettings, load_settings
from model.acquisition.order import order_scores

PROJECT = 7
VERSION = "yolov5n-v1-aaaaaa"
BROKEN = "The image cannot be decoded."


@pytest.fixture
def here(tmp_path: Path) -> Context:
    return Context(load_settings(model_dir=str(tmp_path / "registry"), data_dir=tmp_path / "data"))


def a_ranking(name: str = VERSION, *, version: str = VERSION, seed: int = 0, **settings: object) -> Ranking:
    learning = LearningSettings.model_validate(settings)
    return Ranking(
        id=name,
        project=PROJECT,
        version=version,
        model_version=name,
        strategy=strategy_fields(learning, learning.detector),
        context={"classes": ["cod", "eel"], "label_counts": [3, 0], "seed": seed},
        created_at=datetime(2026, 1, 1, tzinfo=timezone.utc),
        tasks=0,
        shard_size=4,
        shards=1,
    )


def measured(values: dict[int, float | None]) -> pl.DataFrame:
    """One row per task: its uncertainty, None where the image could not be read."""
    rows = [
        {
            "task_id": task,
            "uncertainty": value,
            "boxes": None if value is None else 1.0,
            "regions": f'[{{"id": "{task}"}}]' if value is not None else "[]",
            "error": BROKEN if value is None else None,
        }
        for task, value in values.items()
    ]
    schema = {
        "task_id": pl.Int64,
        "uncertainty": pl.Float64,
        "boxes": pl.Float64,
        "regions": pl.String,
        "error": pl.String,
    }
    return pl.DataFrame(rows, schema=schema)


def stored(here: Context, *shards: dict[int, float | None], **settings: object) -> Ranking:
    """A ranking in the registry whose shards are measured."""
    ranking = a_ranking(**settings)  # type: ignore[arg-type]
    here.registry.create_ranking(ranking, pl.DataFrame(schema={"task_id": pl.Int64}))
    for index, values in enumerate(shards):
        here.registry.write_shard(PROJECT, ranking.id, index, measured(values))
    return ranking


def scores(frame: pl.DataFrame) -> dict[int, float]:
    return dict(frame.select("task_id", "order_score").iter_rows())


# The order


def test_the_most_informative_comes_first_with_the_lowest_score(here: Context) -> None:
    ranked = order(here, stored(here, {1: 0.2, 2: 0.9}, {3: 0.5}))
    assert ranked["task_id"].to_list() == [2, 3, 1]
    assert ranked["rank"].to_list() == [0, 1, 2]
    assert ranked["order_score"].to_list() == order_scores(3).tolist()
    assert ranked["informativeness"].is_sorted(descending=True)
    assert ranked["regions"].to_list() == ['[{"id": "2"}]', '[{"id": "3"}]', '[{"id": "1"}]']


def test_ties_break_by_task_id(here: Context) -> None:
    assert order(here, stored(here, {9: 0.5, 2: 0.5}, {4: 0.5, 3: 0.7}))["task_id"].to_list() == [3, 2, 4, 9]


def test_unreadable_images_come_last_by_task_id_and_keep_their_reason(here: Context) -> None:
    ranked = order(here, stored(here, {8: None, 1: 0.0}, {2: None, 5: 0.4}))
    assert ranked["task_id"].to_list() == [5, 1, 2, 8]
    assert ranked["informativeness"].is_null().to_list() == [False, False, True, True]
    assert ranked["error"].to_list() == [None, None, BROKEN, BROKEN]
    assert ranked["order_score"].to_list() == order_scores(4).tolist()


def test_a_pool_without_a_readable_image_is_ordered_all_the_same(here: Context) -> None:
    ranked = order(here, stored(here, {8: None, 2: None}))
    assert ranked["task_id"].to_list() == [2, 8]
    assert ranked["order_score"].to_list() == [0.25, 0.75]


def test_the_order_is_made_once(here: Context) -> None:
    ranking = stored(here, {1: 0.2, 2: 0.9})
    first = order(here, ranking)
    here.registry.write_shard(PROJECT, ranking.id, 5, measured({3: 1.0}))  # a task that came later
    assert order(here, ranking).equals(first)


def test_a_random_order_depends_on_the_seed_alone(here: Context, tmp_path: Path) -> None:
    values: dict[int, float | None] = {task: 0.5 for task in range(50)}
    orders = []
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        there = Context(load_settings(model_dir=str(tmp_path / name), data_dir=tmp_path / "data"))
        ranking = a_ranking(seed=seed, strategy="random")
        there.registry.create_ranking(ranking, pl.DataFrame(schema={"task_id": pl.Int64}))
        strategy, context = strategy_of(ranking)
        frame = measured(values)
        extra = pl.DataFrame([strategy.measure(task, {}, context) for task in values])
        there.registry.write_shard(PROJECT, ranking.id, 0, frame.drop("uncertainty", "boxes").hstack(extra))
        orders.append(order(there, ranking)["task_id"].to_list())
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert sorted(orders[0]) == list(values) != orders[0]


# Tasks that come later


def test_a_late_task_is_placed_between_its_neighbours(here: Context) -> None:
    ranking = stored(here, {1: 0.9, 2: 0.5, 3: 0.1})
    known = scores(order(here, ranking))
    placed = scores(place_measured(here, ranking, measured({10: 2.0, 11: 0.7, 12: 0.2, 13: 0.01})))
    assert 0 < placed[10] < known[1] < placed[11] < known[2] < placed[12] < known[3] < placed[13] < 1


def test_a_task_of_the_ranking_keeps_its_place_whatever_it_measures_now(here: Context) -> None:
    ranking = stored(here, {1: 0.9, 2: 0.5, 3: None})
    assert scores(place_measured(here, ranking, measured({2: 5.0, 3: 0.9, 1: None}))) == scores(order(here, ranking))


def test_late_unreadable_tasks_come_after_all_others_each_with_a_score_of_its_own(here: Context) -> None:
    ranking = stored(here, {1: 0.9, 2: None})
    placed = scores(place_measured(here, ranking, measured({12: None, 11: None, 13: 0.0})))
    assert placed[13] < scores(order(here, ranking))[2] < placed[11] < placed[12] < 1


def test_a_late_task_that_can_be_read_comes_before_all_that_cannot(here: Context) -> None:
    ranking = stored(here, {1: 50.0, 2: None, 3: None})
    known = scores(order(here, ranking))
    placed = scores(place_measured(here, ranking, measured({10: 0.0, 11: 40.0, 12: 90.0})))
    assert placed[12] < known[1] < placed[11] < placed[10] < known[2]


def test_an_empty_ranking_places_every_task(here: Context) -> None:
    ranking = stored(here, {})
    assert order(here, ranking).height == 0
    placed = scores(place_measured(here, ranking, measured({1: 0.9, 2: 0.1, 3: None})))
    assert 0 < placed[1] < placed[2] < placed[3] < 1


def test_nothing_measured_is_nothing_placed(here: Context) -> None:
    assert place_measured(here, stored(here, {1: 0.5}), measured({})).height == 0


# Which tasks, which ranking


def test_the_newest_ranking_of_a_version_has_the_highest_number() -> None:
    rankings = [
        a_ranking(VERSION),
        a_ranking(f"{VERSION}+r10"),
        a_ranking(f"{VERSION}+r9"),
        a_ranking("yolov5n-v2-bbbbbb", version="yolov5n-v2-bbbbbb"),
    ]
    newest = newest_ranking(rankings, VERSION)
    assert newest is not None
    assert newest.id == f"{VERSION}+r10"
    assert newest_ranking(rankings, "yolov5n-v3-cccccc") is None
    assert newest_ranking(rankings, None) is None
    assert newest_ranking([], VERSION) is None


def test_predictions_carry_the_models_version_and_the_order_score(here: Context) -> None:
    ranked = order(here, stored(here, {1: 0.2, 2: 0.9, 3: None}))
    assert prediction_items(ranked, "v1+r2") == [
        {"task": 2, "result": [{"id": "2"}], "score": pytest.approx(1 / 6), "model_version": "v1+r2"},
        {"task": 1, "result": [{"id": "1"}], "score": pytest.approx(0.5), "model_version": "v1+r2"},
        {"task": 3, "result": [], "score": pytest.approx(5 / 6), "model_version": "v1+r2"},
    ]


def test_a_ranking_asks_for_its_next_shards_before_the_queue_runs_empty() -> None:
    shards = 75
    asking = [index for index in range(shards) if asks_for_more(index, shards)]
    assert asking == [15, 31, 47]
    assert all(index < WINDOW for index in asking[:2]), "while half of what is in the queue still waits"
    assert not any(asks_for_more(index, WINDOW // 2) for index in range(WINDOW // 2))
