"""`/webhook`: every event is a hint, nothing is believed, nobody waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask.testing import FlaskClient

from al_backend.jobs.client import pending_key
from al_backend.jobs.queues import Queues
from al_backend.registry import Registry
from tests.al_backend.http.label_studio_bodies import LABEL_CONFIG, event

pytestmark = pytest.mark.redis

Enqueued = Callable[[], list[Any]]

ACTIONS = [
    "ANNOTATION_CREATED",
    "ANNOTATIONS_CREATED",
    "ANNOTATION_UPDATED",
    "ANNOTATIONS_DELETED",
    "TASKS_CREATED",
    "TASKS_DELETED",
    "PROJECT_UPDATED",
    "LABEL_LINK_CREATED",
    "SOMETHING_NEW",
]


@pytest.mark.parametrize("action", ACTIONS)
def test_every_event_asks_for_one_look(client: FlaskClient, connected: int, enqueued: Enqueued, action: str) -> None:
    answer = client.post("/webhook", json=event(action))

    assert answer.status_code == 200
    assert enqueued() == [("reconcile", [connected, f"webhook {action}"])]


def test_a_burst_of_events_is_one_look(client: FlaskClient, connected: int, enqueued: Enqueued) -> None:
    for _ in range(50):
        assert client.post("/webhook", json=event("ANNOTATION_CREATED")).status_code == 200

    assert len(enqueued()) == 1


@pytest.mark.parametrize("project", [{"id": 5}, 5, "5", "5.1795253337"])
def test_the_project_is_found_in_every_form(
    client: FlaskClient, connected: int, enqueued: Enqueued, project: object
) -> None:
    assert client.post("/webhook", json={"action": "TASKS_CREATED", "project": project}).status_code == 200
    assert len(enqueued()) == 1


def test_an_unknown_project_is_refused(client: FlaskClient, connected: int, enqueued: Enqueued) -> None:
    answer = client.post("/webhook", json=event("ANNOTATION_CREATED", id=77))

    assert answer.status_code == 404
    assert answer.json is not None
    assert "al-backend connect 77" in answer.json["error"]
    assert enqueued() == []


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe\xfa", "not valid JSON"),
        (b'{"action": NaN}', "not valid JSON"),
        (b'{"action": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[]", "a list"),
        (b"null", "missing"),
        (b"{}", '"action" is missing'),
        (b'{"action": 5, "project": {"id": 5}}', '"action" is a number'),
        (b'{"action": "TASKS_CREATED"}', "Send payload"),
        (b'{"action": "TASKS_CREATED", "project": {}}', '"project.id" is missing'),
        (b'{"action": "TASKS_CREATED", "project": {"id": [5]}}', '"project.id" is a list'),
        (b'{"action": "TASKS_CREATED", "project": 5.5}', "5.5"),
        (b'{"action": "TASKS_CREATED", "project": "\\ud800"}', "project id"),
    ],
)
def test_what_is_no_event_is_refused(
    client: FlaskClient, connected: int, enqueued: Enqueued, body: bytes, words: str
) -> None:
    answer = client.post("/webhook", data=body)

    assert answer.status_code == 400
    assert answer.json is not None
    assert words in answer.json["error"]
    assert enqueued() == []


def test_start_training_answers_with_a_job_that_can_be_asked_for(
    client: FlaskClient, connected: int, registry: Registry, enqueued: Enqueued
) -> None:
    answer = client.post("/webhook", json=event("START_TRAINING"))

    assert answer.status_code == 200
    assert answer.json is not None
    assert answer.json["status"] == "ok"
    assert registry.read_document(connected, "train_request") is not None
    assert len(enqueued()) == 1
    status = client.post("/job_status", json={"job": answer.json["job"]})
    assert status.json == {"job_status": "queued"}


def test_our_own_patch_does_not_come_back_for_ever(client: FlaskClient, connected: int, queues: Queues) -> None:
    looks: list[bool] = []
    for model_version in ["", "", "v1", "v1", "v1", "v2", "v2"]:
        body = event("PROJECT_UPDATED", model_version=model_version, task_number=len(looks))
        looks.append(client.post("/webhook", json=body).json["enqueued"])  # type: ignore[index]
        queues.connection.delete(pending_key(connected))  # as the reconcile does when it starts

    assert looks == [True, False, True, False, False, True, False]


def test_a_changed_labelling_config_is_looked_at(client: FlaskClient, connected: int, queues: Queues) -> None:
    client.post("/webhook", json=event("PROJECT_UPDATED"))
    queues.connection.delete(pending_key(connected))

    answer = client.post("/webhook", json=event("PROJECT_UPDATED", label_config=LABEL_CONFIG.replace("crab", "eel")))

    assert answer.json == {"status": "ok", "enqueued": True}


def test_five_hundred_events_from_twenty_senders_are_answered_in_milliseconds(
    client: FlaskClient, connected: int
) -> None:
    body = event("TASKS_CREATED") | {"tasks": [{"id": task, "data": {"image": "x" * 200}} for task in range(100)]}

    def post(number: int) -> float:
        started = time.perf_counter()
        answer = client.application.test_client().post("/webhook", json=body)
        assert answer.status_code == 200
        return time.perf_counter() - started

    with ThreadPoolExecutor(20) as pool:
        seconds = sorted(pool.map(post, range(500)))

    # In one process twenty threads share one core, so a single answer is what the median of a quiet server would be;
    # the 99th percentile under gunicorn is measured in test_serve.
    assert seconds[len(seconds) // 2] < 0.2
