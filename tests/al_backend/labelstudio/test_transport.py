"""Authorization, retries and error sentences, against answers made up here."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from al_backend.errors import ConfigError, LabelStudioError
from al_backend.labelstudio.client import LabelStudio
from al_backend.labelstudio.transport import TokenAuth
from al_backend.settings import load_settings

LEGACY = "0123456789abcdef0123456789abcdef01234567"
Handler = Callable[[httpx.Request], httpx.Response]


def jwt(**claims: Any) -> str:
    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'HS256'})}.{part(claims)}.c2lnbmF0dXJl"


PAT = jwt(token_type="refresh", exp=4_000_000_000)


def client(handler: Handler, key: str = LEGACY, url: str = "http://ls.test") -> LabelStudio:
    found = LabelStudio(url, key, verify_ssl=False)
    found._http = httpx.Client(transport=httpx.MockTransport(handler), auth=found.auth)
    return found


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waits: list[float] = []
    monkeypatch.setattr("al_backend.labelstudio.transport.time.sleep", waits.append)
    return waits


class TokenServer:
    """Label Studio's token exchange: every exchange gives another access token; old ones can be forgotten."""

    def __init__(self, lifetime: int = 300, clock: float = 0.0) -> None:
        self.lifetime, self.clock = lifetime, clock
        self.exchanges = 0
        self.valid: set[str] = set()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/token/refresh/":
            assert json.loads(request.content) == {"refresh": PAT}
            assert "Authorization" not in request.headers
            self.exchanges += 1
            token = jwt(token_type="access", iat=self.clock, exp=self.clock + self.lifetime, n=self.exchanges)
            self.valid.add(token)
            return httpx.Response(200, json={"access": token})
        if request.headers["Authorization"].removeprefix("Bearer ") in self.valid:
            return httpx.Response(200, json={"email": "a@b.test"})
        return httpx.Response(401, json={"detail": "Token is invalid or expired"})


def test_a_legacy_token_is_sent_as_it_is() -> None:
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["Authorization"])
        return httpx.Response(200, json={"email": "a@b.test"})

    assert client(answer).whoami() == {"email": "a@b.test"}
    assert seen == [f"Token {LEGACY}"]


def test_an_access_token_is_kept_while_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    server = TokenServer(clock=12345.0)  # a server whose clock is decades behind ours
    found = client(server, PAT)
    now = time.monotonic()
    monkeypatch.setattr("al_backend.labelstudio.transport.time.monotonic", lambda: now)
    found.whoami()
    now += 269
    found.whoami()
    assert server.exchanges == 1
    now += 2  # less than half a minute left
    found.whoami()
    assert server.exchanges == 2


def test_a_forgotten_access_token_is_replaced_once() -> None:
    server = TokenServer()
    found = client(server, PAT)
    found.whoami()
    server.valid.clear()
    assert found.whoami()["email"] == "a@b.test"
    assert server.exchanges == 2


def test_a_user_without_rights_is_not_asked_forever() -> None:
    calls = []

    def answer(request: httpx.Request) -> httpx.Response:
        calls.append(request.url.path)
        if request.url.path == "/api/token/refresh/":
            return httpx.Response(200, json={"access": jwt(token_type="access", iat=0, exp=300)})
        return httpx.Response(401, json={"detail": "User is inactive"})

    with pytest.raises(LabelStudioError, match="401: User is inactive; check LABEL_STUDIO_API_KEY"):
        client(answer, PAT).whoami()
    assert len(calls) == 4


def test_keys_that_would_not_last_are_refused() -> None:
    with pytest.raises(ConfigError, match="short-lived access token"):
        TokenAuth("http://ls.test", jwt(token_type="access", exp=1))
    for text in ("a.b.c", f"a.{base64.urlsafe_b64encode(b'[]').decode()}.c", "x" * 40, "ü.ü.ü"):
        assert not TokenAuth("http://ls.test", text).exchanges


def test_from_settings() -> None:
    found = LabelStudio.from_settings(
        load_settings(label_studio_url="http://ls.test/", label_studio_api_key=f" {LEGACY}\n", verify_ssl=False)
    )
    assert found.url == "http://ls.test"
    assert found.auth.secrets() == [LEGACY]
    for missing in (None, "  "):
        with pytest.raises(ConfigError, match="LABEL_STUDIO_API_KEY is not set"):
            LabelStudio.from_settings(load_settings(label_studio_api_key=missing))


def test_reads_are_repeated_and_writes_are_not(no_waiting: list[float]) -> None:
    for method, sent in (("GET", 3), ("POST", 1), ("PATCH", 1), ("DELETE", 1)):
        for failure in (httpx.ConnectError("refused"), 503):
            calls: list[httpx.Request] = []

            def answer(
                request: httpx.Request,
                failure: httpx.ConnectError | int = failure,
                calls: list[httpx.Request] = calls,
            ) -> httpx.Response:
                calls.append(request)
                if isinstance(failure, int):
                    return httpx.Response(failure)
                raise failure

            with pytest.raises(LabelStudioError) as error:
                client(answer).request(method, "/api/x")
            assert len(calls) == sent
            assert error.value.status == (503 if failure == 503 else None)
    assert no_waiting == [0.5, 1.0] * 2


