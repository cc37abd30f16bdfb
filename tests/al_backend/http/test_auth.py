"""Who gets in: the whole matrix of what is configured, what is asked for and what is shown."""

from __future__ import annotations

import base64
import hmac
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask.testing import FlaskClient

from al_backend import __version__
from al_backend.errors import ConfigError
from al_backend.http.app import create_app
from al_backend.registry import Registry
from al_backend.settings import Settings, load_settings

EVERY_ROUTE = [
    ("GET", "/"),
    ("GET", "/health"),
    ("POST", "/setup"),
    ("POST", "/predict"),
    ("POST", "/webhook"),
    ("GET", "/versions"),
    ("POST", "/versions"),
    ("POST", "/job_status"),
    ("POST", "/validate"),
    ("POST", "/train"),
    ("POST", "/delete"),
    ("POST", "/duplicate_model"),
    ("GET", "/ready"),
    ("GET", "/metrics"),
    ("GET", "/jobs"),
    ("GET", "/nowhere"),
    ("DELETE", "/setup"),
]
OPEN = {"/", "/health"}


def make_settings(tmp_path: Path, **changes: Any) -> Settings:
    return load_settings(
        model_dir=str(tmp_path / "registry"),
        data_dir=tmp_path,
        redis_url=f"unix://{tmp_path}/none.sock",
        label_studio_url="http://127.0.0.1:9",
        **changes,
    )


def status(settings: Settings, method: str, route: str, header: str | None) -> int:
    client = create_app(settings, registry=Registry(settings.model_dir)).test_client()
    headers = {} if header is None else {"Authorization": header}
    return client.open(route, method=method, headers=headers, data=b"[]" if method == "POST" else None).status_code


def basic(user: str, password: str, encoding: str = "utf-8") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode(encoding)).decode()


@pytest.mark.parametrize(("method", "route"), EVERY_ROUTE)
def test_an_open_backend_asks_nobody(tmp_path: Path, method: str, route: str) -> None:
    assert status(make_settings(tmp_path), method, route, None) != 401


@pytest.mark.parametrize(("method", "route"), EVERY_ROUTE)
def test_with_a_password_only_health_is_open(tmp_path: Path, method: str, route: str) -> None:
    settings = make_settings(tmp_path, basic_auth_user="ann", basic_auth_pass="pa:ss")

    assert (status(settings, method, route, None) == 401) == (route not in OPEN)
    assert status(settings, method, route, basic("ann", "pa:ss")) != 401


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Basic",
        "Basic !!!",
        "Basic " + base64.b64encode(b"ann").decode(),
        "Basic \u00ff\u00fe",
        basic("ann", "wrong"),
        basic("bob", "secret"),
        basic("", ""),
        basic("ann", "secret "),
        "Bearer secret",
        "Token secret",
        "Digest " + base64.b64encode(b"ann:secret").decode(),
    ],
)
def test_wrong_credentials_are_refused_with_a_challenge(tmp_path: Path, header: str) -> None:
    settings = make_settings(tmp_path, basic_auth_user="ann", basic_auth_pass="secret")
    client = create_app(settings).test_client()

    answer = client.get("/versions", headers={"Authorization": header})

    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    assert answer.json is not None
    assert "secret" not in answer.json["error"]


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_password_outside_ascii_is_taken_in_both_encodings(tmp_path: Path, encoding: str) -> None:
    settings = make_settings(tmp_path, basic_auth_user="jörg", basic_auth_pass="größe")

    assert status(settings, "GET", "/versions", basic("jörg", "größe", encoding)) == 200


def test_the_webhook_takes_the_derived_secret_as_well(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, basic_auth_user="ann", basic_auth_pass="secret")
    bearer = f"Bearer {settings.webhook_bearer}"

    assert status(settings, "POST", "/webhook", bearer) == 400
    assert status(settings, "POST", "/webhook/", bearer) == 400
    assert status(settings, "POST", "/webhook", bearer + "x") == 401
    assert status(settings, "POST", "/webhook", bearer.replace("Bearer", "Token")) == 401
    assert status(settings, "POST", "/webhook", "Bearer secret") == 401
    for method, route in EVERY_ROUTE:
        if route not in {*OPEN, "/webhook"}:
            assert status(settings, method, route, bearer) == 401


def test_a_secret_of_its_own_replaces_the_derived_one(tmp_path: Path) -> None:
    password = {"basic_auth_user": "ann", "basic_auth_pass": "secret"}
    derived = make_settings(tmp_path, **password).webhook_bearer
    settings = make_settings(tmp_path, webhook_secret="hook", **password)

    assert status(settings, "POST", "/webhook", "Bearer hook") == 400
    assert status(settings, "POST", "/webhook", f"Bearer {derived}") == 401
    assert status(settings, "POST", "/webhook", basic("ann", "secret")) == 400


def test_a_secret_alone_protects_the_webhook_and_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = make_settings(tmp_path, webhook_secret="hook")

    assert status(settings, "POST", "/webhook", None) == 401
    assert status(settings, "POST", "/webhook", "Bearer hook") == 400
    assert status(settings, "POST", "/setup", None) == 400
    assert "Start Training" in caplog.text


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"basic_auth_user": "ann"}, "BASIC_AUTH_PASS"),
        ({"basic_auth_pass": "secret"}, "BASIC_AUTH_USER"),
        ({"basic_auth_user": "ann", "basic_auth_pass": ""}, "BASIC_AUTH_PASS"),
    ],
)
def test_half_a_password_is_no_password(tmp_path: Path, given: dict[str, str], missing: str) -> None:
    with pytest.raises(ConfigError, match=f"{missing} is not"):
        create_app(make_settings(tmp_path, **given))


