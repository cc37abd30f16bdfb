"""Runs the services of docker-compose.yml without containers: each one's very command, with its environment.

What a container engine would give them is put in by hand: names of hosts become addresses of this machine, ports become
free ones, the volume and /tmp become folders.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from al_backend.child_process import stop_child
from al_backend.jobs.embedded_redis import find_redis_server

ROOT = Path(__file__).resolve().parent.parent
_VARIABLE = re.compile(r"\$\{([A-Z_]+)(?::-([^}]*))?\}")


def compose(variables: Mapping[str, str]) -> dict[str, Any]:
    """docker-compose.yml with its variables filled in, as `docker compose` does from `.env`."""

    def value(match: re.Match[str]) -> str:
        return variables.get(match[1]) or (match[2] or "")

    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(_VARIABLE.sub(value, text)))


def image_environment() -> dict[str, str]:
    """What the last stage of the Dockerfile sets with ENV."""
    last = (ROOT / "Dockerfile").read_text(encoding="utf-8").rpartition("\nFROM ")[2].replace("\\\n", " ")
    lines = [line.removeprefix("ENV ") for line in last.splitlines() if line.startswith("ENV ")]
    return dict(pair.split("=", 1) for line in lines for pair in shlex.split(line))


class Services:
    """The services with their places on this machine.

    Args:
        folder: takes the volume, the temporary files and the logs.
        dotenv: what a user would write into `.env`.
        web_port: instead of 9090.
        redis_port: instead of 6379.
    """

    def __init__(self, folder: Path, dotenv: Mapping[str, str], *, web_port: int, redis_port: int) -> None:
        self.folder = folder
        self.document = compose(dotenv)
        self._dotenv = dict(dotenv)
        self._here = {
            "@redis:6379": f"@127.0.0.1:{redis_port}",
            "9090": str(web_port),
            "/data": str(folder / "data"),
            "/tmp/": f"{folder}/tmp/",
            "0.0.0.0": "127.0.0.1",
        }
        self._redis_port = redis_port
        for name in ("data", "tmp", "redis"):
            (folder / name).mkdir(parents=True)

    def environment(self, service: str) -> dict[str, str]:
        """Exactly what the container would see, nothing of this process besides where programs are."""
        definition = self.document["services"][service]
        own = {name: str(value) for name, value in definition.get("environment", {}).items()}
        given = own if service == "redis" else image_environment() | self._dotenv | own
        placed = {name: self._placed(value) for name, value in given.items()}
        programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return placed | {"PATH": programs, "PYTHONPATH": str(ROOT), "TMPDIR": str(self.folder / "tmp")}

    def log(self, service: str) -> str:
        """What a service has printed."""
        path = self.folder / f"{service}.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def run(self, service: str, *command: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """`docker compose exec SERVICE COMMAND`; `changes` are variables for it."""
        return subprocess.run(
            self._program(command),
            cwd=self.folder / "data",
            env=self.environment(service) | changes,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def healthy(self, service: str) -> bool:
        """Whether its health check passes, that of the image for a service without one."""
        test = self.document["services"][service].get("healthcheck", {}).get("test")
        if test is None:
            line = re.search(r"^HEALTHCHECK .*?\n\s+CMD (\[.*\])$", (ROOT / "Dockerfile").read_text("utf-8"), re.M)
            assert line is not None
            test = ["CMD", *yaml.safe_load(line[1])]
        assert test[0] == "CMD", test
        command = list(test[1:])
        if command[0] == "redis-cli":
            command[1:1] = ["-p", str(self._redis_port)]
        return self.run(service, *command).returncode == 0

    @contextmanager
    def running(self, *services: str, patience: float = 300.0) -> Iterator[None]:
        """The services, each started when those before it are healthy, stopped in the opposite order."""
        with ExitStack() as stack:
            for service in services:
                process = self._start(service)
                stack.callback(stop_child, process, grace=20.0)
            for service in services:
                deadline = time.monotonic() + patience
                while not self.healthy(service):
                    assert time.monotonic() < deadline, f"{service} does not get healthy:\n{self.log(service)[-3000:]}"
                    time.sleep(0.5)
            yield

    def _start(self, service: str) -> subprocess.Popen[bytes]:
        command = self._program(shlex.split(self.document["services"][service]["command"]))
        if service == "redis":
            command += ["--port", str(self._redis_port), "--bind", "127.0.0.1", "--dir", str(self.folder / "redis")]
        with (self.folder / f"{service}.log").open("wb") as stream:
            return subprocess.Popen(
                command,
                cwd=self.folder / "data",
                env=self.environment(service),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )

    def _program(self, command: tuple[str, ...] | list[str]) -> list[str]:
        name, *arguments = command
        if name == "redis-server":
            return [str(find_redis_server()), *arguments]
        if name == "python":
            return [sys.executable, *arguments]
        found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        assert found is not None, f"no {name} on this machine"
        return [found, *arguments]

    def _placed(self, value: str) -> str:
        for there, here in self._here.items():
            value = value.replace(there, here)
        return value
