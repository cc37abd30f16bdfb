"""The child process behind the demo and the `labelstudio` tests."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from al_backend.demo.server import LabelStudioServer, installed_version
from al_backend.errors import LabelStudioError


def script(folder: Path, body: str) -> Path:
    """A stand-in executable that runs `body` in Python."""
    path = folder / "label-studio"
    path.write_text(f"#!{sys.executable}\n{body}\n")
    path.chmod(0o755)
    return path


def test_a_missing_executable_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabelStudioError, match=r"no Label Studio executable at .*/nowhere"):
        LabelStudioServer(tmp_path / "nowhere", tmp_path / "data").start()


def test_a_process_that_ends_shows_its_log(tmp_path: Path) -> None:
    program = script(tmp_path, "print('the disk is full'); raise SystemExit(3)")
    server = LabelStudioServer(program, tmp_path / "data")
    with pytest.raises(LabelStudioError, match="the disk is full"):
        server.start()
    assert not server.running
    assert server.pid is None


def test_no_answer_in_time_is_an_error_and_leaves_no_process(tmp_path: Path) -> None:
    program = script(tmp_path, "import time; print('thinking', flush=True); time.sleep(60)")
    server = LabelStudioServer(program, tmp_path / "data", start_timeout=1.0)
    with pytest.raises(LabelStudioError, match=r"did not answer .*within 1 s[\s\S]*thinking"):
        server.start()
    assert not server.running


def test_a_chosen_port_of_another_process_is_refused(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        body = f"import time; print('* Port {port} is in use.', flush=True); time.sleep(60)"
        server = LabelStudioServer(script(tmp_path, body), tmp_path / "data", port=port)
        with pytest.raises(LabelStudioError, match=f"Port {port} belongs to another process"):
            server.start()


def test_the_account_file_is_private_and_kept(tmp_path: Path) -> None:
    program = script(tmp_path, "raise SystemExit(1)")
    tokens = []
    for _ in range(2):
        server = LabelStudioServer(program, tmp_path / "data")
        with pytest.raises(LabelStudioError):
            server.start()
        tokens.append(server.token)
    assert tokens[0] == tokens[1]
    assert len(tokens[0]) == 40
    assert (tmp_path / "data" / "al-backend-account.json").stat().st_mode & 0o077 == 0


def test_an_executable_without_its_python_has_no_version(tmp_path: Path) -> None:
    assert installed_version(script(tmp_path, "pass")) is None


@pytest.mark.labelstudio
def test_the_server_is_ours_and_takes_local_backends(label_studio: LabelStudioServer) -> None:
    headers = {"Authorization": f"Token {label_studio.token}"}
    with httpx.Client(base_url=label_studio.url, headers=headers) as client:
        assert client.get("/api/current-user/whoami").json()["email"] == label_studio.email
        project = client.post("/api/projects/", json={"title": "loopback", "label_config": "<View/>"}).json()["id"]
        webhook = client.post("/api/webhooks/", json={"url": "http://127.0.0.1:9/hook", "project": project})
        assert webhook.status_code == 201, webhook.text
        client.delete(f"/api/projects/{project}/")
    version = installed_version(label_studio.executable)
    assert version is not None
    assert version.startswith("1.")


@pytest.mark.labelstudio
def test_a_killed_server_starts_again_at_the_same_address_with_its_data(
    tmp_path: Path, label_studio_program: Path, label_studio_template: Path
) -> None:
    server = LabelStudioServer(label_studio_program, tmp_path, template_dir=label_studio_template)
    with server:
        url, headers = server.url, {"Authorization": f"Token {server.token}"}
        httpx.post(f"{url}/api/projects/", json={"title": "survivor"}, headers=headers).raise_for_status()
        server.kill()
        assert not server.running
        server.start()
        assert server.url == url
        titles = [item["title"] for item in httpx.get(f"{url}/api/projects/", headers=headers).json()["results"]]
        assert titles == ["survivor"]
        assert server.log_tail()
    assert not server.running


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")
def test_the_child_ends_with_its_parent(tmp_path: Path) -> None:
    body = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    program = script(tmp_path, body)
    code = (
        "import sys; from pathlib import Path; from al_backend.demo.server import LabelStudioServer\n"
        f"LabelStudioServer(Path({str(program)!r}), Path({str(tmp_path / 'data')!r})).start()"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    pid_file = tmp_path / "pid"
    _until(lambda: pid_file.exists() and pid_file.read_text() != "")
    child = Path("/proc") / pid_file.read_text()
    assert child.exists()
    parent.kill()
    parent.wait()
    _until(lambda: not child.exists() or "Z" in (child / "stat").read_text().split(")")[1][:3])


def _until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
