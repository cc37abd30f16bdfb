"""What `up` and `worker` start, with which settings, and that all of it comes up and goes down."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from al_backend.errors import ConfigError
from al_backend.jobs.embedded_redis import EmbeddedRedis
from al_backend.jobs.queues import QueueName
from al_backend.processes import child_environment, queue_names, run_everything, run_workers, worker_children
from al_backend.settings import Settings, load_settings


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_children_get_exactly_our_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = load_settings(
        budget=7,
        class_weights=False,
        strategy="random",
        label_studio_api_key="secret",
        port=9191,
        data_dir=tmp_path / "a b",
        image_hosts=("images.example.org", "*"),
        reconcile_every=2.5,
        verify_ssl=False,
    )
    for name in [name for name in os.environ if name.startswith(("AL_", "LABEL_STUDIO_"))]:
        monkeypatch.delenv(name)
    for name, value in child_environment(given).items():
        monkeypatch.setenv(name, value)
    assert load_settings() == given


def test_defaults_are_left_to_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields:
        monkeypatch.delenv(f"AL_{field.upper()}", raising=False)
    assert "AL_BUDGET" not in child_environment(load_settings())


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("train", (QueueName.TRAIN,)),
        ("predict, score", (QueueName.PREDICT, QueueName.SCORE)),
        ("train,train,", (QueueName.TRAIN,)),
    ],
)
def test_queue_names(text: str, names: tuple[QueueName, ...]) -> None:
    assert queue_names(text) == names


@pytest.mark.parametrize("text", ["", " , ", "guess", "train,Train"])
def test_wrong_queue_names_are_refused_with_the_right_ones(text: str) -> None:
    with pytest.raises(ValueError, match="queues are reconcile"):
        queue_names(text)


def test_every_queue_has_one_process_and_training_has_its_own() -> None:
    children = worker_children(tuple(QueueName), {"REDIS_URL": "unix:///redis.sock"})
    queues = {child.name: child.command[-1].split(",") for child in children}
    assert sorted(name for names in queues.values() for name in names) == sorted(QueueName)
    assert queues["train"] == ["train"]
    assert {"predict", "score"} == set(queues["inference"])
    assert all(child.environment == {"REDIS_URL": "unix:///redis.sock"} for child in children)
    (alone,) = worker_children((QueueName.PREDICT,), {})
    assert alone.command[-1] == "predict"


def test_a_taken_port_is_said_before_anything_starts(tmp_path: Path, port: int) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(ConfigError, match="set PORT to another, for the other commands too"):
            run_everything(load_settings(port=port, data_dir=tmp_path, redis_url=None))
    assert not (tmp_path / "redis").exists()


def test_workers_without_redis_are_told_what_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    with pytest.raises(ConfigError, match="al-backend up"):
        run_workers(load_settings(data_dir=tmp_path), (QueueName.TRAIN,))


@pytest.mark.redis
@pytest.mark.slow
def test_up_brings_everything_up_and_takes_everything_down(tmp_path: Path, port: int) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "MODEL_DIR")}
    command = [sys.executable, "-m", "al_backend.cli", "up", "--port", str(port)]
    root = Path(__file__).resolve().parents[2]
    environment |= {"AL_DATA_DIR": str(tmp_path), "MODEL_DIR": str(tmp_path / "models"), "LOG_FORMAT": "json"}
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(command, cwd=root, env=environment, stderr=log) as process,
    ):
        try:
            ready = _wait_for_workers(process, port)
            assert ready["checks"]["redis"]["ok"]
            family = psutil.Process(process.pid).children(recursive=True)
            assert len(family) >= 7, "Redis, two of the web server, four workers"
            with pytest.raises(ConfigError, match="AL_DATA_DIR"):
                EmbeddedRedis(tmp_path).start()
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=40) == 0
    assert not [member for member in family if member.is_running() and member.status() != psutil.STATUS_ZOMBIE]
    said = (tmp_path / "log").read_text(encoding="utf-8")
    events = [json.loads(line) for line in said.splitlines()]
    assert {event.get("process") for event in events} >= {"web", "inference", "cycle", "train", None}
    assert {"gunicorn.error", "al_backend.jobs.workers", "al_backend.processes"} <= {
        event["logger"] for event in events
    }
    assert not [event for event in events if event["logger"] == "stdout"], "somebody prints in a format of its own"
    assert "Traceback" not in said


def _wait_for_workers(process: subprocess.Popen[bytes], port: int) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, "it ended before it was up"
        try:
            ready: dict[str, Any] = json.loads(httpx.get(f"http://127.0.0.1:{port}/ready", timeout=5).text)
            if ready["checks"]["workers"]["ok"]:
                return ready
        except (httpx.HTTPError, KeyError):
            pass
        time.sleep(0.5)
    raise AssertionError("the workers did not come up in time")
