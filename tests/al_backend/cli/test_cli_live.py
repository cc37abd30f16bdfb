"""The command line as a user runs it: programs of their own against a real Label Studio."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from al_backend.demo.server import LabelStudioServer
from al_backend.labelstudio.client import LabelStudio

pytestmark = [pytest.mark.labelstudio, pytest.mark.redis, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
LABEL_CONFIG = (
    '<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image">'
    '<Label value="Fish"/></RectangleLabels></View>'
)


class CommandLine:
    """Runs `al-backend` with one environment."""

    def __init__(self, environment: dict[str, str]) -> None:
        clean = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "LABEL_STUDIO_HOST")}
        self._environment = clean | environment

    def start(self, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
        with log.open("wb") as stream:
            return subprocess.Popen(self._command(arguments), cwd=ROOT, env=self._environment, stderr=stream)

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._command(arguments), cwd=ROOT, env=self._environment, capture_output=True, text=True, timeout=120
        )

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "al_backend.cli", *arguments]


@pytest.fixture
def project(label_studio: LabelStudioServer) -> Iterator[int]:
    client = LabelStudio(label_studio.url, label_studio.token)
    made = client.create_project("Reef [north]", LABEL_CONFIG)
    client.import_tasks(made.id, [{"image": f"{label_studio.url}/static/images/{name}.png"} for name in "abc"])
    (first, *_) = client.open_tasks(made.id)
    client.submit_annotation(first.id, [])
    yield made.id
    client.delete_project(made.id)
    client.close()


@pytest.fixture
def command_line(label_studio: LabelStudioServer, tmp_path: Path) -> CommandLine:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return CommandLine(
        {
            "LABEL_STUDIO_URL": label_studio.url,
            "LABEL_STUDIO_API_KEY": label_studio.token,
            "AL_COLD_START": "false",
            "AL_DATA_DIR": str(tmp_path / "data"),
            "MODEL_DIR": str(tmp_path / "models"),
            "PORT": str(port),
            "OMP_NUM_THREADS": "1",
        }
    )


def test_from_up_to_doctor(command_line: CommandLine, project: int, tmp_path: Path) -> None:
    before = command_line("status", str(project))
    assert before.returncode == 1
    assert "al-backend up" in before.stderr
    log = tmp_path / "up.log"
    with command_line.start("up", "--project", str(project), log=log) as process:
        try:
            deadline = time.monotonic() + 120
            while "is connected to" not in log.read_text():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.5)
            _look(command_line, project)
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0


def _look(command_line: CommandLine, project: int) -> None:
    again = json.loads(command_line("connect", str(project), "--json").stdout)
    assert (again["project"], again["changes"]) == (project, [])

    status = command_line("status", str(project))
    assert status.returncode == 0, status.stderr
    assert "Reef [north]" in status.stdout
    document = json.loads(command_line("status", str(project), "--json").stdout)
    assert (document["labels"]["images"], document["pool"], document["active"]) == (1, 2, None)

    examined = command_line("doctor", str(project), "--json")
    errors = [finding for finding in json.loads(examined.stdout) if finding["level"] == "error"]
    assert all("image" in finding["check"] for finding in errors), "the tasks' images are the only thing made up"

    trained = command_line("train", str(project))
    assert trained.returncode == 1
    assert "The training failed: " in trained.stderr
    assert "Traceback" not in trained.stderr

    ranked = command_line("rank", str(project), "--json")
    assert ranked.returncode == 1
    assert "no version yet that could rank" in json.loads(ranked.stdout)["error"]
