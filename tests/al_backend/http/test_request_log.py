"""One event for every request, and an id that leads from the answer to the log and the job."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from rq.job import Job

from al_backend import logs
from al_backend.http import request_log
from al_backend.http.request_log import HEADER
from al_backend.jobs.queues import QueueName, Queues
from tests.al_backend.http.label_studio_bodies import event

pytestmark = pytest.mark.redis


class Recorder(logging.Handler):
    """Events with the fields that they carried."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.events: list[tuple[str, str, dict[str, Any]]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.events.append((record.levelname, record.getMessage(), dict(logs.fields())))


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    found = Recorder()
    level = request_log.logger.level
    request_log.logger.addHandler(found)
    request_log.logger.setLevel(logging.DEBUG)
    yield found
    request_log.logger.removeHandler(found)
    request_log.logger.setLevel(level)


def test_an_event_names_project_task_and_request(
    client: FlaskClient, connected: int, queues: Queues, recorder: Recorder
) -> None:
    body = event("ANNOTATION_CREATED") | {"task": {"id": 31}}
    answer = client.post("/webhook", json=body, headers={HEADER: "trace-1"})
    assert answer.headers[HEADER] == "trace-1"
    ((level, message, fields),) = recorder.events
    assert level == "INFO"
    assert message.startswith("POST /webhook 200 in ")
    assert fields == {"request": "trace-1", "project": connected, "task": 31, "kind": "ANNOTATION_CREATED"}
    (job_id,) = queues.queue(QueueName.RECONCILE).get_job_ids()
    job = Job.fetch(job_id, connection=queues.connection, serializer=queues.serializer)
    assert job.meta["request"] == "trace-1"
    assert logs.fields() == {}, "the next request of this thread begins anew"


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "ä", 'x"y'])
def test_a_name_that_is_none_is_replaced(client: FlaskClient, given: str) -> None:
    first = client.get("/health", headers={HEADER: given}).headers[HEADER]
    second = client.get("/health").headers[HEADER]
    assert len(first) == len(second) == 12
    assert first != second


def test_what_monitors_ask_again_and_again_is_for_debugging(client: FlaskClient, recorder: Recorder) -> None:
    client.get("/health")
    client.get("/nowhere?token=secret-in-a-query")
    (quiet, loud) = recorder.events
    assert quiet[0] == "DEBUG"
    assert loud[0] == "INFO"
    assert "secret" not in loud[1]


def test_a_failing_request_is_a_warning(client: FlaskClient, recorder: Recorder, connected: int) -> None:
    body = {"project": connected, "tasks": [{"id": 1, "data": {"image": "a"}}], "label_config": ""}
    assert client.post("/predict", json=body).status_code == 503
    assert recorder.events[-1][0] == "WARNING"


def test_a_task_is_taken_for_one_only_where_it_is_a_number(client: FlaskClient, recorder: Recorder) -> None:
    for task in ("31", {"id": "31"}, {"id": True}, [31], None, {"id": 2**70}):
        client.post("/webhook", json=event("ANNOTATION_CREATED") | {"task": task})
        assert "task" not in recorder.events[-1][2], task
