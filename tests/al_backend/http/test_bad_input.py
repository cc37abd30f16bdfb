"""Whatever is sent: one sentence and a 4xx, never a 5xx, and nothing is enqueued."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from al_backend.http.app import create_app
from al_backend.http.bodies import LARGEST_SHORT_BODY, LONG_BODIES
from al_backend.jobs.queues import Queues
from al_backend.logs import TextFormatter
from al_backend.masking import Masker
from al_backend.registry import Registry
from al_backend.settings import Settings
from tests.al_backend.http.label_studio_bodies import CLASSIFICATION, LABEL_CONFIG

pytestmark = pytest.mark.redis

REQUESTS = int(os.environ.get("AL_TEST_FUZZ", "10000"))
"""That are sent by the fuzzer."""

LONGEST_SECONDS = 20.0
"""That a request may take; on a busy machine everything has pauses."""

POST_ROUTES = [
    "/setup",
    "/predict",
    "/webhook",
    "/versions",
    "/job_status",
    "/validate",
    "/train",
    "/delete",
    "/duplicate_model",
]


@pytest.mark.parametrize("route", POST_ROUTES)
@pytest.mark.parametrize("body", [b"{", b"[]", b"5", b'"x"', b"\x00\xff", b"{}" + b"x" * 10])
def test_a_body_that_is_no_object_is_refused(
    client: FlaskClient, connected: int, enqueued: Callable[[], list[Any]], route: str, body: bytes
) -> None:
    answer = client.post(route, data=body)

    assert answer.status_code == 400
    assert answer.json is not None
    assert list(answer.json) == ["error"]
    assert answer.json["error"].startswith("The body is")
    assert enqueued() == []


@pytest.mark.parametrize(
    ("method", "route", "status", "sentence"),
    [
        ("GET", "/nowhere", 404, "There is no /nowhere here."),
        ("POST", "/nowhere", 404, "There is no /nowhere here."),
        ("GET", "/setup", 405, "/setup takes POST, not GET."),
        ("DELETE", "/versions", 405, "/versions takes GET, POST, not DELETE."),
        ("POST", "/health", 405, "/health takes GET, not POST."),
        ("BREW", "/predict", 405, "/predict takes POST, not BREW."),
    ],
)
def test_unknown_routes_and_methods(client: FlaskClient, method: str, route: str, status: int, sentence: str) -> None:
    answer = client.open(route, method=method)

    assert answer.status_code == status
    assert answer.json == {"error": sentence}


@pytest.mark.parametrize("route", ["/train", "/delete", "/versions", "/duplicate_model", "/predict", "/webhook"])
def test_an_unknown_project_is_404_everywhere(
    client: FlaskClient, registry: Registry, enqueued: Callable[[], list[Any]], route: str
) -> None:
    body = {
        "project": "77.1795253337",
        "project_src": "77.1",
        "project_dst": "78.1",
        "action": "TASKS_CREATED",
        "tasks": [{"id": 1, "data": {}}],
    }

    answer = client.post(route, json=body)

    assert answer.status_code == 404
    assert answer.json is not None
    assert "Project 77 is not connected" in answer.json["error"]
    assert enqueued() == []
    assert registry.projects() == []


def test_a_request_over_the_limit_is_refused(client: FlaskClient) -> None:
    client.application.config["MAX_CONTENT_LENGTH"] = 1000

    answer = client.post("/webhook", data=b"x" * 1001)

    assert answer.status_code == 413
    assert answer.json is not None
    assert "fewer tasks" in answer.json["error"]


def test_the_limit_is_tens_of_megabytes(client: FlaskClient) -> None:
    assert 32e6 < client.application.config["MAX_CONTENT_LENGTH"] < 128e6


def test_a_surprise_is_told_to_the_log_and_not_to_the_caller(
    client: FlaskClient, connected: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("private detail")

    monkeypatch.setattr("al_backend.jobs.client.enqueue_reconcile", fail)

    answer = client.post("/webhook", json={"action": "TASKS_CREATED", "project": connected})

    assert answer.status_code == 500
    assert answer.json == {"error": "Internal error; the backend's log has the details."}
    assert "private detail" in caplog.text
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("route", sorted(set(POST_ROUTES) - LONG_BODIES))
def test_short_bodies_have_a_lower_limit(client: FlaskClient, route: str) -> None:
    answer = client.post(route, data=b"{" + b" " * LARGEST_SHORT_BODY)
    assert answer.status_code == 413


@pytest.mark.parametrize("route", sorted(LONG_BODIES))
def test_what_label_studio_sends_of_all_tasks_is_longer(client: FlaskClient, route: str) -> None:
    answer = client.post(route, data=b"{" + b" " * LARGEST_SHORT_BODY)
    assert answer.status_code == 400


def test_a_body_without_an_announced_length_is_limited_too(client: FlaskClient) -> None:
    # As gunicorn hands over a chunked body: nobody knows its end before it is read.
    surroundings = {"wsgi.input": _Endless(), "wsgi.input_terminated": True}
    assert client.post("/setup", environ_overrides=surroundings).status_code in (400, 413), "cut off, or refused"


class _Endless(io.RawIOBase):
    """A body that never ends; reading on and on fails the test."""

    def __init__(self) -> None:
        self.given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.given += len(buffer)
        assert self.given < 10 * LARGEST_SHORT_BODY, "nobody stops reading"
        buffer[:] = b" " * len(buffer)
        return len(buffer)


@pytest.mark.parametrize("route", POST_ROUTES)
@pytest.mark.parametrize("opening", [b"[", b'{"project":', b'{"project":['])
def test_json_of_any_depth_is_refused_and_not_a_crash(client: FlaskClient, route: str, opening: bytes) -> None:
    answer = client.post(route, data=opening * 100_000)
    assert answer.status_code == 400
    assert answer.json is not None
    assert answer.json["error"].startswith("The body is n")


def test_json_that_is_deep_inside_a_project_does_no_harm(
    client: FlaskClient, connected: int, enqueued: Callable[[], list[Any]]
) -> None:
    """As deep as the parser takes: what the route does with it, such as a digest, must take it too."""
    deep: Any = 0
    for _ in range(400):
        deep = [deep]
    project = {"id": connected, "label_config": deep, "sampling": {"a": deep}}
    answer = client.post("/webhook", json={"action": "PROJECT_UPDATED", "project": project})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "action", ["A\nWARNING root: forged", "A\r\nSet-Cookie: x=1", "A\x1b[2J", "A\u2028B", "A\x00B"]
)
def test_what_a_webhook_says_cannot_forge_a_log_line_or_a_header(
    client: FlaskClient, connected: int, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter(Masker()))
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    monkeypatch.setattr(logging.getLogger(), "level", logging.DEBUG)
    answer = client.post("/webhook", json={"action": action, "project": connected})
    assert answer.status_code == 200
    wrong = client.post("/webhook", json={"action": "A", "project": action})
    assert wrong.status_code == 400
    logging.getLogger("al_backend.test").warning("Event %s", action)
    try:
        raise ValueError(action)
    except ValueError:
        logging.getLogger("al_backend.test").exception("Failed")
    for line in [*stream.getvalue().splitlines(), wrong.status, *wrong.headers.values()]:
        assert not line.startswith(("WARNING root", "Set-Cookie"))
        assert not any(char in line for char in "\r\x1b\x00\u2028")


def test_an_error_names_no_file_and_no_line_of_code(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(2, "No such file or directory", "/srv/private/place")

    monkeypatch.setattr("al_backend.http.routes_label_studio.parse_extra_params", fail)
    answer = client.post("/setup", json={"project": 5, "schema": LABEL_CONFIG})
    assert answer.status_code == 500
    assert answer.json == {"error": "Internal error; the backend's log has the details."}
    assert not any(part in str(answer.headers) + answer.text for part in ("/srv", "Traceback", ".py"))


def test_long_names_come_back_short(client: FlaskClient) -> None:
    answer = client.get("/" + "x" * 5000)
    assert answer.status_code == 404
    assert len(answer.data) < 500


# Fuzzing: shapes close to the real ones find more than random bytes, so known keys and values are mixed in.
_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([5, "5", "5.1795253337", 77, "\ud800", "²", "../../etc/passwd"])
    | st.sampled_from([LABEL_CONFIG, CLASSIFICATION, "START_TRAINING", "PROJECT_UPDATED"])
    | st.sampled_from(["request-train-5-1795253337000", "request-train-5-" + "9" * 30, "request-x.-5-1"])
)
_keys = (
    st.sampled_from(["project", "action", "tasks", "id", "data", "schema", "extra_params", "config", "job"])
    | st.sampled_from(["project_src", "project_dst", "label_config", "model_version", "budget", "detector"])
    | st.text(max_size=5)
)
_json = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_keys, inner, max_size=6),
    max_leaves=20,
)
_bodies = (
    st.binary(max_size=200)
    | _json.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(_keys, _json, max_size=10).map(lambda value: json.dumps(value).encode())
)


_queries = st.text(max_size=20).map(lambda text: text.encode("utf-8", "replace").decode())


def test_no_body_ever_gives_a_5xx(settings: Settings, registry: Registry, queues: Queues) -> None:
    """Every body goes to every route that takes one, a text to every route as its query: ten thousand requests.

    There is no worker, so that the one 5xx is the documented 503 of `/predict` and `/ready`.
    """
    app = create_app(settings, registry=registry, queues=queues)
    client = app.test_client()
    routes = sorted(
        (rule.rule, method)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"OPTIONS"}
        if not rule.rule.startswith("/dashboard")
    )
    answered: Counter[int] = Counter()
    registry.register_project(5, label_config=LABEL_CONFIG, overrides={})

    @given(body=_bodies, query=_queries)
    @hypothesis_settings(
        max_examples=math.ceil(REQUESTS / len(routes)), deadline=None, suppress_health_check=list(HealthCheck)
    )
    def fuzz(body: bytes, query: str) -> None:
        for route, method in routes:
            sent = {"data": body} if method == "POST" else {"query_string": {"project": query, query: query}}
            began = time.monotonic()
            answer = client.open(route, method=method, **sent)
            assert time.monotonic() - began < LONGEST_SECONDS, route
            status = answer.status_code
            assert status < 500 or (status == 503 and route in ("/predict", "/ready")), (route, body, answer.text)
            if method != "HEAD" and answer.is_json:
                assert isinstance(answer.json, dict)
                assert status < 400 or route == "/ready" or isinstance(answer.json["error"], str)
            answered[status] += 1
            if route == "/delete" and status == 200:
                registry.register_project(5, label_config=LABEL_CONFIG, overrides={})

    fuzz()
    assert answered.total() >= REQUESTS
    assert {200, 400, 503} <= set(answered), answered


_parts = st.sampled_from(["5", "77", "0", "-1", "9" * 30, "train", "promote", "rollback", "rank", "dashboard.css"]) | (
    st.text(min_size=1, max_size=12).map(lambda text: text.encode("utf-8", "replace").decode())
)
_asked = st.dictionaries(st.sampled_from(["from", "version", "token", "budget", "strategy", "scratch", "x"]), _parts)


def test_no_address_of_the_dashboard_ever_gives_a_5xx(settings: Settings, registry: Registry, queues: Queues) -> None:
    app = create_app(settings, registry=registry, queues=queues)
    client = app.test_client()
    registry.register_project(5, label_config=LABEL_CONFIG, overrides={})
    rules = [rule for rule in app.url_map.iter_rules() if rule.rule.startswith("/dashboard")]
    answered: Counter[int] = Counter()

    @given(parts=st.lists(_parts, min_size=2, max_size=2), asked=_asked)
    @hypothesis_settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
    def fuzz(parts: list[str], asked: dict[str, str]) -> None:
        for rule in rules:
            path = rule.rule
            for part in parts:
                path = re.sub(r"<[^>]*>", quote(part, safe=""), path, count=1)
            for method in sorted((rule.methods or set()) - {"OPTIONS"}):
                sent: dict[str, Any] = {"data": asked} if method == "POST" else {"query_string": asked}
                began = time.monotonic()
                answer = client.open(path, method=method, **sent)
                assert time.monotonic() - began < LONGEST_SECONDS, path
                assert answer.status_code < 500, (method, path, asked, answer.text)
                answered[answer.status_code] += 1

    fuzz()
    assert {200, 403, 404} <= set(answered), answered