def test_a_read_that_times_out_is_not_repeated() -> None:
    calls = []

    def answer(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        raise httpx.ReadTimeout("")

    with pytest.raises(
        LabelStudioError, match=r"Label Studio at http://ls\.test did not answer GET /api/x: ReadTimeout"
    ):
        client(answer).request("GET", "/api/x")
    assert len(calls) == 1


def test_a_read_that_recovers() -> None:
    answers = [httpx.Response(502), httpx.Response(200, json=[1])]
    assert client(lambda _: answers.pop(0)).request("GET", "/api/x") == [1]


@pytest.mark.parametrize(
    ("response", "sentence"),
    [
        (httpx.Response(400, json={"detail": "no.", "id": "a1"}), "refused POST /api/x with 400: no."),
        (
            httpx.Response(400, json={"detail": "Validation error", "validation_errors": {"title": ["short"]}}),
            '400: Validation error {"title": ["short"]}.',
        ),
        (httpx.Response(400, json={"title": ["short"]}), '400: {"title": ["short"]}.'),
        (httpx.Response(500, html="<html>boom</html>"), "500: an HTML page."),
        (httpx.Response(500, text="a\n  b"), "500: a b."),
        (httpx.Response(502), "502: no reason given."),
        (httpx.Response(400, json={"detail": f"you sent {LEGACY}"}), "400: you sent ***."),
        (
            httpx.Response(301, headers={"location": "https://ls.test/api/x?a=b"}),
            "redirects POST /api/x to https://ls.test/api/x; set LABEL_STUDIO_URL",
        ),
        (httpx.Response(200, html="<html>hello</html>"), "not JSON (text/html"),
    ],
)
def test_refusals_in_words(response: httpx.Response, sentence: str) -> None:
    with pytest.raises(LabelStudioError) as error:
        client(lambda _: response).request("POST", "/api/x", body={})
    assert sentence in str(error.value)
    assert error.value.status == response.status_code


def test_a_long_detail_is_cut() -> None:
    with pytest.raises(LabelStudioError) as error:
        client(lambda _: httpx.Response(400, json={"detail": "x" * 10_000})).request("POST", "/api/x")
    assert len(str(error.value)) < 700


def test_a_password_in_the_address_is_not_shown() -> None:
    with pytest.raises(LabelStudioError) as error:
        client(lambda _: httpx.Response(400), url="http://user:s3cret@ls.test").request("POST", "/api/x")
    assert "s3cret" not in str(error.value)


def test_bodies_are_json_without_nan() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        client(lambda _: httpx.Response(200)).request("POST", "/api/x", body={"score": float("nan")})


def test_an_empty_answer_is_none() -> None:
    assert client(lambda _: httpx.Response(204)).request("DELETE", "/api/x") is None


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("http://ls.test:8080/x", True),
        ("http://LS.test:8080", True),
        ("https://ls.test:8080/x", False),
        ("http://ls.test/x", False),
        ("http://ls.test.evil:8080/x", False),
        ("http://ls.test:8080@evil.test/", False),
    ],
)
def test_the_origin_is_scheme_host_and_port(url: str, same: bool) -> None:
    assert LabelStudio("http://ls.test:8080/path", LEGACY, verify_ssl=False).same_origin(url) is same


def test_a_default_port_is_the_same_as_none() -> None:
    assert LabelStudio("https://ls.test", LEGACY, verify_ssl=False).same_origin("https://ls.test:443/x")


