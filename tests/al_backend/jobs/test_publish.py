"""Which orders are published: not one of the past, not one of images that could not be read; and late tasks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from al_backend import cycle
from al_backend.jobs import doubt, patience, perform, tries
from al_backend.jobs.context import Context
from al_backend.jobs.documents import published_model_version
from al_backend.jobs.failures import last_failures
from al_backend.jobs.queues import Queues
from al_backend.settings import load_settings
from al_backend.status import project_status
from tests.al_backend.jobs.made_up_studio import Storage, Studio, jobs, look, looks, work
from tests.al_backend.jobs.test_candidates import CONFIG, PROJECT, add_version

pytestmark = pytest.mark.redis


@pytest.fixture
def studio() -> Studio:
    return Studio(range(1, 31))


@pytest.fixture
def storage() -> Storage:
    return Storage()


@pytest.fixture
def here(queues: Queues, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, studio: Studio, storage: Storage) -> Context:
    made = Context(load_settings(model_dir=str(tmp_path / "registry"), data_dir=tmp_path / "data"))
    vars(made).update(queues=queues, inference=storage, label_studio=studio)
    monkeypatch.setattr("al_backend.jobs.context.context", lambda: made)
    monkeypatch.setattr("al_backend.jobs.observe.plan", lambda *_, **__: NothingToTidy)
    made.registry.register_project(PROJECT, label_config=CONFIG, overrides={})
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "weights.bin").write_bytes(b"w")
    add_version(made, "v1", tmp_path / "weights")
    return made


class NothingToTidy:
    due = False


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now: float = tries.time.time()
        for module in (tries, doubt, patience):
            monkeypatch.setattr(module.time, "time", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def gone(task: int) -> Mapping[str, Any]:
    return {"error": f"http://ls/{task}.png answered 404.", "lost": True}


# -- tasks that are all gone


def test_a_ranking_whose_tasks_are_all_gone_makes_room_for_one_of_the_present_pool(
    here: Context, studio: Studio
) -> None:
    look(here)
    work(here)
    studio.open = set(range(101, 121))
    kinds = looks(here)
    assert kinds == ["Publish", "StartRanking", "Publish"]
    assert {task for task, _ in studio.stored} == studio.open
    assert studio.serves == published_model_version(here.registry, PROJECT) == "v1"
    assert here.registry.ranking(PROJECT, "v1").tasks == 20


def test_a_ranking_of_which_some_tasks_are_left_is_published(here: Context, studio: Studio) -> None:
    look(here)
    work(here)
    studio.open = {1, 2, 101}
    assert looks(here) == ["Publish", "ScoreNew"]
    assert {task for task, _ in studio.stored} == {1, 2, 101}


# -- storage that is away


def test_a_storage_that_is_away_takes_no_good_order_away(
    here: Context, studio: Studio, storage: Storage, clock: Clock, tmp_path: Path
) -> None:
    looks(here)
    assert studio.serves == "v1"
    storage.broken = gone
    add_version(here, "v2", tmp_path / "weights")
    for _ in range(6):
        look(here)
        work(here)
        clock.now += 40
    assert studio.serves == "v1"
    assert {version for _, version in studio.stored} == {"v1"}
    told = last_failures(here.queues.connection, PROJECT)["publish"]
    assert "30 of 30 images of v2 could not be read, the first is of task 1: http://ls/1.png answered 404." in told
    assert "stays; they are measured again in" in told

    storage.broken = lambda task: None
    clock.now += 1000
    looks(here)
    assert studio.serves == "v2"
    assert last_failures(here.queues.connection, PROJECT) == {}
    summary = here.registry.read_summary(PROJECT, "v2")
    assert summary is not None
    assert summary["unreadable"]["count"] == 1, "the one that is broken for good"


def test_a_storage_that_stays_away_is_waited_for_no_longer_than_the_waits_last(
    here: Context,
    studio: Studio,
    storage: Storage,
    clock: Clock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doubt, "WAITS", (60.0, 300.0))
    looks(here)
    storage.broken = gone
    add_version(here, "v2", tmp_path / "weights")
    began, measured = clock.now, len(storage.asked)
    while studio.serves == "v1":
        look(here)
        work(here)
        clock.now += 90
        assert clock.now < began + 1200
    assert clock.now > began + sum(doubt.WAITS)
    rounds = (len(storage.asked) - measured) / 30
    assert rounds < 8, "it is asked again less and less often"
    assert studio.serves == "v2"
    told = project_status(here.settings, here.registry, here.label_studio, here.queues, PROJECT)["notes"]
    assert any(
        note.startswith("30 of the 30 images of the published order could not be read")
        and "`al-backend rank 7` makes another" in note
        for note in told
    )


def test_an_order_without_a_better_one_before_it_is_published(
    here: Context, studio: Studio, storage: Storage, clock: Clock, tmp_path: Path
) -> None:
    storage.broken = lambda task: {"error": "The file is a text, expected an image."}
    looks(here)
    assert studio.serves == "v1"
    add_version(here, "v2", tmp_path / "weights")
    looks(here)
    assert studio.serves == "v2"


def test_some_images_that_cannot_be_read_put_nothing_off(
    here: Context, studio: Studio, storage: Storage, clock: Clock, tmp_path: Path
) -> None:
    looks(here)
    storage.broken = lambda task: {"error": "The file is a text."} if task % 2 else None
    add_version(here, "v2", tmp_path / "weights")
    assert looks(here) == ["StartRanking", "Publish"]
    assert studio.serves == "v2"


def test_where_most_images_of_a_shard_are_lost_their_server_is_given_time(
    here: Context, studio: Studio, storage: Storage, clock: Clock
) -> None:
    """As behind a mount that is away: Label Studio is well, and answers 404 or 500 for every file."""
    storage.broken = gone
    look(here)
    work(here)
    assert here.registry.finished_shards(PROJECT, "v1") == set()
    assert "cannot be had at present" in last_failures(here.queues.connection, PROJECT)["score"]
    storage.broken = lambda task: None
    clock.now += 60
    looks(here)
    assert studio.serves == "v1"
    summary = here.registry.read_summary(PROJECT, "v1")
    assert summary is not None
    assert summary["unreadable"]["count"] == 1


def test_a_few_lost_images_are_gone(here: Context, storage: Storage, studio: Studio, clock: Clock) -> None:
    storage.broken = lambda task: gone(task) if task <= 3 else None
    assert looks(here) == ["StartRanking", "Publish"]


# -- tasks that come later


def test_boxes_that_label_studio_refuses_cost_a_late_task_its_boxes_and_not_its_place(
    here: Context, studio: Studio, storage: Storage
) -> None:
    looks(here)
    studio.open |= {101, 102}
    studio.refuses_boxes = {101, 102}
    asked = len(storage.asked)
    assert looks(here) == ["ScoreNew"]
    assert [studio.stored[task, "v1"]["result"] for task in (101, 102)] == [[], []]
    assert 0 < studio.stored[101, "v1"]["score"] < 1
    assert len(storage.asked) == asked + 2


def test_a_late_task_that_label_studio_refuses_altogether_is_tried_less_and_less_often(
    here: Context, studio: Studio, storage: Storage, clock: Clock
) -> None:
    looks(here)
    studio.open |= {101}
    studio.refuses = {101}
    asked = len(storage.asked)
    for _ in range(20):
        look(here)
        work(here)
        clock.now += 2
    assert 2 <= len(storage.asked) - asked <= 5
    assert "takes no prediction for the tasks [101]" in last_failures(here.queues.connection, PROJECT)["score_new"]
    assert here.queues.connection.zcard("al:later") <= 1, "who places nothing asks for no look"


def test_a_late_task_that_is_deleted_meanwhile_is_no_failure(here: Context, studio: Studio) -> None:
    looks(here)
    studio.open |= {101}
    look(here)
    studio.open -= {101}
    work(here)
    assert last_failures(here.queues.connection, PROJECT) == {}


def test_no_more_new_tasks_are_enqueued_at_a_look_than_some_jobs_take(
    here: Context, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perform, "_NEW_JOBS", 2)
    here.registry.write_document(PROJECT, "throughput", {"images_per_second": 0.1})
    looks(here)
    here.registry.write_document(PROJECT, "throughput", {"images_per_second": 0.1})
    studio.open |= set(range(101, 121))
    look(here)
    assert [job.meta["tasks"] for job in jobs(here, "score_new")] == [4, 4]
    work(here)
    look(here)
    assert next(job.args[2][0][0] for job in jobs(here, "score_new")) == 109


def test_many_late_tasks_are_ranked_together_with_the_others(
    here: Context, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cycle, "LATE_TASKS", 10)
    looks(here)
    studio.open |= set(range(101, 111))
    assert looks(here) == ["ScoreNew"], "ten are not more than ten"
    studio.open |= set(range(111, 122))
    assert looks(here) == ["StartRanking", "Publish"]
    assert studio.serves == "v1+r2"
    assert {task for task, version in studio.stored if version == "v1+r2"} == studio.open
