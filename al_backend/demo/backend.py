"""The whole backend as one child process, for the demo and for the tests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from al_backend.child_process import start_child, stop_child
from al_backend.demo.server import LabelStudioServer
from al_backend.errors import BackendError
from al_backend.jobs.embedded_redis import running_url
from al_backend.jobs.queues import Queues, connect_to
from al_backend.processes import child_environment
from al_backend.settings import Settings, load_settings

_STARTS_WITHIN = 120.0
_GRACE = 30.0


class RunningBackend:
    """`al-backend up` with the given settings, for as long as the `with` block runs.

    Args:
        settings: of the backend; `data_dir` and `port` must be its own.
        log: file that takes what it prints.
    """

    def __init__(self, settings: Settings, log: Path) -> None:
        self.settings = settings
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._queues: Queues | None = None

    @property
    def pid(self) -> int | None:
        """Process id of `al-backend up`, None when it does not run."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    @property
    def queues(self) -> Queues:
        """The queues of the running backend.

        Raises:
            BackendError: it does not run.
        """
        if self._queues is None:
            raise BackendError("The backend does not run.")
        return self._queues

    def __enter__(self) -> RunningBackend:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until its web server and its Redis answer.

        Raises:
            BackendError: it ended or did not answer in time; the end of its log is part of the message.
        """
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("AL_") and name != "REDIS_URL"
        }
        with self.log.open("ab") as stream:
            self._process = start_child(
                (sys.executable, "-m", "al_backend.cli", "up"),
                env=inherited | child_environment(self.settings),
                stdout=stream,
                stderr=stream,
            )
        deadline = time.monotonic() + _STARTS_WITHIN
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise BackendError(f"The backend did not come up; the end of {self.log}:\n{self.log_tail()}")
            time.sleep(0.3)

    def stop(self) -> None:
        """Stop it and everything that it started."""
        if self._process is not None:
            stop_child(self._process, grace=_GRACE)
            self._process = None
        self._queues = None

    def kill(self) -> None:
        """End `al-backend up` at once, as a power cut would; on Linux what it started ends after it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self._queues = None

    def log_tail(self, lines: int = 15) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _answers(self) -> bool:
        url = running_url(self.settings.data_dir)
        if url is None:
            return False
        try:
            if not httpx.get(f"{self.settings.own_url}/health", timeout=2).is_success:
                return False
        except httpx.HTTPError:
            return False
        self._queues = connect_to(url)
        return True


def free_port() -> int:
    """A loopback port that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def local_settings(server: LabelStudioServer, folder: Path, **options: Any) -> Settings:
    """Settings of a backend of its own on this machine, for a Label Studio that runs here.

    Args:
        server: it must be running.
        folder: takes its models, images and Redis.
        options: all other settings by field name; addresses and folders among them do not count.
    """
    port = free_port()
    own: dict[str, Any] = {
        "label_studio_url": server.url,
        "label_studio_api_key": server.token,
        "redis_url": None,
        "model_dir": str(folder / "models"),
        "data_dir": folder / "data",
        "host": "127.0.0.1",
        "port": port,
        "public_url": f"http://127.0.0.1:{port}",
    }
    return load_settings(**options | own)
