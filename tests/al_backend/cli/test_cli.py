"""The command line from outside: what it prints, where, and how it exits."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from al_backend.cli import app
from al_backend.doctor import Finding, Level
from al_backend.errors import BackendError
from al_backend.jobs.client import request_training
from al_backend.jobs.embedded_redis import EmbeddedRedis
from al_backend.jobs.queues import QueueName, Queues
from al_backend.registry import GateVerdict, Registry, Version
from tests.al_backend.sample_version import sample_version

MOMENT = datetime(2026, 3, 1, 12, 30, tzinfo=timezone.utc)
# Fixed: people script against these names.
COMMANDS = ["up", "serve", "worker", "connect", "train", "rank", "status", "versions", "promote", "rollback"]
COMMANDS += ["cancel", "disconnect", "doctor", "simulate", "demo"]


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("REDIS_URL", "LABEL_STUDIO_API_KEY", "LABEL_STUDIO_URL", "LOG_LEVEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MODEL_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("AL_DATA_DIR", str(tmp_path / "data"))
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(str(tmp_path / "models"))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def add_version(registry: Registry, name: str, number: int, *, promoted: bool = True, folder: Path) -> Version:
    version = Version(
        name=name,
        number=number,
        project=3,
        detector="yolov5n",
        classes=("fish",),
        created_at=MOMENT,
        snapshot_at=MOMENT,
        labels={str(task): "digest" for task in range(20 * number)},
        label_counts={"fish": 40},
        train_images=16,
        validation_images=4,
        boxes=40,
        metrics={"map50": 0.5, "map50_95": 0.25},
        training={},
        settings={},
        gate=GateVerdict(promoted=promoted, reason="better than [nothing]"),
    )
    content = folder / name
    content.mkdir(parents=True)
    (content / "weights.bin").write_bytes(b"w")
    registry.add_version(version, content)
    if promoted:
        registry.promote(3, name, reason="gate")
    return version


def replace_module(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    module = types.ModuleType(name)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)


def test_every_command_is_listed_and_explains_itself() -> None:
    listed = run("--help").stdout
    for command in COMMANDS:
        assert f"  {command} " in listed
        assert run(command, "--help").exit_code == 0


def test_help_does_not_wait_for_heavy_modules() -> None:
    heavy = ["torch", "rq", "polars", "flask", "pydantic"]
    code = f"import sys, al_backend.cli; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["train"],
        ["train", "zero"],
        ["status", "0"],
        ["rank", "3", "--budget", "0"],
        ["up", "--port", "70000"],
    ],
)
def test_wrong_use_exits_2(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_a_malformed_setting_exits_2_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AL_BUDGET", "many")
    result = run("versions", "3")
    assert result.exit_code == 2
    assert "AL_BUDGET: " in result.stderr
    assert result.stdout == ""
    monkeypatch.delenv("AL_BUDGET")
    result = run("--log-level", "LOUD", "versions", "3", "--json")
    assert result.exit_code == 2
    assert "LOUD" in json.loads(result.stdout)["error"]


def test_an_expected_error_is_one_sentence(registry: Registry) -> None:
    result = run("promote", "3", "nothing-v1")
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert "nothing-v1" in result.stderr
    assert result.stdout == ""
    result = run("rollback", "3", "--json")
    assert result.exit_code == 1
    assert set(json.loads(result.stdout)) == {"error"}


def test_an_unexpected_error_keeps_its_traceback_for_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise TypeError("a bug")

    monkeypatch.setattr("al_backend.doctor.examine", broken)
    result = run("doctor")
    assert result.exit_code == 1
    assert "TypeError: a bug" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Traceback" in run("--log-level", "DEBUG", "doctor").stderr


def test_versions_as_table_and_json(registry: Registry, tmp_path: Path) -> None:
    assert "No version yet" in run("versions", "3").stdout
    assert json.loads(run("versions", "3", "--json").stdout) == []
    add_version(registry, "yolov5n-v1-aaaaaa", 1, folder=tmp_path)
    add_version(registry, "yolov5n-v2-bbbbbb", 2, promoted=False, folder=tmp_path)
    result = run("versions", "3")
    assert result.exit_code == 0
    first, second = [line for line in result.stdout.splitlines() if "yolov5n-v" in line]
    assert "*" in first
    assert "0.500" in first
    assert "better than [nothing]" in first
    assert "*" not in second
    assert "refused" in second
    document = json.loads(run("versions", "3", "--json").stdout)
    assert [(row["name"], row["labels"], row["active"]) for row in document] == [
        ("yolov5n-v1-aaaaaa", 20, True),
        ("yolov5n-v2-bbbbbb", 40, False),
    ]


def test_an_option_overrides_the_environment(registry: Registry, tmp_path: Path) -> None:
    add_version(registry, "yolov5n-v1-aaaaaa", 1, folder=tmp_path)
    assert json.loads(run("--model-dir", str(tmp_path / "elsewhere"), "versions", "3", "--json").stdout) == []


def test_promote_and_rollback_move_the_pointer_without_redis(registry: Registry, tmp_path: Path) -> None:
    add_version(registry, "yolov5n-v1-aaaaaa", 1, folder=tmp_path)
    add_version(registry, "yolov5n-v2-bbbbbb", 2, promoted=False, folder=tmp_path)
    result = run("promote", "3", "yolov5n-v2-bbbbbb")
    assert result.exit_code == 0, result.stderr
    assert "yolov5n-v2-bbbbbb is active now" in result.stdout
    assert "when the backend runs again" in result.stdout
    document = json.loads(run("rollback", "3", "--json").stdout)
    assert document["version"] == "yolov5n-v1-aaaaaa"
    assert "al-backend up" in document["note"]
    pointer = registry.active(3)
    assert pointer is not None
    assert pointer.version == "yolov5n-v1-aaaaaa"


@pytest.mark.parametrize("command", ["train", "rank", "cancel"])
def test_work_for_a_project_that_is_not_connected_is_refused(command: str) -> None:
    result = run(command, "3")
    assert result.exit_code == 1
    assert "al-backend connect 3" in result.stderr


def test_rank_needs_a_version_and_a_known_strategy(registry: Registry, tmp_path: Path) -> None:
    registry.register_project(3, label_config="<View/>", overrides={})
    assert "al-backend train 3" in run("rank", "3").stderr
    add_version(registry, "yolov5n-v1-aaaaaa", 1, folder=tmp_path)
    unknown = run("rank", "3", "--strategy", "guessing")
    assert unknown.exit_code == 2
    assert "strategy is 'guessing', expected one of: al_vae," in unknown.stderr


def test_before_the_first_training_no_strategy_that_asks_the_head_can_be_chosen(
    registry: Registry, tmp_path: Path
) -> None:
    registry.register_project(3, label_config="<View/>", overrides={})
    cold = sample_version("yolov5n-v0-aaaaaa", 3, MOMENT, knows=())
    (tmp_path / "cold").mkdir()
    (tmp_path / "cold" / "weights.bin").write_bytes(b"w")
    registry.add_version(cold, tmp_path / "cold")
    registry.promote(3, cold.name, reason="cold start")
    assert (
        "until the first training there are random, core_set, typical" in run("rank", "3", "--strategy", "huale").stderr
    )
    assert "strategy is 'typcal', expected one of" in run("rank", "3", "--strategy", "typcal").stderr
    assert "al-backend up" in run("rank", "3", "--strategy", "random").stderr
    assert "al-backend up" in run("rank", "3").stderr, "without one it only lacks a Redis"


def test_without_redis_train_says_what_to_start(registry: Registry) -> None:
    registry.register_project(3, label_config="<View/>", overrides={})
    result = run("train", "3")
    assert result.exit_code == 1
    assert "al-backend up" in result.stderr


def test_worker_refuses_unknown_queues() -> None:
    result = run("worker", "--queues", "predict,guess")
    assert result.exit_code == 2
    assert "guess is no queue" in result.stderr


@pytest.mark.parametrize(("level", "code"), [(Level.OK, 0), (Level.WARNING, 0), (Level.ERROR, 1)])
def test_doctor_exits_by_the_worst_that_it_found(monkeypatch: pytest.MonkeyPatch, level: Level, code: int) -> None:
    asked: list[int | None] = []

    def examine(_settings: object, project: int | None) -> list[Finding]:
        asked.append(project)
        found = Finding("webhook", level is Level.OK, level, "no webhook [gone]", "al-backend connect 3")
        return [Finding("redis", True, Level.OK, "Redis answers."), found]

    monkeypatch.setattr("al_backend.doctor.examine", examine)
    result = run("doctor", "3")
    assert result.exit_code == code
    assert "no webhook [gone]" in result.stdout
    result = run("doctor", "--json")
    assert result.exit_code == code
    assert json.loads(result.stdout)[1]["remedy"] == "al-backend connect 3"
    assert json.loads(result.stdout)[1]["level"] == level.value
    assert asked == [3, None]


def test_connect_passes_its_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Report:
        project: int
        url: str | None
        webhook: int

    def connect(_settings: object, _ls: object, _registry: object, project: int, **options: Any) -> Report:
        url, title = options["url"], options["title"]
        assert options["queues"] is None
        if project == 9:
            raise BackendError("Project 9 has no RectangleLabels.")
        assert title == "Fish"
        return Report(project, url, 5)

    replace_module(monkeypatch, "al_backend.connect", connect=connect, ConnectReport=Report)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "0" * 40)
    result = run("connect", "3", "--url", "http://here:9090", "--title", "Fish", "--json")
    assert json.loads(result.stdout) == {"project": 3, "url": "http://here:9090", "webhook": 5}
    assert "webhook=5" in run("connect", "3", "--title", "Fish").stdout
    assert run("connect", "9").exit_code == 1


@pytest.mark.parametrize("code", [0, 1])
def test_demo_hands_its_options_over(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    seen: dict[str, Any] = {}

    def run_demo(settings: Any, **options: Any) -> int:
        seen.update(options, data_dir=settings.data_dir)
        return code

    replace_module(monkeypatch, "al_backend.demo.run", run_demo=run_demo)
    result = run("demo", "--headless", "--cycles", "2", "--label-studio", "/opt/ls", "--json")
    assert result.exit_code == code
    assert seen["headless"] is True
    assert (seen["cycles"], seen["as_json"], seen["label_studio"]) == (2, True, Path("/opt/ls"))


STATUS = {
    "project": {"id": 3, "title": "Reef [north]", "connected": True},
    "labels": {"images": 24, "new": 4, "missing_until_training": 16, "first_training_at": 20, "train_every": 20},
    "pool": 96,
    "active": {
        "version": "yolov5n-v1-aaaaaa",
        "detector": "yolov5n",
        "classes": ["fish"],
        "labels": 20,
        "boxes": 40,
        "validation_images": 4,
        "map50": None,
        "map50_95": None,
        "created_at": "2026-03-01T12:30:00+00:00",
        "gate": "the first",
    },
    "versions": 1,
    "training": {
        "status": "started",
        "progress": {"phase": "fit", "iteration": 30, "iterations": 600, "eta_seconds": 90.4},
        "attempts": 1,
        "error": None,
    },
    "ranking": {
        "id": "r1",
        "version": "yolov5n-v1-aaaaaa",
        "strategy": {"name": "uncertainty"},
        "tasks": 96,
        "shards": 6,
        "finished_shards": 2,
        "created_at": "2026-03-01T12:31:00+00:00",
    },
    "published": None,
    "unreadable": [{"task": task, "reason": "no such file [404]"} for task in range(12)],
    "problems": [f"task {task}: a label that the config does not name" for task in range(100, 111)],
    "workers": {"train": 1, "predict": 0},
    "jobs": [{"kind": "score", "status": "queued", "project": 3, "progress": None}],
    "notes": ["No worker takes the queues predict; start `al-backend worker`."],
}


def test_status_shows_what_a_person_asks_first(monkeypatch: pytest.MonkeyPatch, redis_server: Any) -> None:
    replace_module(monkeypatch, "al_backend.status", project_status=lambda *_: STATUS)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "0" * 40)
    monkeypatch.setenv("REDIS_URL", redis_server.start().url)
    result = run("status", "3")
    assert result.exit_code == 0, result.stderr
    for words in (
        "Reef [north]",
        "24 (4 since the last training)",
        "until the next training",
        "16",
        "mAP50 not measured",
        "fit 30/600, about 90 s left",
        "2 of 6 shards",
        "nothing yet",
        "predict 0",
        "12 images cannot be read",
        "task 9: no such file [404]",
        "a label that the config does not name",
        "! No worker takes the queues predict",
    ):
        assert words in result.stdout, words
    assert "task 10:" not in result.stdout
    assert "task 110:" not in result.stdout
    assert result.stdout.count("`--json` lists all") == 2
    assert json.loads(run("status", "3", "--json").stdout) == STATUS


@pytest.mark.redis
def test_cancel_says_what_it_stopped_and_that_nothing_ran(
    registry: Registry, queues: Queues, redis_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_server.start().url)
    registry.register_project(3, label_config="<View/>", overrides={})
    assert "Nothing to cancel" in run("cancel", "3").stdout
    request_training(registry, queues, 3)
    result = run("cancel", "3", "--ranking")
    assert "Nothing to cancel" in result.stdout, result.stderr
    assert "does not start" in run("cancel", "3").stdout
    document = json.loads(run("cancel", "3", "--json").stdout)
    assert document == {"project": 3, "training": None, "ranking": None, "removed_jobs": 0}


@pytest.mark.redis
def test_disconnect_takes_out_what_it_reaches_and_says_what_stays(
    registry: Registry, queues: Queues, redis_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_server.start().url)
    monkeypatch.delenv("LABEL_STUDIO_API_KEY", raising=False)
    registry.register_project(3, label_config="<View/>", overrides={})
    registry.register_project(4, label_config="<View/>", overrides={})
    add_version(registry, "yolov5n-v1-aaaaaa", 1, folder=tmp_path)
    request_training(registry, queues, 3)
    request_training(registry, queues, 4)

    said = run("disconnect", "3")
    assert said.exit_code == 0, said.stderr
    for words in (
        "Project 3 is not connected to this backend any more",
        "took the project out of the registry, cancelled the training",
        "kept: 1 versions",
        "warning: without LABEL_STUDIO_API_KEY",
    ):
        assert words in said.stdout, words
    assert registry.projects() == [4]
    assert [job.meta["project"] for job in queues.queue(QueueName.RECONCILE).get_jobs()] == [4]

    again = json.loads(run("disconnect", "3", "--json").stdout)
    assert again["changes"] == []
    assert again["kept"] == ["yolov5n-v1-aaaaaa"]
    assert "nothing, it was not connected" in run("disconnect", "3").stdout

    gone = json.loads(run("disconnect", "3", "--delete-versions", "--json").stdout)
    assert gone["changes"] == ["deleted 1 versions with their rankings and history"]
    assert registry.all_versions(3) == []
    assert registry.read_document(3, "train_request") is None
    assert json.loads(run("disconnect", "3", "--delete-versions", "--json").stdout)["changes"] == []
    assert registry.projects() == [4]