def every_route(client: FlaskClient) -> list[tuple[str, str]]:
    """Method and path of every route that the app knows today, whatever it will be tomorrow."""
    return sorted(
        (method, re.sub(r"<[^>]*>", "1", rule.rule))
        for rule in client.application.url_map.iter_rules()
        for method in rule.methods or ()
    )


def test_no_route_but_health_is_open(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, basic_auth_user="ann", basic_auth_pass="a long password")
    client = create_app(settings).test_client()
    routes = every_route(client)
    assert {path for _, path in EVERY_ROUTE} - {"/nowhere"} <= {path for _, path in routes}

    asked = {(method, path): client.open(path, method=method).status_code for method, path in routes}

    assert {path for (_, path), found in asked.items() if found != 401} == OPEN


@pytest.mark.parametrize("path", ["//jobs", "/./jobs", "/jobs/", "/JOBS", "/jobs\0", "/health/../jobs", "/health/jobs"])
def test_another_spelling_of_a_route_is_not_open_either(tmp_path: Path, path: str) -> None:
    settings = make_settings(tmp_path, basic_auth_user="ann", basic_auth_pass="a long password")
    answer = create_app(settings).test_client().get("/", environ_overrides={"PATH_INFO": path})
    assert answer.status_code == 401


@pytest.mark.parametrize(
    ("user", "password"), [("ann", "wrong"), ("bob", "a long password"), ("bob", "wrong"), ("", "")]
)
def test_user_and_password_are_compared_in_constant_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: str, password: str
) -> None:
    """Both are, whatever the first one says: time tells neither how much of a secret was right nor which of them."""
    settings = make_settings(tmp_path, basic_auth_user="ann", basic_auth_pass="a long password")
    compared: list[bytes] = []

    def compare(found: bytes, expected: bytes) -> bool:
        compared.append(expected)
        return hmac.compare_digest(found, expected)

    monkeypatch.setattr("al_backend.http.auth.hmac", SimpleNamespace(compare_digest=compare))

    assert status(settings, "GET", "/versions", basic(user, password)) == 401
    assert set(compared) == {b"ann", b"a long password"}


def test_the_bearer_is_compared_in_constant_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make_settings(tmp_path, webhook_secret="the secret of the hook")
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return hmac.compare_digest(one, other)

    monkeypatch.setattr("al_backend.http.auth.hmac", SimpleNamespace(compare_digest=compare))

    assert status(settings, "POST", "/webhook", "Bearer the secret of the hooks") == 401
    assert {expected for _, expected in compared} == {b"the secret of the hook"}


def test_the_password_cannot_be_guessed_from_the_derived_secret_at_speed(tmp_path: Path) -> None:
    """Members of a project can read the webhook's header, so that the way back to the password has to be slow."""
    began = time.perf_counter()
    for number in range(3):
        assert make_settings(tmp_path, basic_auth_user="a", basic_auth_pass=f"guess {number}").webhook_bearer
    assert (time.perf_counter() - began) / 3 > 0.02


def test_wrong_passwords_are_told_to_the_log_without_flooding_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = make_settings(tmp_path, basic_auth_user="ann", basic_auth_pass="a long password")
    client = create_app(settings).test_client()
    for number in range(50):
        client.get("/jobs", headers={"Authorization": basic("ann", f"guess {number}")})
    client.get("/jobs")  # no password is no wrong one: every browser begins so

    lines = [record.getMessage() for record in caplog.records if "Wrong password" in record.getMessage()]
    assert len(lines) == 1
    assert "127.0.0.1" in lines[0]
    assert "guess" not in caplog.text
    metrics = client.get("/metrics", headers={"Authorization": basic("ann", "a long password")}).text
    assert 'al_backend_requests_total{method="GET",route="/jobs",status="401"} 51.0' in metrics


def test_wrong_passwords_lock_nobody_out(tmp_path: Path) -> None:
    """Label Studio and a guesser may share an address; a lock would be a way to switch the backend off."""
    settings = make_settings(tmp_path, basic_auth_user="ann", basic_auth_pass="a long password")
    client = create_app(settings).test_client()
    for _ in range(200):
        assert client.get("/versions", headers={"Authorization": basic("ann", "wrong")}).status_code == 401
    assert client.get("/versions", headers={"Authorization": basic("ann", "a long password")}).status_code == 200


@pytest.mark.parametrize(("password", "warned"), [("short", True), ("a long password", False)])
def test_a_short_password_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, password: str, warned: bool
) -> None:
    create_app(make_settings(tmp_path, basic_auth_user="ann", basic_auth_pass=password))
    assert ("take a longer one" in caplog.text) is warned
    assert password not in caplog.text


def test_health_tells_its_version_to_those_who_may_know(tmp_path: Path) -> None:
    protected = create_app(make_settings(tmp_path, basic_auth_user="ann", basic_auth_pass="secret")).test_client()
    assert protected.get("/health").json == {"status": "UP", "model_class": "ActiveLearningBackend"}
    known = protected.get("/", headers={"Authorization": basic("ann", "secret")})
    assert known.json == {"status": "UP", "model_class": "ActiveLearningBackend", "version": __version__}
    assert create_app(make_settings(tmp_path)).test_client().get("/health").json == known.json