def test_a_backend_refused_for_its_address_is_not_left_half_connected() -> None:
    """Label Studio answers 403 and still stores the connection when one of its two protections is on."""
    rows: list[dict[str, Any]] = [{"id": 1, "url": "http://127.0.0.1:9"}]

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            rows.append({"id": 2, "url": "http://127.0.0.1:9"})
            return httpx.Response(403, json={"detail": "URL resolves to a reserved network address"})
        if request.method == "DELETE":
            rows[:] = [row for row in rows if row["id"] != int(request.url.path.rsplit("/", 1)[1])]
            return httpx.Response(204)
        return httpx.Response(200, json=rows)

    with pytest.raises(LabelStudioError, match=r"reserved network address\. .*ML_BLOCK_LOCAL_IP=false") as error:
        client(answer).add_ml_backend(1, "http://127.0.0.1:9", "Title")
    assert error.value.status == 403
    assert [row["id"] for row in rows] == [1]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"score": None}, "expected a finite number"),
        ({"score": float("nan")}, "expected a finite number"),
        ({"score": float("inf")}, "expected a finite number"),
        ({"model_version": ""}, "both are needed"),
        ({"task": "5"}, "both are needed"),
        ({}, "Two predictions of version v for task 5"),
    ],
)
def test_predictions_that_would_bend_the_order_are_not_sent(fields: dict[str, Any], reason: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise AssertionError("nothing may be sent")

    good = {"task": 5, "score": 0.5, "model_version": "v", "result": []}
    with pytest.raises(ValueError, match=reason):
        client(answer).import_predictions(1, [good, good | fields])


def test_nothing_to_import_asks_nothing() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise AssertionError("nothing may be sent")

    report = client(answer).import_predictions(1, [])
    assert (report.sent, report.created, report.dropped) == (0, 0, ())


def test_a_version_that_does_not_hold_is_an_error() -> None:
    project = {"id": 1, "model_version": "other", "sampling": "Uncertainty sampling"}
    with pytest.raises(LabelStudioError, match="now has 'other' and 'Uncertainty sampling'"):
        client(lambda _: httpx.Response(200, json=project)).publish_model_version(1, "v1")


def test_items_that_got_lost_on_the_way_are_sent_again_and_invalid_ones_are_not_forever() -> None:
    stored: dict[int, dict[str, Any]] = {}
    sent: list[list[int]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/model-versions"):
            return httpx.Response(200, json={"v1": len(stored)})
        if request.url.path == "/api/predictions/":
            return httpx.Response(200, json=list(stored.values()))
        if request.url.path == "/api/tasks":
            return httpx.Response(200, json={"tasks": []})
        items = json.loads(request.content)
        sent.append([item["task"] for item in items])
        # Task 1 gets lost the first time, task 2 is never accepted.
        kept = [item for item in items if item["task"] != 2 and not (item["task"] == 1 and len(sent) == 1)]
        for item in kept:
            row = {"id": item["task"], "created_at": "2026-01-01T00:00:00Z"}
            stored[item["task"]] = row | item
        return httpx.Response(201, json={"created": len(kept)})

    items: list[dict[str, Any]] = [
        {"task": task, "result": [], "score": 0.5, "model_version": "v1"} for task in (1, 2, 3)
    ]
    report = client(answer).import_predictions(7, items, pause=0)
    assert sent == [[1, 2, 3], [1, 2]]
    assert (report.created, report.dropped) == (2, (2,))


@pytest.mark.parametrize(
    "cell",
    ["v1,v10", "v10, v1", ["v1", "v10"], ", ".join(f"old{number:03d}" for number in range(70))[:500]],
    ids=["SQLite", "PostgreSQL", "list", "cut off"],
)
def test_names_of_versions_are_told_apart_in_every_form_of_the_cell(cell: object) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/predictions/":
            row = {"id": 1, "task": 3, "model_version": "v10", "score": 0.5, "created_at": "2026-01-01T00:00:00Z"}
            return httpx.Response(200, json=[row])
        return httpx.Response(200, json={"tasks": [{"id": 3, "predictions_model_versions": cell}]})

    assert client(answer).tasks_with_version(7, "v10") == {3}
    assert client(answer).tasks_with_version(7, "v0") == set()


def test_a_token_that_cannot_be_exchanged_for_a_moment_is_asked_for_again_and_nothing_is_sent_twice(
    no_waiting: list[float],
) -> None:
    calls: list[str] = []
    away = [2]

    def answer(request: httpx.Request) -> httpx.Response:
        calls.append(request.url.path)
        if request.url.path != "/api/token/refresh/":
            return httpx.Response(201, json={"created": 1})
        away[0] -= 1
        if away[0] >= 0:
            return httpx.Response(502, text="Bad Gateway")
        return httpx.Response(200, json={"access": jwt(token_type="access", iat=0, exp=300)})

    assert client(answer, PAT).request("POST", "/api/once", body={}) == {"created": 1}
    assert calls == ["/api/token/refresh/"] * 3 + ["/api/once"]
    away[0] = 100
    with pytest.raises(LabelStudioError, match=r"could not exchange .*: it answered 502 \(Bad Gateway\)\.$") as error:
        client(answer, PAT).whoami()
    assert error.value.status == 502
    assert "LABEL_STUDIO_API_KEY" not in str(error.value)


@pytest.mark.parametrize(
    ("status", "content", "members"),
    [
        (404, {"detail": "Not found."}, 0),
        (200, [{"id": 1}, {"id": 2}], 2),
        (200, {"count": 3, "results": []}, 3),
        (200, {}, 0),
    ],
    ids=["Community", "list", "pages", "nothing"],
)
def test_members_are_counted_in_every_form_of_the_answer(status: int, content: object, members: int) -> None:
    """Community has no way to add one and does not tell; of the other editions no server is at hand."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return httpx.Response(status, json=content)

    assert client(answer).members(7) == members
    assert asked == ["/api/projects/7/members/"]


def test_members_that_may_not_be_asked_for_are_not_taken_for_none() -> None:
    with pytest.raises(LabelStudioError, match="403"):
        client(lambda request: httpx.Response(403, json={"detail": "You may not."})).members(7)
