"""Which versions and rankings stay, and the job that removes the others."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import polars as pl
import pytest

from al_backend.jobs.context import context
from al_backend.jobs.documents import PUBLISHED
from al_backend.jobs.tidy import tidy
from al_backend.learning_curve import learning_curve
from al_backend.registry import ActivePointer, GateVerdict, Ranking, Registry, Version
from al_backend.retention import GRACE, Plan, plan

NOW = datetime(2026, 1, 2, 12, tzinfo=timezone.utc)
PROJECT = 7


def a_version(number: int, map50: float | None = None, **changes: object) -> Version:
    values: dict[str, object] = {
        "name": f"d-v{number}-a",
        "number": number,
        "project": PROJECT,
        "detector": "d",
        "classes": ("cod",),
        "created_at": NOW,
        "snapshot_at": NOW,
        "labels": {str(task): "aa" for task in range(10 * number)},
        "label_counts": {"cod": 1},
        "train_images": 1,
        "validation_images": 1,
        "boxes": 1,
        "metrics": None if map50 is None else {"map50": map50},
        "training": {},
        "settings": {},
        "gate": GateVerdict(promoted=True, reason="test"),
    }
    return Version.model_validate(values | changes)


def a_ranking(version: int, number: int = 1) -> Ranking:
    name = f"d-v{version}-a" + (f"+r{number}" if number > 1 else "")
    return Ranking(
        id=name,
        project=PROJECT,
        version=f"d-v{version}-a",
        model_version=name,
        strategy={"name": "random"},
        context={},
        created_at=NOW,
        tasks=1,
        shard_size=1,
        shards=1,
    )


def pointer(*numbers: int) -> ActivePointer:
    names = [f"d-v{number}-a" for number in numbers]
    return ActivePointer(version=names[-1], history=tuple(names[:-1]), changed_at=NOW, reason="test")


def kept(found: Plan) -> list[int]:
    return sorted(int(name.split("-")[1][1:]) for name in found.keep)


def test_the_active_the_previous_the_best_the_served_and_the_newest_stay() -> None:
    quality = {1: 0.1, 2: 0.7, 3: 0.4, 4: 0.3, 5: 0.2, 6: 0.5, 7: None, 8: 0.5, 9: 0.5}
    versions = [a_version(number, value) for number, value in quality.items()]
    found = plan(versions, [a_ranking(3)], pointer(1, 4, 5), "d-v3-a", last=2, now=NOW)
    assert kept(found) == [2, 3, 4, 5, 8, 9]
    assert found.due


@pytest.mark.parametrize(("active", "last"), [(None, 2), (pointer(1), 0)])
def test_everything_stays_before_the_first_promotion_and_when_it_is_wished(
    active: ActivePointer | None, last: int
) -> None:
    versions = [a_version(number, 0.5) for number in range(1, 30)]
    assert plan(versions, [], active, None, last=last, now=NOW) == Plan(frozenset(v.name for v in versions), (), False)


def test_the_best_is_looked_for_among_versions_of_the_present_classes() -> None:
    versions = [a_version(1, 0.9, classes=("eel",)), a_version(2, 0.3), a_version(3, 0.2), a_version(4, 0.1)]
    assert kept(plan(versions, [], pointer(4), None, last=1, now=NOW)) == [2, 4]


def test_a_rollback_goes_past_what_was_removed_and_so_does_what_is_kept_for_it() -> None:
    versions = [a_version(1), a_version(2, removed_at=NOW), a_version(3)]
    assert kept(plan(versions, [], pointer(1, 2, 3), None, last=1, now=NOW)) == [1, 3]


def test_what_is_leaving_is_due_when_its_time_has_come_or_when_it_is_needed_again() -> None:
    just_now = [a_version(1, leaving_since=NOW), a_version(2)]
    assert not plan(just_now, [], pointer(2), None, last=1, now=NOW + GRACE / 2).due
    assert plan(just_now, [], pointer(2), None, last=1, now=NOW + GRACE).due
    assert plan(just_now, [], pointer(2, 1), None, last=1, now=NOW).due
    gone = [a_version(1, removed_at=NOW, leaving_since=NOW), a_version(2)]
    assert not plan(gone, [], pointer(2), None, last=1, now=NOW + GRACE).due


def test_of_the_rankings_the_newest_of_each_version_and_the_served_one_stay() -> None:
    versions = [a_version(1, removed_at=NOW), a_version(2, leaving_since=NOW), a_version(3)]
    rankings = [a_ranking(1), a_ranking(2), a_ranking(3), *(a_ranking(3, number) for number in (9, 10, 2))]
    found = plan(versions, rankings, pointer(3), "d-v3-a+r2", last=1, now=NOW)
    assert found.rankings == ("d-v1-a", "d-v3-a", "d-v3-a+r9")
    assert found.due


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """Of the process that runs jobs."""
    monkeypatch.setenv("MODEL_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("AL_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("AL_KEEP_VERSIONS", "1")
    context.cache_clear()
    yield context().registry
    context.cache_clear()


def test_the_job_makes_room_and_the_learning_curve_survives(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "trained"
    folder.mkdir()
    (folder / "weights").write_bytes(b"w" * 1000)
    for number in range(1, 6):
        registry.add_version(a_version(number, number / 10), folder)
        registry.promote(PROJECT, f"d-v{number}-a", reason="test")
        registry.create_ranking(a_ranking(number), pl.DataFrame({"task_id": [1]}))
    registry.write_document(PROJECT, PUBLISHED, {"ranking": "d-v5-a", "model_version": "d-v5-a"})
    curve = learning_curve(registry.versions(PROJECT))
    assert len(curve) == 5

    assert tidy(PROJECT) == []
    monkeypatch.setattr("al_backend.jobs.tidy.GRACE", timedelta(0))
    assert tidy(PROJECT) == ["d-v1-a", "d-v2-a", "d-v3-a"]
    assert tidy(PROJECT) == []

    assert learning_curve(registry.versions(PROJECT)) == curve
    assert [ranking.id for ranking in registry.rankings(PROJECT)] == ["d-v4-a", "d-v5-a"]
    assert sorted(path.parent.name for path in (tmp_path / "models").rglob("weights")) == ["d-v4-a", "d-v5-a"]
    assert registry.rollback(PROJECT).version == "d-v4-a"
