"""The smaller routes of Label Studio, and those for operators."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from al_backend import __version__
from al_backend.http.app import create_app
from al_backend.jobs.liveness import living_worker
from al_backend.jobs.queues import EmbeddedRedis, QueueName, Queues
from al_backend.registry import GateVerdict, Registry, Version
from al_backend.settings import Settings, load_settings
from tests.al_backend.http.label_studio_bodies import CLASSIFICATION, LABEL_CONFIG, setup_body

Enqueued = Callable[[], list[Any]]


@pytest.fixture
def lonely(tmp_path: Path) -> FlaskClient:
    """An app whose Redis and Label Studio are not there."""
    settings = load_settings(
        model_dir=str(tmp_path / "registry"),
        data_dir=tmp_path,
        redis_url=f"unix://{tmp_path}/none.sock",
        label_studio_url="http://127.0.0.1:9",
    )
    return create_app(settings).test_client()


@pytest.fixture
def add_version(registry: Registry, tmp_path: Path) -> Callable[..., None]:
    def add(project: int, number: int) -> None:
        now = datetime.now(timezone.utc)
        folder = tmp_path / f"files-{project}-{number}"
        folder.mkdir()
        (folder / "weights.safetensors").write_bytes(b"weights")
        version = Version(
            name=f"yolov5n-v{number}-abcdef",
            number=number,
            project=project,
            detector="yolov5n",
            classes=("crab", "fish"),
            created_at=now,
            snapshot_at=now,
            labels={},
            label_counts={},
            train_images=30,
            validation_images=10,
            boxes=80,
            metrics={"map50": 0.25 * number},
            training={},
            settings={},
            gate=GateVerdict(promoted=True, reason="first"),
        )
        registry.add_version(version, folder)

    return add


@pytest.mark.parametrize("route", ["/", "/health", "/health/"])
def test_health_needs_nothing(lonely: FlaskClient, route: str) -> None:
    answer = lonely.get(route)

    assert answer.status_code == 200
    assert answer.json == {"status": "UP", "model_class": "ActiveLearningBackend", "version": __version__}


@pytest.mark.parametrize(
    ("method", "route", "body"),
    [
        ("POST", "/setup", setup_body()),
        ("POST", "/job_status", {"job": "x"}),
        ("GET", "/jobs", None),
        ("GET", "/ready", None),
    ],
)
def test_without_redis_there_is_a_sentence(lonely: FlaskClient, method: str, route: str, body: object) -> None:
    answer = lonely.open(route, method=method, json=body)

    assert answer.status_code == 503
    assert answer.json is not None
    assert "Redis" in answer.json["error"]


def test_redis_that_comes_later_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("al_backend.http.services.time.monotonic", lambda: clock[0])
    settings = load_settings(
        model_dir=str(tmp_path / "file" / "registry"), redis_url=f"unix://{tmp_path}/none.sock", data_dir=tmp_path
    )
    (tmp_path / "file").write_text("in the way")
    client = create_app(settings).test_client()
    assert client.get("/versions").status_code == 503

    (tmp_path / "file").unlink()
    assert client.get("/versions").status_code == 503  # remembered for a moment
    clock[0] += 5
    assert client.get("/versions").status_code == 200


@pytest.mark.redis
def test_redis_that_dies_is_a_503_before_label_studio_gives_up(
    settings: Settings, registry: Registry, connected: int, tmp_path: Path
) -> None:
    dying = EmbeddedRedis(tmp_path / "dying").start()
    client = create_app(settings.model_copy(update={"redis_url": dying.url}), registry=registry).test_client()
    body = {"action": "TASKS_CREATED", "project": connected}
    assert client.post("/webhook", json=body).status_code == 200
    dying.stop()

    started = time.monotonic()
    answer = client.post("/webhook", json=body)

    assert time.monotonic() - started < 0.8
    assert answer.status_code == 503
    assert answer.json is not None
    assert "Redis does not answer" in answer.json["error"]
    with dying.start():
        assert client.post("/webhook", json=body).status_code == 200


@pytest.mark.redis
def test_redis_that_hangs_holds_no_thread(
    settings: Settings, registry: Registry, connected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that stalls or a network that swallows packets: it takes requests and never answers."""
    body = {"action": "TASKS_CREATED", "project": connected}
    predict = {"tasks": [{"id": 1, "data": {"image": "a.jpg"}}], "project": f"{connected}.1"}
    with EmbeddedRedis(tmp_path / "hanging") as hanging:
        there = settings.model_copy(update={"redis_url": hanging.url})
        client = create_app(there, registry=registry).test_client()
        assert client.post("/webhook", json=body).status_code == 200
        assert hanging.pid is not None
        os.kill(hanging.pid, signal.SIGSTOP)
        try:
            for path, sent in (("/webhook", body), ("/predict", predict), ("/ready", None)):
                started = time.monotonic()
                answer = client.get(path) if sent is None else client.post(path, json=sent)
                assert time.monotonic() - started < 2.0, path
                assert answer.status_code == 503, path
                assert "Redis does not answer" in (answer.json or {})["error"]
            started = time.monotonic()
            assert client.get("/health").status_code == 200
            assert time.monotonic() - started < 0.5
            monkeypatch.setattr("al_backend.jobs.queues._FIRST_ANSWER", 1.0)
            # A web server that is started now must not hang at its first question either.
            started = time.monotonic()
            assert create_app(there, registry=registry).test_client().post("/webhook", json=body).status_code == 503
            assert time.monotonic() - started < 2.0
        finally:
            os.kill(hanging.pid, signal.SIGCONT)
        assert client.post("/webhook", json=body).status_code == 200


