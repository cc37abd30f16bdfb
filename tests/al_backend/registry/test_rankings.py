"""Rankings: whole or absent, shards idempotent, everything read back as it was written."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import fsspec
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from al_backend.errors import RegistryError
from al_backend.registry import Ranking, Registry

NOON = datetime(2025, 6, 1, 12, tzinfo=timezone.utc)
TASKS = pl.DataFrame({"task_id": [5, 6, 9], "data": ['{"image": "a"}', '{"image": "b"}', "{}"]})


def a_ranking(ranking_id: str = "r1", minutes: int = 0, **changes: object) -> Ranking:
    values: dict[str, object] = {
        "id": ranking_id,
        "project": 7,
        "version": "d-v1-a",
        "model_version": "d-v1-a",
        "strategy": {"name": "uncertainty"},
        "context": {"classes": ["cod"], "label_counts": [3], "seed": 0},
        "created_at": NOON + timedelta(minutes=minutes),
        "tasks": 3,
        "shard_size": 2,
        "shards": 2,
    }
    return Ranking.model_validate(values | changes)


def shard(*rows: tuple[int, float]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={"task_id": pl.Int64, "entropy_sum": pl.Float64}, orient="row")


def test_a_ranking_from_start_to_end(registry: Registry) -> None:
    ranking = a_ranking()
    registry.create_ranking(ranking, TASKS)
    assert registry.ranking(7, "r1") == ranking
    assert_frame_equal(registry.ranking_tasks(7, "r1"), TASKS)
    assert registry.finished_shards(7, "r1") == set()
    assert registry.read_shards(7, "r1").columns == ["task_id"]
    assert registry.read_order(7, "r1") is None

    registry.write_shard(7, "r1", 1, shard((9, 0.5)))
    registry.write_shard(7, "r1", 0, shard((5, 0.1), (6, 0.2)))
    once = registry.read_shards(7, "r1")
    registry.write_shard(7, "r1", 0, shard((5, 0.1), (6, 0.2)))
    assert_frame_equal(registry.read_shards(7, "r1"), once)
    assert once["task_id"].to_list() == [5, 6, 9]
    assert registry.finished_shards(7, "r1") == {0, 1}

    registry.write_order(7, "r1", once)
    order = registry.read_order(7, "r1")
    assert order is not None
    assert_frame_equal(order, once)


def test_creating_twice_keeps_the_shards(registry: Registry) -> None:
    registry.create_ranking(a_ranking(), TASKS)
    registry.write_shard(7, "r1", 0, shard((5, 0.1)))
    registry.create_ranking(a_ranking(), TASKS)
    assert registry.finished_shards(7, "r1") == {0}


def test_rankings_are_sorted_by_age_and_half_ones_are_none(registry: Registry) -> None:
    assert registry.rankings(7) == []
    registry.create_ranking(a_ranking("zz", minutes=1), TASKS)
    registry.create_ranking(a_ranking("aa", minutes=2), TASKS)
    registry.create_ranking(a_ranking("mm", minutes=0), TASKS)
    fs, root = fsspec.url_to_fs(registry.location)
    fs.makedirs(f"{root}/projects/7/rankings/half/shards", exist_ok=True)
    fs.pipe_file(f"{root}/projects/7/rankings/half/shards/000000.parquet", b"old")

    assert [ranking.id for ranking in registry.rankings(7)] == ["mm", "zz", "aa"]
    with pytest.raises(RegistryError, match=r"no ranking 'half'\. It has: mm, zz, aa"):
        registry.ranking(7, "half")
    registry.create_ranking(a_ranking("half", minutes=3), TASKS)
    assert registry.finished_shards(7, "half") == set()


def test_shards_with_other_number_types_fit_together(registry: Registry) -> None:
    registry.create_ranking(a_ranking(), TASKS)
    registry.write_shard(7, "r1", 0, shard((5, 0.25)))
    registry.write_shard(7, "r1", 1, pl.DataFrame({"task_id": [9], "entropy_sum": [1]}))
    assert registry.read_shards(7, "r1")["entropy_sum"].to_list() == [0.25, 1.0]
    registry.write_shard(7, "r1", 1, pl.DataFrame({"task_id": [9], "another": [1.0]}))
    with pytest.raises(RegistryError, match="do not fit together"):
        registry.read_shards(7, "r1")


def test_wrong_use_is_refused(registry: Registry) -> None:
    with pytest.raises(RegistryError, match="about 4 tasks, but the table has 3 rows"):
        registry.create_ranking(a_ranking(tasks=4), TASKS)
    with pytest.raises(RegistryError, match="column task_id"):
        registry.create_ranking(a_ranking(), TASKS.rename({"task_id": "id"}))
    with pytest.raises(RegistryError, match=r"no ranking 'r1'\. It has: none"):
        registry.write_shard(7, "r1", 0, shard())
    registry.create_ranking(a_ranking(), TASKS)
    with pytest.raises(RegistryError, match="numbered from 0"):
        registry.write_shard(7, "r1", -1, shard())


def test_tasks_that_arrived_later_have_room_behind_the_shards(registry: Registry) -> None:
    registry.create_ranking(a_ranking(), TASKS)
    registry.write_shard(7, "r1", 0, shard((5, 0.1)))
    registry.write_shard(7, "r1", 2 + 77, shard((77, 0.3)))
    assert registry.finished_shards(7, "r1") == {0, 79}
    assert registry.read_shards(7, "r1")["task_id"].to_list() == [5, 77]


def test_a_deleted_ranking_is_gone_with_its_shards(registry: Registry) -> None:
    registry.create_ranking(a_ranking(), TASKS)
    registry.write_shard(7, "r1", 0, shard((5, 0.1)))
    registry.delete_ranking(7, "r1")
    registry.delete_ranking(7, "r1")
    assert registry.rankings(7) == []
    assert registry.finished_shards(7, "r1") == set()
    with pytest.raises(RegistryError, match="no ranking"):
        registry.ranking_tasks(7, "r1")


def test_a_damaged_shard_is_named(registry: Registry) -> None:
    registry.create_ranking(a_ranking(), TASKS)
    registry.write_shard(7, "r1", 0, shard((5, 0.1)))
    fs, root = fsspec.url_to_fs(registry.location)
    fs.pipe_file(f"{root}/projects/7/rankings/r1/shards/000000.parquet", b"PAR1 and then nothing")
    with pytest.raises(RegistryError, match=r"shards/000000\.parquet.*damaged"):
        registry.read_shards(7, "r1")


def test_an_empty_pool(registry: Registry) -> None:
    registry.create_ranking(a_ranking(tasks=0, shards=0), TASKS.clear())
    assert registry.ranking_tasks(7, "r1").height == 0
    assert registry.read_shards(7, "r1").height == 0
