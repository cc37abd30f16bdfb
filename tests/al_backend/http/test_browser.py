"""What web pages of strangers can do with a browser that knows our password, and what answers say to browsers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flask import Response
from flask.testing import FlaskClient

from al_backend.http.app import create_app
from al_backend.settings import load_settings

PASSWORD = {"basic_auth_user": "ann", "basic_auth_pass": "a long password"}
EXPECTED = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
VALIDATE = {"config": "<View/>"}


def client_of(tmp_path: Path, **changes: Any) -> FlaskClient:
    settings = load_settings(
        **{"model_dir": str(tmp_path / "registry"), "data_dir": tmp_path, "label_studio_url": "http://127.0.0.1:9"}
        | changes
    )
    return create_app(settings).test_client()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/health", 200), ("GET", "/nowhere", 404), ("PUT", "/setup", 405), ("POST", "/validate", 400)],
)
def test_every_answer_carries_the_headers(tmp_path: Path, method: str, path: str, status: int) -> None:
    answer = client_of(tmp_path).open(path, method=method, data=b"x" if method == "POST" else None)
    assert answer.status_code == status
    assert {name: answer.headers.get(name) for name in EXPECTED} == EXPECTED
    assert "Server" not in answer.headers


def test_a_refused_request_carries_them_too(tmp_path: Path) -> None:
    answer = client_of(tmp_path, **PASSWORD).get("/jobs")
    assert answer.status_code == 401
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_a_view_keeps_the_headers_that_it_sets(tmp_path: Path) -> None:
    client = client_of(tmp_path)

    @client.application.get("/page")
    def page() -> Response:
        return Response("x", headers={"Content-Security-Policy": "default-src 'self'", "Cache-Control": "max-age=5"})

    answer = client.get("/page")
    assert answer.headers.get_all("Content-Security-Policy") == ["default-src 'self'"]
    assert answer.headers.get_all("Cache-Control") == ["max-age=5"]
    assert answer.headers["X-Frame-Options"] == "DENY"


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),  # Label Studio, curl
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://al.example.org"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Origin": "http://localhost"}, True),
        ({"Origin": "http://localhost:80"}, True),
        ({"Origin": "https://al.example.org"}, True),
        ({"Origin": "https://al.example.org:8443"}, False),
        ({"Origin": "https://al.example.org.evil.test"}, False),
        ({"Origin": "http://evil.test"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": ""}, False),
        ({"Origin": "http://[::1"}, False),
        ({"Origin": "http://localhost:99999"}, False),
    ],
)
def test_pages_of_other_sites_cannot_act(tmp_path: Path, headers: dict[str, str], allowed: bool) -> None:
    client = client_of(tmp_path, public_url="https://al.example.org", **PASSWORD)
    answer = client.post("/validate", json=VALIDATE, headers=headers, auth=("ann", "a long password"))
    assert answer.status_code == (400 if allowed else 403)
    assert answer.json is not None
    assert ("another site" in answer.json["error"]) is not allowed


def test_pages_may_read_what_browsers_do_not_show_them(tmp_path: Path) -> None:
    """A page cannot see the answer to a GET of another site, and a GET changes nothing."""
    answer = client_of(tmp_path).get("/health", headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 200
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost:9090", True),
        ("127.0.0.1:9090", True),
        ("[::1]:9090", True),
        ("al.localhost", True),
        ("al.example.org", True),
        ("evil.test:9090", False),
        ("localhost.evil.test", False),
        ("127.0.0.1.evil.test", False),
    ],
)
def test_a_name_that_leads_to_this_machine_opens_nothing(tmp_path: Path, host: str, allowed: bool) -> None:
    """DNS rebinding: the browser of somebody on this machine asks for a stranger's name, which now means us."""
    client = client_of(tmp_path, public_url="https://al.example.org")
    assert client.get("/versions", headers={"Host": host}).status_code == (200 if allowed else 403)


@pytest.mark.parametrize("changes", [PASSWORD, {"host": "0.0.0.0"}])
def test_any_name_will_do_with_a_password_or_for_other_machines(tmp_path: Path, changes: dict[str, str]) -> None:
    answer = client_of(tmp_path, **changes).get(
        "/versions", headers={"Host": "backend.internal:9090"}, auth=("ann", "a long password")
    )
    assert answer.status_code == 200
