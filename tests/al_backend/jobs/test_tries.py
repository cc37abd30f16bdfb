"""Work that fails again and again: counted, put off for longer each time, and the image to blame is found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from al_backend import cycle
from al_backend.inference import Outcome
from al_backend.jobs import measuring, observe, perform, tries
from al_backend.jobs.client import request_ranking
from al_backend.jobs.context import Context, job_name
from al_backend.jobs.liveness import ensure_job
from al_backend.jobs.patience import Postponed
from al_backend.jobs.queues import QueueName, Queues
from al_backend.jobs.ranking import order
from al_backend.jobs.tries import WAITS, Tries, counting_try, in_vain, is_due, put_off, tries_begun
from al_backend.registry import Ranking
from al_backend.settings import LearningSettings
from model.detectors.base import View
from tests.al_backend.jobs.made_up_studio import work
from tests.al_backend.jobs.test_candidates import (
    BROKEN,
    POOL,
    PROJECT,
    MadeUpInference,
    made_up_context,
    step,
)

pytestmark = pytest.mark.redis

SETTINGS = LearningSettings(strategy="uncertainty")
BAD = 7


class Killed(BaseException):
    """As if somebody had killed the process: nothing in it hears of that."""


class Poisoned(MadeUpInference):
    """Measuring some tasks ends as `ending` says, and takes the whole batch along."""

    def __init__(self, ending: type[BaseException], bad: Sequence[int] = (BAD,)) -> None:
        super().__init__()
        self.ending: type[BaseException] | None = ending
        self.bad = set(bad)

    def detect(
        self,
        project_id: int,
        version: str,
        items: Sequence[tuple[int, str | None]],
        *,
        views: Sequence[View],
        min_score: float,
    ) -> Iterator[Outcome]:
        if self.ending is not None and self.bad & {task for task, _ in items}:
            raise self.ending("out of memory")
        yield from super().detect(project_id, version, items, views=views, min_score=min_score)


@pytest.fixture
def here(queues: Queues, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    return made_up_context(queues, tmp_path, monkeypatch, MadeUpInference())


@pytest.fixture
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tries, "WAITS", (0.0,))


def look_and_work(here: Context, looks: int) -> Ranking | None:
    """The ranking once there is something to publish; None where that was not reached."""
    for _ in range(looks):
        actions = step(here, SETTINGS)
        if actions and isinstance(actions[-1], cycle.Publish):
            return here.registry.ranking(PROJECT, actions[-1].ranking)
        work(here)
    return None


def reasons(here: Context, ranking: Ranking) -> dict[int, str]:
    found = order(here, ranking)
    assert sorted(found["task_id"]) == list(POOL)
    rows = found.filter(found["error"].is_not_null()).select("task_id", "error")
    return {task: reason for task, reason in rows.iter_rows() if task != BROKEN}


@pytest.mark.usefixtures("no_waits")
@pytest.mark.parametrize(
    ("ending", "looks", "reason"), [(Killed, 6, "ended its worker"), (RuntimeError, 5, "RuntimeError: out of memory")]
)
def test_an_image_that_takes_its_shard_along_is_found_and_the_ranking_goes_on(
    here: Context, ending: type[BaseException], looks: int, reason: str
) -> None:
    vars(here)["inference"] = Poisoned(ending)
    assert look_and_work(here, looks - 2) is None
    ranking = look_and_work(here, 3)
    assert ranking is not None
    found = reasons(here, ranking)
    assert found.keys() == {BAD}
    assert reason in found[BAD]
    assert tries_begun(here.queues.connection, PROJECT, job_name("score", PROJECT, ranking.id, 0)).count == 0


@pytest.mark.usefixtures("no_waits")
def test_two_bad_images_of_one_shard_are_found(here: Context) -> None:
    vars(here)["inference"] = Poisoned(Killed, (3, BAD))
    ranking = look_and_work(here, 8)
    assert ranking is not None
    assert reasons(here, ranking).keys() == {3, BAD}


@pytest.mark.usefixtures("no_waits")
def test_what_befalls_every_image_is_not_taken_for_their_fault_too_soon(here: Context) -> None:
    inference = Poisoned(RuntimeError, POOL)
    vars(here)["inference"] = inference
    assert look_and_work(here, 6) is None
    ranking = here.registry.rankings(PROJECT)[-1]
    (told, _) = in_vain(here.queues.connection, PROJECT, ranking.id)
    assert told.startswith(f"Shard 0 of {ranking.id} was tried 6 times in vain (RuntimeError: out of memory)")
    assert in_vain(here.queues.connection, PROJECT, "another") == []
    inference.ending = None
    healed = look_and_work(here, 2)
    assert healed is not None
    assert reasons(here, healed) == {}
    assert in_vain(here.queues.connection, PROJECT, ranking.id) == []


@pytest.mark.usefixtures("no_waits")
def test_an_image_that_was_in_work_when_the_time_was_over_is_to_blame_only_if_it_took_most_of_it(
    here: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "BaseTimeoutException", Killed)
    vars(here)["inference"] = Poisoned(Killed)
    assert look_and_work(here, 6) is None, "each time it was in work for a moment only"
    monkeypatch.setattr(measuring, "_SLOW", 0.0)
    ranking = look_and_work(here, 3)
    assert ranking is not None
    assert reasons(here, ranking).keys() == {BAD}


def fail(queues: Queues, error: type[Exception] = Postponed, what: str = "publish-7") -> Tries:
    """One try in vain, as it was known while it ran."""
    try:
        with counting_try(queues.connection, PROJECT, what, "The publish job"):
            begun = tries_begun(queues.connection, PROJECT, what)
            raise error("away")
    except error:
        return begun


@pytest.mark.usefixtures("no_waits")
def test_what_there_is_no_time_for_says_so(here: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_TIME_ALONE", -1.0)
    vars(here)["inference"] = Poisoned(RuntimeError)
    ranking = look_and_work(here, 5)
    assert ranking is not None
    found = reasons(here, ranking)
    assert BAD in found
    assert {reason.partition(";")[0] for reason in found.values()} == {"There was no time left to measure this image"}


def test_tries_are_put_off_for_longer_each_time(queues: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
    moment = [1000.0]
    monkeypatch.setattr(tries.time, "time", lambda: moment[0])
    connection = queues.connection
    waits = []
    for number in range(1, len(WAITS) + 3):
        begun = fail(queues, ValueError)
        assert (begun.count, begun.failed, begun.error) == (number, number - 1, None)
        due = tries_begun(connection, PROJECT, "publish-7").due
        waits.append(due - moment[0])
        assert put_off(connection, PROJECT) == ({"publish-7"} if waits[-1] else set())
        moment[0] = due
        assert is_due(connection, PROJECT, "publish-7")
    assert tuple(waits) == (*WAITS, WAITS[-1], WAITS[-1])
    with counting_try(connection, PROJECT, "publish-7", "The publish job"):
        pass
    assert tries_begun(connection, PROJECT, "publish-7").count == 0


def test_a_job_that_failed_a_moment_ago_is_not_enqueued_until_it_is_due_or_somebody_asks(
    here: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    queues = here.queues
    moment = [tries.time.time()]
    monkeypatch.setattr(tries.time, "time", lambda: moment[0])

    def publish() -> bool:
        meta = {"project": PROJECT, "kind": "publish"}
        done = ensure_job(
            queues,
            QueueName.PUBLISH,
            "publish-7",
            "al_backend.jobs.publish.publish",
            PROJECT,
            "none",
            timeout=60,
            meta=meta,
        )
        work(here)
        return done

    assert [publish() for _ in range(3)] == [True, True, False], "the ranking does not exist"
    moment[0] += WAITS[1] + 1
    assert [publish(), publish()] == [True, False]
    request_ranking(here.registry, queues, PROJECT)
    assert publish()


def test_shards_that_are_put_off_hold_up_no_others(here: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe, "WINDOW", 1)
    monkeypatch.setattr(perform, "WINDOW", 1)
    vars(here)["inference"] = Poisoned(RuntimeError)
    step(here, SETTINGS)
    ranking = here.registry.rankings(PROJECT)[-1]
    for _ in range(3):
        work(here)
        step(here, SETTINGS)
    assert ranking.shards == 2
    assert here.registry.finished_shards(PROJECT, ranking.id) == {1}, "the first one has failed twice, and waits"


def test_what_was_postponed_counts_as_no_failure_of_its_own(queues: Queues) -> None:
    assert [fail(queues).failed for _ in range(4)] == [0] * 4
    assert tries_begun(queues.connection, PROJECT, "publish-7").count == 4


def test_tries_of_long_ago_are_forgotten(queues: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
    fail(queues)
    assert tries.tries_of(queues.connection, PROJECT).keys() == {"publish-7"}
    later: Any = tries.time.time() + 100_000
    monkeypatch.setattr(tries.time, "time", lambda: later)
    assert tries.tries_of(queues.connection, PROJECT) == {}
