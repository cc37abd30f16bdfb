"""The server as it runs: gunicorn in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from al_backend.errors import ConfigError
from al_backend.http.serve import serve
from al_backend.jobs.queues import EmbeddedRedis, Queues
from al_backend.registry import Registry
from al_backend.settings import load_settings
from tests.al_backend.http.label_studio_bodies import LABEL_CONFIG, event

Start = Callable[..., tuple[str, subprocess.Popen[bytes]]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `python -m al_backend.http.serve` with an environment; url and process."""
    processes = []

    def run(**environment: str) -> tuple[str, subprocess.Popen[bytes]]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-m", "al_backend.http.serve"],
            env=os.environ
            | {"MODEL_DIR": str(tmp_path / "registry"), "AL_DATA_DIR": str(tmp_path), "PORT": str(port)}
            | {"TMPDIR": str(tmp_path), "REDIS_URL": f"unix://{tmp_path}/none.sock"}
            | environment,
            stderr=(tmp_path / "serve.log").open("wb"),
        )
        processes.append(process)
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.1)
        return url, process

    yield run
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()


def test_it_starts_without_anything_else_and_stops_on_sigterm(start: Start, tmp_path: Path) -> None:
    url, process = start()

    assert httpx.get(f"{url}/health").json()["status"] == "UP"
    assert httpx.get(f"{url}/jobs", timeout=10).status_code == 503
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 0


def test_a_sentence_survives_the_server_as_reason_phrase(start: Start) -> None:
    url, _ = start()

    answer = httpx.post(f"{url}/setup", json={"project": "x"})

    assert answer.status_code == 400
    assert answer.reason_phrase == answer.json()["error"].replace("ë", "?")


@pytest.mark.redis
@pytest.mark.slow
def test_two_processes_count_together(
    start: Start, tmp_path: Path, redis_server: EmbeddedRedis, queues: Queues
) -> None:
    Registry(str(tmp_path / "registry")).register_project(5, label_config=LABEL_CONFIG, overrides={})
    url, process = start(WORKERS="2", REDIS_URL=redis_server.url)
    (folder,) = tmp_path.glob("al-backend-metrics-*")

    def post(number: int) -> int:
        # A connection of its own for every event, as Label Studio makes them: either process may take it.
        return httpx.post(f"{url}/webhook", json=event("ANNOTATION_CREATED"), timeout=30).status_code

    def processes() -> int:
        return len(list(folder.glob("counter_*.db")))

    deadline = time.monotonic() + 60
    while processes() < 2 and time.monotonic() < deadline:
        httpx.get(f"{url}/health", timeout=10)
    assert processes() == 2, "only one of two processes answers"
    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(post, range(200))) == {200}

    text = httpx.get(f"{url}/metrics").text
    counts = {
        found.name: found.value
        for family in text_string_to_metric_families(text)
        for found in family.samples
        if found.labels.get("route") == "/webhook"
    }
    assert counts["al_backend_requests_total"] == 200
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 0
    assert not folder.exists()


def test_a_taken_port_is_said_at_once(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = load_settings(port=taken.getsockname()[1], model_dir=str(tmp_path), data_dir=tmp_path)

        with pytest.raises(ConfigError, match="cannot listen on"):
            serve(settings)


def test_half_a_password_stops_the_start(start: Start, tmp_path: Path) -> None:
    _, process = start(BASIC_AUTH_USER="ann")

    assert process.wait(timeout=20) == 1
    assert "BASIC_AUTH_PASS" in (tmp_path / "serve.log").read_text()


def test_nothing_of_the_caller_runs_in_the_children(tmp_path: Path) -> None:
    """A `finally` around `serve` (which stops Redis, say) must run once, in the parent."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = f"""
import os
from al_backend.http.serve import serve
from al_backend.settings import load_settings
try:
    serve(load_settings(port={port}, workers=2, model_dir={str(tmp_path)!r}, data_dir={str(tmp_path)!r}))
finally:
    os.write(1, b"cleaned up\\n")
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            httpx.get(f"http://127.0.0.1:{port}/health", timeout=5)
            break
        except httpx.HTTPError:
            time.sleep(0.1)
    process.terminate()
    output, _ = process.communicate(timeout=30)

    assert output == b"cleaned up\n"
