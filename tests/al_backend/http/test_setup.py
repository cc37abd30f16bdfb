"""`/setup`: connects a project and names the current version; cheap, idempotent, silent about secrets."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from al_backend.http.app import create_app
from al_backend.jobs.queues import Queues
from al_backend.registry import Registry
from al_backend.settings import load_settings
from tests.al_backend.http.label_studio_bodies import CLASSIFICATION, LABEL_CONFIG, setup_body

pytestmark = pytest.mark.redis


def test_a_new_project_is_registered_and_looked_at(
    client: FlaskClient, registry: Registry, enqueued: Callable[[], list[Any]]
) -> None:
    answer = client.post("/setup", json=setup_body(extra_params='{"budget": 7}'))

    assert answer.status_code == 200
    assert answer.json == {"model_version": "untrained"}
    record = registry.project(5)
    assert record is not None
    assert (record.label_config, record.overrides) == (LABEL_CONFIG, {"budget": 7})
    assert enqueued() == [("reconcile", [5, "setup"])]


def test_repeating_it_changes_and_enqueues_nothing(client: FlaskClient, registry: Registry, queues: Queues) -> None:
    client.post("/setup", json=setup_body(extra_params={"budget": 7}))
    path = Path(registry.location, "projects", "5", "project.json")
    before = path.stat().st_mtime_ns
    queues.connection.flushall()

    for extra_params in ({"budget": 7}, '{"budget": 7}'):
        assert client.post("/setup", json=setup_body(extra_params=extra_params)).status_code == 200

    assert path.stat().st_mtime_ns == before
    assert queues.connection.dbsize() == 0


@pytest.mark.parametrize(
    "change", [{"schema": LABEL_CONFIG.replace("crab", "eel")}, {"extra_params": {"strategy": "random"}}]
)
def test_another_config_or_other_settings_are_looked_at(
    client: FlaskClient, queues: Queues, enqueued: Callable[[], list[Any]], change: dict[str, Any]
) -> None:
    client.post("/setup", json=setup_body())
    queues.connection.flushall()

    client.post("/setup", json=setup_body(**change))

    assert enqueued() == [("reconcile", [5, "setup"])]


def test_it_names_the_published_version_before_the_active_one(
    client: FlaskClient, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pointer:
        version = "yolov5n-v2-abcdef"

    monkeypatch.setattr(registry, "active", lambda project: Pointer())
    assert client.post("/setup", json=setup_body()).json == {"model_version": "yolov5n-v2-abcdef"}

    registry.write_document(5, "published", {"model_version": "yolov5n-v1-abcdef+r2", "ranking": "r"})
    assert client.post("/setup", json=setup_body()).json == {"model_version": "yolov5n-v1-abcdef+r2"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": CLASSIFICATION}, "RectangleLabels"),
        ({"schema": "<View><Image"}, ""),
        ({"schema": None}, '"schema" is missing'),
        ({"schema": 5}, '"schema" is a number'),
        ({"schema": "\ud800"}, "Unicode"),
        ({"project": None}, '"project" is missing'),
        ({"project": "five"}, "'five'"),
        ({"project": True}, "project id"),
        ({"project": -1}, "project id"),
        ({"project": "9" * 40}, "project id"),
        ({"extra_params": "{"}, "extra params"),
        ({"extra_params": [1]}, "of type list"),
        ({"extra_params": {"budgett": 5}}, "budgett"),
        ({"extra_params": {"budget": "many"}}, "budget"),
    ],
)
def test_what_cannot_be_served_is_refused_with_a_sentence(
    client: FlaskClient,
    registry: Registry,
    enqueued: Callable[[], list[Any]],
    changes: dict[str, Any],
    words: str,
) -> None:
    answer = client.post("/setup", json=setup_body(**changes))

    assert answer.status_code == 400
    assert answer.json is not None
    assert words in answer.json["error"]
    assert registry.projects() == []
    assert enqueued() == []


def test_the_sentence_is_the_reason_phrase_because_label_studio_shows_only_that(client: FlaskClient) -> None:
    answer = client.post("/setup", json=setup_body(extra_params={"bud\r\nget": 5}))

    assert answer.status.startswith("400 Extra params of the model connection: bud get")
    assert "\n" not in answer.status
    assert answer.json is not None
    assert "\r\n" in answer.json["error"]


def test_the_owners_token_reaches_neither_log_nor_registry(
    client: FlaskClient, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    client.post("/setup", json=setup_body())
    client.post("/setup", data=json.dumps(setup_body())[:-1])
    client.post("/setup", json=setup_body(schema=CLASSIFICATION))

    assert "owners-secret-token" not in caplog.text
    for file in Path(registry.location).rglob("*.json"):
        assert "owners-secret-token" not in file.read_text()


def test_nothing_is_registered_while_it_could_not_be_worked_on(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "registry"))
    settings = load_settings(model_dir=registry.location, redis_url=f"unix://{tmp_path}/none.sock", data_dir=tmp_path)

    answer = create_app(settings, registry=registry).test_client().post("/setup", json=setup_body())

    assert answer.status_code == 503
    assert answer.json is not None
    assert "Redis" in answer.json["error"]
    assert registry.projects() == []
