"""What jobs keep for people to look at: the last look, last log lines, memory."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from rq.job import Job

from al_backend import cycle
from al_backend.jobs.context import Context
from al_backend.jobs.liveness import living_worker, workers
from al_backend.jobs.load import loads, telling_load
from al_backend.jobs.log_tail import LINES, keeping_log, log_tail
from al_backend.jobs.observe import Observation
from al_backend.jobs.observed import OBSERVED, note_observation, read_observed
from al_backend.jobs.queues import QueueName, Queues
from al_backend.labelstudio.labeling_config import parse_labeling_config
from al_backend.labelstudio.records import Task
from al_backend.settings import load_settings
from tests.al_backend.http.label_studio_bodies import LABEL_CONFIG

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


@pytest.fixture
def here(tmp_path: Path) -> Context:
    made = Context(load_settings(model_dir=str(tmp_path / "registry"), data_dir=tmp_path / "data"))
    made.registry.register_project(5, label_config=LABEL_CONFIG, overrides={})
    return made


def look(here: Context, labels: int, *, trained: int = 0) -> None:
    digests = {task: f"d{task}" for task in range(labels)}
    pool = tuple(range(labels, 50))
    snapshot = cycle.Snapshot(("crab", "fish"), digests, pool, "v1", frozenset(), {}, frozenset({48, 49, 99}), (), NOON)
    seen = Observation(snapshot, [Task(task, {}) for task in pool], parse_labeling_config(LABEL_CONFIG), "Reef")
    known = cycle.TrainedOn("v1", {str(task): f"d{task}" for task in range(trained)}, NOON) if trained else None
    note_observation(here, 5, seen, cycle.State(trained_on=known), here.learning(5))


class TestObserved:
    def test_the_numbers_of_the_last_look(self, here: Context) -> None:
        assert read_observed(here.registry, 5) is None
        look(here, 25, trained=20)
        found = read_observed(here.registry, 5)
        assert found is not None
        assert (found.title, found.labels, found.new_labels, found.missing_labels) == ("Reef", 25, 5, 15)
        assert (found.pool, found.scored, found.model_version, found.taken) == (25, 2, "v1", ())

    def test_the_same_numbers_are_written_once_in_a_while(self, here: Context, monkeypatch: pytest.MonkeyPatch) -> None:
        moment = NOON
        monkeypatch.setattr("al_backend.jobs.observed.now", lambda: moment)
        look(here, 25)
        moment += timedelta(minutes=4)
        look(here, 25)
        assert at(here) == NOON
        moment += timedelta(minutes=2)
        look(here, 25)
        assert at(here) == moment
        moment += timedelta(seconds=1)
        look(here, 26)
        assert at(here) == moment, "new numbers are written at once"

    def test_a_document_of_another_release_is_written_anew(self, here: Context) -> None:
        here.registry.write_document(5, OBSERVED, {"labels": 3})
        look(here, 25)
        assert at(here) > NOON


def at(here: Context) -> datetime:
    found = read_observed(here.registry, 5)
    assert found is not None
    return found.at


@pytest.mark.redis
class TestLog:
    def test_the_last_lines_of_a_job(self, queues: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
        job = Job.create("x.y", connection=queues.connection, id="train-5", serializer=queues.serializer)
        monkeypatch.setattr("al_backend.jobs.log_tail.get_current_job", lambda: job)
        logger = logging.getLogger("al_backend.test")
        logger.setLevel(logging.INFO)
        with keeping_log(queues.connection):
            for number in range(LINES + 5):
                logger.info("line %d", number)
        logger.info("after the job")
        lines = log_tail(queues, "train-5")
        assert len(lines) == LINES
        assert lines[0].endswith("line 5")
        assert lines[-1].endswith(f"line {LINES + 4}")
        assert log_tail(queues, "train-5", 1) == lines[-1:]
        with keeping_log(queues.connection):
            assert log_tail(queues, "train-5") == [], "a new run begins anew"

    def test_outside_of_a_job_nothing_is_kept(self, queues: Queues) -> None:
        with keeping_log(queues.connection):
            logging.getLogger("al_backend.test").warning("nobody's line")
        assert not queues.connection.keys("al:log:*")


@pytest.mark.redis
def test_workers_say_what_they_use(queues: Queues) -> None:
    connection = queues.connection
    with living_worker(connection, [QueueName.TRAIN], kind="train", device="cpu"):
        living = workers(connection)
        assert loads(connection, living) == [{}], "one of an older release says nothing"
        with telling_load(connection):
            [load] = loads(connection, living)
            assert 10_000_000 < load["memory"] < load["machine"]
        assert loads(connection, living) == [{}]
    assert loads(connection, []) == []
