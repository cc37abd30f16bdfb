"""Who gets in: the whole matrix of what is configured, what is asked for and what is shown."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

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