@pytest.mark.redis
def test_versions_of_one_project_and_of_all(
    client: FlaskClient, registry: Registry, connected: int, add_version: Callable[..., None]
) -> None:
    registry.register_project(6, label_config=LABEL_CONFIG, overrides={})
    for project, number in ((5, 1), (5, 2), (6, 1), (6, 3)):
        add_version(project, number)

    every = {"versions": ["yolov5n-v1-abcdef", "yolov5n-v2-abcdef", "yolov5n-v3-abcdef"]}
    of_five = {"versions": ["yolov5n-v1-abcdef", "yolov5n-v2-abcdef"]}
    assert client.get("/versions").json == every
    assert client.post("/versions").json == every
    assert client.get("/versions?project=5").json == of_five
    assert client.post("/versions", json={"project": "5.1795253337"}).json == of_five
    assert client.get("/versions?project=77").status_code == 404


@pytest.mark.redis
@pytest.mark.parametrize("job", ["unknown", "", "a b", "request-train-5-1", "request-train-5-" + "9" * 30, "x" * 300])
def test_an_unknown_job_is_gone(client: FlaskClient, connected: int, job: str) -> None:
    answer = client.post("/job_status", json={"job": job})

    assert answer.status_code == 410
    assert answer.json is not None
    assert "not known" in answer.json["error"]


@pytest.mark.redis
def test_validate(client: FlaskClient) -> None:
    assert client.post("/validate", json={"config": LABEL_CONFIG}).json == {"status": "ok", "labels": ["crab", "fish"]}
    refused = client.post("/validate", json={"config": CLASSIFICATION})
    assert refused.status_code == 400
    assert refused.json is not None
    assert "RectangleLabels" in refused.json["error"]


@pytest.mark.redis
def test_legacy_train_is_start_training(
    client: FlaskClient, registry: Registry, connected: int, enqueued: Enqueued
) -> None:
    answer = client.post("/train", json={"annotations": [], "project": "5.1795253337", "label_config": LABEL_CONFIG})

    assert answer.json is not None
    assert answer.json["job"].startswith("request-train-5-")
    assert registry.read_document(5, "train_request") is not None
    assert len(enqueued()) == 1


@pytest.mark.redis
def test_delete_keeps_the_versions(
    client: FlaskClient, registry: Registry, connected: int, add_version: Callable[..., None]
) -> None:
    add_version(5, 1)

    assert client.post("/delete", json={"project": "5.1795253337"}).status_code == 200

    assert registry.project(5) is None
    assert [version.name for version in registry.versions(5)] == ["yolov5n-v1-abcdef"]
    assert client.post("/delete", json={"project": "5.1795253337"}).status_code == 404


@pytest.mark.redis
def test_duplicate_model_copies_the_connection_and_no_version(
    client: FlaskClient, registry: Registry, enqueued: Enqueued, add_version: Callable[..., None]
) -> None:
    registry.register_project(5, label_config=LABEL_CONFIG, overrides={"budget": 7})
    add_version(5, 1)

    answer = client.post("/duplicate_model", json={"project_src": "5.1", "project_dst": "6.1"})

    assert answer.json == {"status": "ok", "project": 6, "copied": ["label_config", "settings"]}
    record = registry.project(6)
    assert record is not None
    assert (record.label_config, record.overrides) == (LABEL_CONFIG, {"budget": 7})
    assert registry.versions(6) == []
    assert enqueued() == [("reconcile", [6, "duplicate_model"])]


@pytest.mark.redis
def test_duplicate_model_leaves_the_targets_own_labels(client: FlaskClient, registry: Registry) -> None:
    registry.register_project(5, label_config=LABEL_CONFIG, overrides={"budget": 7})
    other = LABEL_CONFIG.replace("crab", "eel")
    registry.register_project(6, label_config=other, overrides={})

    answer = client.post("/duplicate_model", json={"project_src": "5.1", "project_dst": "6.1"})

    assert answer.json == {"status": "ok", "project": 6, "copied": ["settings"]}
    record = registry.project(6)
    assert record is not None
    assert (record.label_config, record.overrides) == (other, {"budget": 7})


