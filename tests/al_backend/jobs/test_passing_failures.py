"""Failures that pass by themselves change nothing for good: an image server away, a training killed at its end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from al_backend import cycle
from al_backend.errors import BackendError
from al_backend.inference import Outcome
from al_backend.jobs import patience
from al_backend.jobs.context import Context
from al_backend.jobs.observe import read_state
from al_backend.jobs.queues import Queues
from al_backend.jobs.ranking import order, score_new, score_shard
from al_backend.registry import Ranking
from al_backend.settings import LearningSettings
from model.detectors.base import View
from tests.al_backend.jobs.test_candidates import (
    NOON,
    PROJECT,
    MadeUpInference,
    add_version,
    made_up_context,
    run_jobs,
    settle,
    step,
    weights,
)

pytestmark = pytest.mark.redis

SETTINGS = LearningSettings(strategy="uncertainty")
AWAY = 7


class ServerAway(MadeUpInference):
    """The image of one task cannot be had for as long as `away` is set."""

    away = True

    def outcome(self, task: int, views: Sequence[View]) -> Outcome:
        if self.away and task == AWAY:
            return Outcome(AWAY, None, "http://ls/7.png answered 500.", passing=True)
        return super().outcome(task, views)


@pytest.fixture
def inference() -> ServerAway:
    return ServerAway()


@pytest.fixture
def here(queues: Queues, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inference: ServerAway) -> Context:
    return made_up_context(queues, tmp_path, monkeypatch, inference)


def begun(here: Context) -> Ranking:
    """A ranking whose shards nobody has measured."""
    (action,) = step(here, SETTINGS)
    assert isinstance(action, cycle.StartRanking)
    here.queues.connection.flushall()
    return here.registry.rankings(PROJECT)[-1]


def test_a_shard_whose_images_cannot_be_had_at_present_is_measured_again(here: Context, inference: ServerAway) -> None:
    ranking = begun(here)
    with pytest.raises(BackendError, match=r"1 images cannot be had at present.*task 7: .* answered 500"):
        score_shard(PROJECT, ranking.id, 0)
    assert here.registry.finished_shards(PROJECT, ranking.id) == set()

    inference.away = False
    found = order(here, settle(here, SETTINGS)[0])
    assert found.filter(found["task_id"] == AWAY)["error"].to_list() == [None]


def test_an_image_that_stays_away_stops_no_ranking(
    here: Context, inference: ServerAway, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranking = begun(here)
    with pytest.raises(BackendError):
        score_shard(PROJECT, ranking.id, 0)
    moment = patience.time.time()
    monkeypatch.setattr(patience.time, "time", lambda: moment + patience.PATIENCE + 1)
    assert score_shard(PROJECT, ranking.id, 0) == ranking.shard_size
    found = here.registry.read_shards(PROJECT, ranking.id)
    assert found.filter(found["task_id"] == AWAY)["error"].to_list() == ["http://ls/7.png answered 500."]


def test_a_new_task_whose_image_cannot_be_had_at_present_is_placed_later(here: Context, inference: ServerAway) -> None:
    inference.away = False
    ranking = settle(here, SETTINGS)[0]
    order(here, ranking)
    here.registry.write_document(PROJECT, "published", {"model_version": ranking.model_version, "ranking": ranking.id})
    inference.away = True
    label_studio: Any = here.label_studio
    new: list[tuple[int, str | None]] = [(AWAY, "/7.png"), (41, "/41.png")]
    assert score_new(PROJECT, ranking.id, new) == 1
    assert [item["task"] for item in label_studio.imported] == [41]

    inference.away = False
    assert score_new(PROJECT, ranking.id, [(AWAY, "/7.png")]) == 1
    assert score_new(PROJECT, ranking.id, []) == 0


def test_a_version_whose_training_was_killed_before_it_was_promoted_becomes_active(
    here: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as killed:
        killed.setattr(type(here.registry), "promote", lambda *_, **__: None)
        add_version(here, "v2", weights(tmp_path))
    pointer = here.registry.active(PROJECT)
    assert pointer is not None
    assert pointer.version == "v1"
    assert read_state(here, PROJECT).unpromoted == "v2"
    (action,) = step(here, SETTINGS)
    assert action == cycle.Promote("v2")
    pointer = here.registry.active(PROJECT)
    assert pointer is not None
    assert pointer.version == "v2"
    assert read_state(here, PROJECT).unpromoted is None
    run_jobs(here)


@pytest.mark.parametrize("late", [timedelta(hours=-3), timedelta(hours=3)])
def test_a_rollback_stays_whatever_the_clocks_of_the_machines_say(
    here: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: timedelta
) -> None:
    monkeypatch.setattr("al_backend.registry.active.utc_now", lambda: NOON + late)  # versions are of NOON
    for name in ("v2", "v3"):
        add_version(here, name, weights(tmp_path))
    for expected in ("v2", "v1"):
        assert here.registry.rollback(PROJECT).version == expected
        assert read_state(here, PROJECT).unpromoted is None
    here.registry.promote(PROJECT, "v3", reason="by hand")
    assert read_state(here, PROJECT).unpromoted is None
    here.registry.rollback(PROJECT)
    assert read_state(here, PROJECT).unpromoted is None


def test_a_rollback_of_a_former_release_stays(here: Context, tmp_path: Path) -> None:
    add_version(here, "v2", weights(tmp_path))
    here.registry.rollback(PROJECT)
    file = tmp_path / "registry" / "projects" / str(PROJECT) / "active.json"
    document = json.loads(file.read_text())
    assert document.pop("left") == ["v2"]
    file.write_text(json.dumps(document))
    assert read_state(here, PROJECT).unpromoted is None


def test_patience_ends_and_begins_anew_when_redis_is_emptied(queues: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
    moment = [1000.0]
    monkeypatch.setattr(patience.time, "time", lambda: moment[0])
    assert patience.may_try_again(queues.connection, "work")
    moment[0] += patience.PATIENCE - 1
    assert patience.may_try_again(queues.connection, "work")
    assert patience.may_try_again(queues.connection, "other work")
    moment[0] += 2
    assert not patience.may_try_again(queues.connection, "work")
    queues.connection.flushall()
    assert patience.may_try_again(queues.connection, "work")
