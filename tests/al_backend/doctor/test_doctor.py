"""What the doctor finds: each trap is made, and its sentence is expected."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from PIL import Image

from al_backend.connect import ConnectReport, connect
from al_backend.demo.server import LabelStudioServer
from al_backend.doctor import Finding, Level, examine
from al_backend.jobs.client import error_key
from al_backend.jobs.liveness import living_worker
from al_backend.jobs.queues import EmbeddedRedis, QueueName, Queues
from al_backend.jobs.tries import counting_try
from al_backend.labelstudio.client import LabelStudio
from al_backend.registry import Ranking, Registry
from al_backend.settings import Settings, load_settings
from tests.al_backend.sample_version import sample_version
from tests.al_backend.served_app import LABEL_CONFIG, served


def by_check(findings: list[Finding]) -> dict[str, Finding]:
    """The findings by name; a check that says two things is named once, the worse first."""
    ranked = sorted(findings, key=lambda finding: [Level.ERROR, Level.WARNING, Level.OK].index(finding.level))
    return {finding.check: finding for finding in reversed(ranked)}


@pytest.fixture
def nothing_there(tmp_path: Path) -> Settings:
    return load_settings(
        label_studio_url="http://127.0.0.1:9",
        model_dir=str(tmp_path / "registry"),
        data_dir=tmp_path / "data",
        redis_url=f"unix://{tmp_path}/none.sock",
        public_url="http://127.0.0.1:9",
    )


def test_with_nothing_there_everything_is_named(nothing_there: Settings) -> None:
    found = by_check(examine(nothing_there, 1))

    assert {name for name, finding in found.items() if not finding.ok} == {"redis", "web server", "label studio"}
    assert "does not answer" in found["redis"].message
    assert "http://127.0.0.1:9/health does not answer from here" in found["web server"].message
    assert "http://127.0.0.1:9 does not answer" in found["label studio"].message
    assert all(finding.remedy for finding in found.values() if not finding.ok)
    assert found["registry"].ok
    json.dumps([finding.as_dict() for finding in found.values()])
    assert "->" in str(found["redis"])


@pytest.mark.parametrize(
    ("status", "content"),
    [(200, b"<html>Hello</html>"), (200, b'{"status": "UP"}'), (200, b"5"), (200, b""), (404, b"none"), (405, b"{}")],
)
def test_another_program_at_the_address_of_label_studio(nothing_there: Settings, status: int, content: bytes) -> None:
    """Label Studio takes the next port without a word when its own is taken, and that program may know /health, too."""

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Other)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    changes = {"label_studio_url": f"http://127.0.0.1:{server.server_port}", "label_studio_api_key": "0" * 40}
    found = by_check(examine(load_settings(**(nothing_there.model_dump() | changes)), 1))["token"]
    server.shutdown()
    thread.join()
    server.server_close()

    assert found.level is Level.ERROR
    assert "not as Label Studio does" in found.message
    assert "takes the next one" in found.remedy


def test_a_registry_that_cannot_be_written(nothing_there: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    found = by_check(examine(nothing_there.model_copy(update={"model_dir": str(tmp_path / "file")})))

    assert found["registry"].level is Level.ERROR
    assert "MODEL_DIR" in found["registry"].remedy


def test_a_remote_registry_is_written_for_trial(nothing_there: Settings) -> None:
    found = by_check(examine(nothing_there.model_copy(update={"model_dir": "memory://doctor"})))

    assert found["registry"].ok
    assert Registry("memory://doctor").projects() == []


def test_a_full_disk(nothing_there: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("al_backend.doctor.surroundings.LEAST_FREE_GIB", 10**9)

    assert by_check(examine(nothing_there))["disk"].level is Level.WARNING


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({"basic_auth_user": "ann"}, Level.ERROR, "BASIC_AUTH_PASS"),
        ({"webhook_secret": "hook"}, Level.WARNING, "WEBHOOK_SECRET"),
        ({"host": "0.0.0.0"}, Level.WARNING, "without a password"),
        ({}, Level.OK, "this machine only"),
        ({"basic_auth_user": "ann", "basic_auth_pass": "secret"}, Level.OK, "A password is set"),
    ],
)
def test_authentication(tmp_path: Path, changes: dict[str, Any], level: Level, words: str) -> None:
    base = {"redis_url": f"unix://{tmp_path}/none.sock", "public_url": "http://127.0.0.1:9"}
    settings = load_settings(
        model_dir=str(tmp_path), data_dir=tmp_path, label_studio_url="http://127.0.0.1:9", **(base | changes)
    )

    finding = by_check(examine(settings))["authentication"]

    assert finding.level is level
    assert words in finding.message


@pytest.mark.redis
def test_a_queue_without_a_worker_is_named(
    nothing_there: Settings, redis_server: EmbeddedRedis, queues: Queues
) -> None:
    settings = nothing_there.model_copy(update={"redis_url": redis_server.url})
    with living_worker(queues.connection, [QueueName.PREDICT, QueueName.SCORE]):
        found = by_check(examine(settings))

    assert found["redis"].ok
    missing = {name for name, finding in found.items() if name.startswith("worker ") and not finding.ok}
    assert missing == {"worker reconcile", "worker publish", "worker train"}
    assert "0 workers on queue train" in found["worker train"].message
    assert "al-backend worker --queues train" in found["worker train"].remedy


class Patient:
    """A connected project of a real Label Studio, to be made ill."""

    def __init__(self, settings: Settings, client: LabelStudio, registry: Registry, project: int) -> None:
        self.settings = settings
        self.client = client
        self.registry = registry
        self.project = project
        self.report: ConnectReport = connect(settings, client, registry, project)

    def examine(self) -> dict[str, Finding]:
        return by_check(examine(self.settings, self.project))

    def patch(self, **fields: Any) -> None:
        self.client.request("PATCH", f"/api/projects/{self.project}/", body=fields)


@pytest.fixture
def patient(
    label_studio: LabelStudioServer, tmp_path: Path, redis_server: EmbeddedRedis, queues: Queues
) -> Iterator[Patient]:
    client = LabelStudio(label_studio.url, label_studio.token)
    made = client.create_project("Reef", LABEL_CONFIG)
    with served(
        label_studio,
        tmp_path,
        queues,
        redis_url=redis_server.url,
        basic_auth_user="ann",
        basic_auth_pass="secret",
    ) as (settings, registry):
        yield Patient(settings, client, registry, made.id)
    client.delete_project(made.id)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    content = io.BytesIO()
    Image.new("RGB", (40, 30), "teal").save(content, "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(content.getvalue())
    return path


@pytest.mark.labelstudio
@pytest.mark.redis
def test_a_healthy_project_has_nothing_but_time_to_wait_for(patient: Patient, queues: Queues, picture: Path) -> None:
    patient.client.upload_images(patient.project, [picture])

    with living_worker(queues.connection, list(QueueName)):
        found = patient.examine()

    assert {name for name, finding in found.items() if not finding.ok} == {"model version"}
    assert "No order is published yet" in found["model version"].message
    assert "40 x 30 pixels" in found["image"].message
    assert patient.settings.own_url in found["web server"].message
    assert "admin@example.com" in found["token"].message


@pytest.mark.labelstudio
@pytest.mark.redis
def test_more_than_one_member(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    # The community edition has no way to add a member, so this one answer is made up.
    monkeypatch.setattr(LabelStudio, "members", lambda self, project: 2)

    finding = patient.examine()["annotators"]

    assert finding.level is Level.WARNING
    assert "2 members" in finding.message
    assert "Label Tasks As Displayed" in finding.remedy


@pytest.mark.labelstudio
@pytest.mark.redis
def test_a_project_that_is_not_connected(patient: Patient) -> None:
    patient.client.delete_ml_backend(patient.report.backend)
    patient.client.delete_webhook(patient.report.webhook)
    patient.registry.forget_project(patient.project)

    found = patient.examine()

    for check in ("model connection", "webhook", "registry entry"):
        assert found[check].level is Level.ERROR, check
        assert f"al-backend connect {patient.project}" in found[check].remedy


@pytest.mark.labelstudio
@pytest.mark.redis
def test_a_backend_whose_password_label_studio_does_not_know(
    label_studio: LabelStudioServer, tmp_path: Path, queues: Queues
) -> None:
    client = LabelStudio(label_studio.url, label_studio.token)
    project = client.create_project("Reef", LABEL_CONFIG).id
    with served(label_studio, tmp_path, queues) as (settings, registry):
        connect(settings, client, registry, project)
        port = httpx.URL(settings.own_url).port or 0
    password: dict[str, Any] = {"basic_auth_user": "ann", "basic_auth_pass": "secret"}
    with served(label_studio, tmp_path, queues, port=port, **password) as (settings, _):
        found = by_check(examine(settings, project))

    assert found["web server"].ok
    assert found["model connection"].level is Level.ERROR
    assert "expected Connected" in found["model connection"].message
    assert "BASIC_AUTH_PASS" in found["model connection"].remedy
    client.delete_project(project)


@pytest.mark.labelstudio
@pytest.mark.redis
def test_labels_that_the_active_version_does_not_know(patient: Patient, tmp_path: Path) -> None:
    now = datetime.now(timezone.utc)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "weights").write_bytes(b"x")
    version = sample_version("yolov5n-v1-abcdef", patient.project, now, classes=("crab",))
    patient.registry.add_version(version, tmp_path / "files")
    patient.registry.promote(patient.project, version.name, reason="first")

    finding = patient.examine()["labels"]

    assert finding.level is Level.WARNING
    assert "cannot predict fish: it knows crab" in finding.message


@pytest.mark.labelstudio
@pytest.mark.redis
def test_an_image_that_cannot_be_had(patient: Patient) -> None:
    for value, words in (
        ("http://127.0.0.1:9/a.png", "127.0.0.1:9, from which images are not read"),
        ("data:image/png;base64,AAAA", "cannot be had"),
        # Served only below a storage of the project, and then only with LOCAL_FILES_SERVING_ENABLED.
        ("/data/local-files/?d=none/a.png", "answered 40"),
        ("s3://bucket/a.png", "no storage of the project covers it"),
    ):
        patient.client.import_tasks(patient.project, [{"data": {"image": value}}])

        finding = patient.examine()["image"]

        assert finding.level is Level.ERROR, value
        assert words in finding.message
        assert "AL_IMAGE_HOSTS" in finding.remedy
        patient.client.action(patient.project, "delete_tasks")


@pytest.mark.labelstudio
@pytest.mark.redis
def test_what_failed_last_is_told(patient: Patient, queues: Queues) -> None:
    queues.connection.set(error_key(patient.project), "LabelStudioError: no answer")
    attempt = {"digest": "d", "count": 1, "started_at": "2026-01-01T00:00:00+00:00", "error": "CUDA out of memory"}
    patient.registry.write_document(patient.project, "attempt", attempt)
    for _ in range(2):
        with suppress(OSError), counting_try(queues.connection, patient.project, "publish-1", "The publish job"):
            raise OSError("no answer")
    ranking = Ranking(
        id="v1",
        project=patient.project,
        version="v1",
        model_version="v1",
        strategy={},
        context={},
        created_at=datetime.now(timezone.utc),
        tasks=0,
        shard_size=1,
        shards=1,
    )
    patient.registry.create_ranking(ranking, pl.DataFrame(schema={"task_id": pl.Int64}))
    patient.registry.write_document(patient.project, "published", {"ranking": "v1", "model_version": "v1"})
    unreadable = {"count": 2, "first": [{"task": 5, "reason": "It is a text."}]}
    patient.registry.write_head(patient.project, "v1", pl.DataFrame(), {"images": 1, "unreadable": unreadable})

    found = patient.examine()

    assert "no answer" in found["reconcile"].message
    assert "CUDA out of memory" in found["training"].message
    assert found["repeated work"].message.startswith("The publish job was tried 2 times in vain (OSError: no answer)")
    expected = "2 images of the published order could not be read, the first is that of task 5: It is a text."
    assert found["unreadable images"].message == expected


@pytest.mark.labelstudio
def test_keys_that_are_refused(label_studio: LabelStudioServer, nothing_there: Settings) -> None:
    settings = nothing_there.model_copy(update={"label_studio_url": label_studio.url})
    missing = by_check(examine(settings))["token"]
    assert "LABEL_STUDIO_API_KEY is not set" in missing.message

    wrong = load_settings(**(settings.model_dump() | {"label_studio_api_key": "0" * 40}))
    assert "401" in by_check(examine(wrong))["token"].message

    right = load_settings(**(settings.model_dump() | {"label_studio_api_key": label_studio.token}))
    assert by_check(examine(right))["token"].ok
    unknown = by_check(examine(right, 987654))["project"]
    assert unknown.level is Level.ERROR
    assert "404" in unknown.message

    header = {"Authorization": f"Token {label_studio.token}"}
    switch = f"{label_studio.url}/api/jwt/settings"
    session = httpx.Client(base_url=label_studio.url, follow_redirects=True)
    page = session.get("/user/login/")
    form = {
        "email": label_studio.email,
        "password": label_studio.password,
        "csrfmiddlewaretoken": page.cookies["csrftoken"],
    }
    session.post("/user/login/", data=form)
    csrf = {"X-CSRFToken": session.cookies["csrftoken"]}
    try:
        answer = httpx.post(
            switch, json={"api_tokens_enabled": True, "legacy_api_tokens_enabled": False}, headers=header
        )
        assert answer.is_success, answer.text
        disabled = by_check(examine(right))["token"]
    finally:
        session.post(
            "/api/jwt/settings", json={"api_tokens_enabled": True, "legacy_api_tokens_enabled": True}, headers=csrf
        )
    assert "legacy tokens switched off" in disabled.message
    assert "personal access token" in disabled.remedy
    assert by_check(examine(right))["token"].ok