class _Healthy(BaseHTTPRequestHandler):
    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def healthy_label_studio() -> Iterator[str]:
    _Healthy.asked = 0
    server = HTTPServer(("127.0.0.1", 0), _Healthy)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.redis
def test_ready_names_each_missing_part(client: FlaskClient) -> None:
    answer = client.get("/ready")

    assert answer.status_code == 503
    assert answer.json is not None
    checks = answer.json["checks"]
    assert {name: check["ok"] for name, check in checks.items()} == {
        "registry": True,
        "redis": True,
        "label_studio": False,
        "workers": False,
        "device": False,
    }
    assert "0 workers on queue reconcile, publish, train, predict, score" in answer.json["error"]
    assert "http://127.0.0.1:9" in answer.json["error"]


@pytest.mark.redis
def test_ready_is_200_when_everything_is_there(
    settings: Settings, registry: Registry, queues: Queues, healthy_label_studio: str
) -> None:
    there = settings.model_copy(update={"label_studio_url": healthy_label_studio})
    client = create_app(there, registry=registry, queues=queues).test_client()

    with living_worker(queues.connection, list(QueueName), device="cuda:0"):
        answers = [client.get("/ready") for _ in range(5)]

    assert [answer.status_code for answer in answers] == [200] * 5
    assert answers[0].json is not None
    assert answers[0].json["checks"]["device"]["detail"] == "Workers use cuda:0."
    assert _Healthy.asked == 1  # the look is kept for some seconds


@pytest.mark.redis
def test_one_queue_without_a_worker_is_not_ready(
    settings: Settings, registry: Registry, queues: Queues, healthy_label_studio: str
) -> None:
    there = settings.model_copy(update={"label_studio_url": healthy_label_studio})
    client = create_app(there, registry=registry, queues=queues).test_client()

    with living_worker(queues.connection, [name for name in QueueName if name is not QueueName.TRAIN]):
        answer = client.get("/ready")

    assert answer.status_code == 503
    assert answer.json is not None
    assert answer.json["error"].startswith("0 workers on queue train;")


@pytest.mark.redis
def test_jobs_lists_what_waits(client: FlaskClient, connected: int) -> None:
    client.post("/webhook", json={"action": "TASKS_CREATED", "project": connected})

    answer = client.get("/jobs")

    assert answer.json is not None
    assert answer.json["queues"]["reconcile"]["depth"] == 1
    assert [(job["queue"], job["project"], job["status"]) for job in answer.json["jobs"]] == [
        ("reconcile", 5, "queued")
    ]


def sample(text: str, name: str, **labels: str) -> float | None:
    for family in text_string_to_metric_families(text):
        for found in family.samples:
            if found.name == name and labels.items() <= found.labels.items():
                return found.value
    return None


@pytest.mark.redis
def test_metrics_tell_requests_queues_and_versions(
    client: FlaskClient, registry: Registry, connected: int, queues: Queues, add_version: Callable[..., None]
) -> None:
    add_version(5, 1)
    add_version(5, 2)
    registry.promote(5, "yolov5n-v2-abcdef", reason="better")
    registry.write_document(5, "published", {"model_version": "yolov5n-v2-abcdef", "tasks": 41})
    client.post("/webhook", json={"action": "TASKS_CREATED", "project": connected})
    client.post("/webhook", data=b"{")
    for number in range(3):
        client.get(f"/nowhere/{number}")
    client.open("/predict", method="BREW")

    with living_worker(queues.connection, [QueueName.TRAIN]):
        answer = client.get("/metrics")

    text = answer.get_data(as_text=True)
    assert answer.content_type.startswith("text/plain")
    assert sample(text, "al_backend_requests_total", route="/webhook", status="200") == 1
    assert sample(text, "al_backend_requests_total", route="/webhook", status="400") == 1
    assert sample(text, "al_backend_requests_total", route="unknown", status="404") == 3
    assert sample(text, "al_backend_requests_total", method="other", status="405") == 1
    assert sample(text, "al_backend_request_seconds_count", route="/webhook") == 2
    assert sample(text, "al_backend_queue_depth", queue="reconcile") == 1
    assert sample(text, "al_backend_workers", queue="train") == 1
    assert sample(text, "al_backend_workers", queue="predict") == 0
    assert sample(text, "al_backend_redis_up") == 1
    assert sample(text, "al_backend_versions", project="5") == 2
    assert sample(text, "al_backend_labelled_images", project="5") == 40
    assert sample(text, "al_backend_active_map50", project="5", version="yolov5n-v2-abcdef") == 0.5
    assert sample(text, "al_backend_published_tasks", project="5") == 41


def test_metrics_say_that_redis_is_away(lonely: FlaskClient) -> None:
    answer = lonely.get("/metrics")

    assert answer.status_code == 200
    assert sample(answer.get_data(as_text=True), "al_backend_redis_up") == 0


def test_the_web_process_loads_no_detector() -> None:
    code = "import sys, al_backend.http.app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
