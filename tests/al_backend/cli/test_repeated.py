"""Every command that changes something, twice: the second time finds its work done."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from al_backend.cli import app
from al_backend.jobs.embedded_redis import EmbeddedRedis
from al_backend.jobs.queues import QueueName, Queues
from al_backend.registry import Registry
from tests.al_backend.sample_version import sample_version

pytestmark = pytest.mark.redis

PROJECT = 3
MOMENT = datetime(2026, 3, 1, tzinfo=timezone.utc)
V1, V2 = "yolov5n-v1-aaaaaa", "yolov5n-v2-bbbbbb"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_server: EmbeddedRedis, queues: Queues) -> Registry:
    for name, value in (
        ("MODEL_DIR", str(tmp_path / "models")),
        ("AL_DATA_DIR", str(tmp_path / "data")),
        ("REDIS_URL", redis_server.start().url),
    ):
        monkeypatch.setenv(name, value)
    made = Registry(str(tmp_path / "models"))
    made.register_project(PROJECT, label_config="<View/>", overrides={})
    for name in (V1, V2):
        files = tmp_path / name
        files.mkdir()
        (files / "weights").write_bytes(b"w")
        version = sample_version(name, PROJECT, MOMENT, classes=("fish",))
        made.add_version(version, files)
    made.promote(PROJECT, V1, reason="first")
    return made


def run(*arguments: str) -> Any:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.stdout + result.stderr
    return json.loads(result.stdout)


def state(registry: Registry, queues: Queues) -> dict[str, Any]:
    """Everything in the registry and in the queues, but for the moments and names of requests."""
    files = {}
    for path in sorted(Path(registry.location).rglob("*.json")):
        content = json.loads(path.read_text())
        if path.stem.endswith("_request"):
            content = {key: value for key, value in content.items() if key not in ("id", "requested_at")}
        files[str(path.relative_to(registry.location))] = content
    return {"files": files, "queues": {name.value: len(queues.queue(name).get_job_ids()) for name in QueueName}}


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "3", "--no-wait"),
        ("train", "3", "--no-wait", "--from-scratch"),
        ("rank", "3", "--no-wait", "--strategy", "random", "--budget", "5"),
        ("promote", "3", V2),
        ("promote", "3", V1),
        ("cancel", "3"),
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_twice_is_the_same_as_once(registry: Registry, queues: Queues, arguments: tuple[str, ...]) -> None:
    run(*arguments)
    once = state(registry, queues)
    run(*arguments)
    assert state(registry, queues) == once
    assert once["queues"]["reconcile"] <= 1, "a second look waits"


def test_cancelling_a_request_twice_keeps_the_moment_of_the_first(registry: Registry, queues: Queues) -> None:
    run("train", "3", "--no-wait")
    run("rank", "3", "--no-wait")
    first = run("cancel", "3")
    assert (first["training"], first["ranking"]) == ("requested", "requested")
    once = state(registry, queues)
    second = run("cancel", "3")
    assert (second["training"], second["ranking"]) == (None, None)
    assert state(registry, queues) == once


def test_a_rollback_goes_one_further_back_each_time_and_then_says_so(registry: Registry) -> None:
    """The one command that means something else the second time."""
    run("promote", "3", V2)
    assert run("rollback", "3")["version"] == V1
    before = registry.active(PROJECT)
    result = CliRunner().invoke(app, ["rollback", "3"])
    assert result.exit_code == 1
    assert "no version to go back to" in result.stderr
    assert registry.active(PROJECT) == before
