"""What a person can do from the dashboard, and who cannot."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from al_backend.http.app import create_app
from al_backend.jobs.context import job_name
from al_backend.jobs.liveness import ensure_job
from al_backend.jobs.queues import QueueName, Queues
from al_backend.registry import Registry
from al_backend.settings import Settings, load_settings
from tests.al_backend.http.dashboard.seeding import Seeded

pytestmark = pytest.mark.redis

Enqueued = Callable[[], list[tuple[str, Any]]]


def form_of(client: FlaskClient, action: str, version: str = "") -> tuple[str, dict[str, str]]:
    """Address and fields of the form that asks."""
    answer = client.get(f"/dashboard/projects/5/confirm/{action}", query_string={"version": version} if version else {})
    page = answer.get_data(as_text=True)
    assert answer.status_code == 200, page
    address = re.search(r'<form [^>]*action="([^"]+)"', page)
    assert address is not None
    return address[1], dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page))


def act(client: FlaskClient, action: str, version: str = "", **more: str) -> TestResponse:
    address, fields = form_of(client, action, version)
    return client.post(address, data=fields | more)


def notice(client: FlaskClient, answer: TestResponse) -> str:
    assert answer.status_code == 303
    page = client.get(answer.headers["Location"]).get_data(as_text=True)
    found = re.search(r'role="status">([^<]+)<', page)
    assert found is not None
    return found[1]


def test_train_now(client: FlaskClient, seeded: Seeded, registry: Registry, enqueued: Enqueued) -> None:
    said = notice(client, act(client, "train"))
    assert said.startswith("A training is asked for")
    request = registry.read_document(5, "train_request")
    assert request is not None
    assert request["from_scratch"] is False
    assert enqueued() == [("reconcile", [5, "train requested"])]


def test_train_from_scratch(client: FlaskClient, seeded: Seeded, registry: Registry) -> None:
    act(client, "train", from_scratch="1")
    request = registry.read_document(5, "train_request")
    assert request is not None
    assert request["from_scratch"] is True


def test_rank_now(client: FlaskClient, seeded: Seeded, registry: Registry, enqueued: Enqueued) -> None:
    assert notice(client, act(client, "rank")).startswith("A ranking is asked for")
    assert registry.read_document(5, "rank_request") is not None
    assert enqueued() == [("reconcile", [5, "rank requested"])]


def test_promote_a_refused_version(client: FlaskClient, seeded: Seeded, registry: Registry, enqueued: Enqueued) -> None:
    refused = seeded.versions[2].name
    page = client.get(f"/dashboard/projects/5/confirm/promote?version={refused}").get_data(as_text=True)
    assert "The gate refused this version" in page
    assert notice(client, act(client, "promote", refused)).startswith("The active version has changed")
    pointer = registry.active(5)
    assert pointer is not None
    assert (pointer.version, pointer.reason) == (refused, "promoted by hand in the dashboard")
    assert len(enqueued()) == 1


def test_roll_back(client: FlaskClient, seeded: Seeded, registry: Registry) -> None:
    before = registry.active(5)
    assert before is not None
    assert before.previous is not None
    act(client, "rollback")
    after = registry.active(5)
    assert after is not None
    assert after.version == before.previous


def test_the_doctor_looks_and_his_words_are_kept(client: FlaskClient, seeded: Seeded, registry: Registry) -> None:
    assert notice(client, act(client, "examine")).startswith("The doctor is looking")
    deadline = time.monotonic() + 60
    while registry.read_document(5, "doctor") is None:
        assert time.monotonic() < deadline, "the doctor did not come back"
        time.sleep(0.1)
    page = client.get("/dashboard/projects/5/health").get_data(as_text=True)
    assert '<h2 id="group-error">Errors' in page
    assert "http://127.0.0.1:9 does not answer" in page
    overview = client.get("/dashboard").get_data(as_text=True)
    assert re.search(r"\d errors?<", overview)


def test_a_doctor_who_breaks_down_says_so(
    client: FlaskClient, seeded: Seeded, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("created_at")

    monkeypatch.setattr("al_backend.http.dashboard.examinations.examine", broken)
    act(client, "examine")
    deadline = time.monotonic() + 10
    while registry.read_document(5, "doctor") is None:
        assert time.monotonic() < deadline, "the doctor did not come back"
        time.sleep(0.01)
    page = client.get("/dashboard/projects/5/health").get_data(as_text=True)
    assert "Unexpected KeyError: &#39;created_at&#39;" in page
    assert "could not look" in client.get("/dashboard").get_data(as_text=True)


@pytest.mark.parametrize(
    ("action", "query", "status"),
    [("promote", "?version=gone", 404), ("promote", "", 404), ("explode", "", 404), ("promote", "?version=../x", 404)],
)
def test_what_makes_no_sense_is_refused(
    client: FlaskClient, seeded: Seeded, action: str, query: str, status: int
) -> None:
    assert client.get(f"/dashboard/projects/5/confirm/{action}{query}").status_code == status


def test_the_active_version_is_not_promoted_again(client: FlaskClient, seeded: Seeded) -> None:
    answer = client.get(f"/dashboard/projects/5/confirm/promote?version={seeded.versions[-1].name}")
    assert answer.status_code == 400


def test_nothing_to_rank_with_and_nothing_to_go_back_to(client: FlaskClient, connected: int) -> None:
    for action in ("rank", "rollback"):
        assert client.get(f"/dashboard/projects/{connected}/confirm/{action}").status_code == 400


class TestOthers:
    """Requests that did not come from a page of ours do nothing."""

    @pytest.fixture
    def refused(
        self, client: FlaskClient, seeded: Seeded, registry: Registry, enqueued: Enqueued
    ) -> Callable[..., None]:
        def check(fields: dict[str, str] | None = None, said: str = "Nothing was done", **headers: str) -> None:
            address, own = form_of(client, "rollback")
            before = registry.active(5)
            answer = client.post(address, data=own if fields is None else fields, headers=headers)
            assert answer.status_code == 403
            assert said in answer.get_data(as_text=True)
            assert registry.active(5) == before
            assert enqueued() == []

        return check

    def test_without_a_token(self, refused: Callable[..., None]) -> None:
        refused({})

    @pytest.mark.parametrize("token", ["1.abc", "x.y", "", "9" * 40 + ".a", "\u0663.a", "1799999999.\u00e9"])
    def test_with_a_made_up_token(self, refused: Callable[..., None], token: str) -> None:
        refused({"csrf_token": token})

    def test_with_the_token_of_another_server(
        self, refused: Callable[..., None], settings: Settings, registry: Registry, queues: Queues, tmp_path: Any
    ) -> None:
        other = load_settings(**(settings.model_dump() | {"data_dir": tmp_path / "other"}))
        _, fields = form_of(create_app(other, registry=registry, queues=queues).test_client(), "rollback")
        refused(fields)

    def test_with_an_old_token(
        self, client: FlaskClient, refused: Callable[..., None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patched:
            then = time.time() - 13 * 3600
            patched.setattr("al_backend.http.dashboard.csrf.time.time", lambda: then)
            _, fields = form_of(client, "rollback")
        refused(fields)

    @pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1"])
    def test_from_another_origin(self, refused: Callable[..., None], origin: str) -> None:
        refused(said="another site", Origin=origin)

    @pytest.mark.parametrize("site", ["cross-site", "same-site"])
    def test_when_the_browser_says_so(self, refused: Callable[..., None], site: str) -> None:
        refused(said="another site", **{"Sec-Fetch-Site": site})

    def test_looking_at_an_actions_address_does_nothing(self, client: FlaskClient, seeded: Seeded) -> None:
        assert client.get("/dashboard/projects/5/do/rollback").status_code == 405


def test_our_own_pages_are_let_in_also_behind_a_proxy(
    settings: Settings, registry: Registry, queues: Queues, seeded: Seeded
) -> None:
    changed = load_settings(**(settings.model_dump() | {"public_url": "https://al.example.org"}))
    client = create_app(changed, registry=registry, queues=queues).test_client()
    address, fields = form_of(client, "train")
    headers = {"Origin": "https://al.example.org", "Sec-Fetch-Site": "same-origin"}
    assert client.post(address, data=fields, headers=headers).status_code == 303


def test_without_redis_nothing_is_asked_and_a_page_says_so(
    seeded: Seeded, settings: Settings, registry: Registry
) -> None:
    alone = load_settings(**(settings.model_dump() | {"redis_url": "redis://127.0.0.1:1/0"}))
    client = create_app(alone, registry=registry).test_client()
    answer = act(client, "train")
    assert answer.status_code == 503
    assert "does not answer" in answer.get_data(as_text=True)
    assert registry.read_document(5, "train_request") is None
    # A pointer is moved all the same: the next look carries it to Label Studio.
    assert "when Redis and the workers run again" in notice(client, act(client, "rollback"))


def test_two_processes_of_one_machine_know_the_same_secret(
    settings: Settings, registry: Registry, queues: Queues, seeded: Seeded
) -> None:
    first, second = (create_app(settings, registry=registry, queues=queues).test_client() for _ in range(2))
    address, fields = form_of(first, "train")
    assert second.post(address, data=fields).status_code == 303
    secret = settings.data_dir / "dashboard-secret"
    assert secret.stat().st_mode & 0o077 == 0


def test_cancel_what_runs(client: FlaskClient, seeded: Seeded, registry: Registry, queues: Queues) -> None:
    ensure_job(
        queues,
        QueueName.TRAIN,
        job_name("train", 5),
        "al_backend.jobs.training.train",
        5,
        False,
        timeout=100,
        meta={"project": 5, "kind": "train"},
    )
    page = client.get("/dashboard/projects/5").get_data(as_text=True)
    assert "waits for a worker" in page
    assert "confirm/cancel" in page
    assert notice(client, act(client, "cancel")).startswith("It is cancelled")
    assert queues.queue(QueueName.TRAIN).count == 0
    assert notice(client, act(client, "cancel")).startswith("There was nothing to cancel")


def test_a_version_without_weights_is_not_promoted(client: FlaskClient, seeded: Seeded, registry: Registry) -> None:
    gone = seeded.versions[0].name
    assert f"version={gone}" in client.get("/dashboard/projects/5/versions").get_data(as_text=True)
    for _ in range(2):  # the first time a version only begins to leave
        registry.retain(5, [seeded.versions[-1].name], grace=timedelta(0))
    page = client.get("/dashboard/projects/5/versions").get_data(as_text=True)
    assert "weights removed" in page
    assert f"version={gone}" not in page
    assert client.get(f"/dashboard/projects/5/confirm/promote?version={gone}").status_code == 400
