"""A real Label Studio as a child process, for the demo and for the tests.

Label Studio itself lives in an environment of its own (its pins differ from ours), so it is started by its executable.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import httpx
from filelock import FileLock

from al_backend.errors import LabelStudioError

_DATABASE = "label_studio.sqlite3"
_ACCOUNT = "al-backend-account.json"
_POLL_SECONDS = 0.2
_PORT_TRIES = 5

# Execs its arguments after asking Linux to end the process with its parent, so that a killed demo or test run leaves
# no server behind. An exec instead of `preexec_fn`, which may deadlock in a process with threads.
_LAUNCHER = """
import ctypes, os, signal, sys
parent = int(sys.argv[1])
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the parent process has already ended")
os.execv(sys.argv[2], sys.argv[2:])
"""


class LabelStudioServer:
    """A Label Studio that lives as long as the `with` block (or until `stop`), on a loopback port.

    A data folder may be started again: user, password, token and projects are kept in it. On Linux the child ends when
    the thread that called `start` ends, so start it from a thread that outlives its use.

    Args:
        executable: `label-studio` of an environment in which Label Studio is installed.
        data_dir: where its database, its uploads, its log and our account file go; created when missing.
        template_dir: folder in which an empty migrated database is kept per Label Studio version. It costs the 50
            seconds of migrations once and makes every later start with a new data folder take about 6 seconds.
        port: 0 takes a free one, and the same one again when this object is started again.
        email: user of the account that is created on the first start.
        environment: more environment variables for Label Studio, such as `LOCAL_FILES_SERVING_ENABLED`. It sees
            nothing of ours, because it gives the same names (`LABEL_STUDIO_HOST`, `PORT`, ...) other meanings.
        start_timeout: seconds until an answer is expected; the migrations of a first start are part of it.
    """

    def __init__(
        self,
        executable: Path,
        data_dir: Path,
        *,
        template_dir: Path | None = None,
        port: int = 0,
        email: str = "admin@example.com",
        environment: Mapping[str, str] | None = None,
        start_timeout: float = 300.0,
    ) -> None:
        self.executable = Path(executable).absolute()
        self.data_dir = Path(data_dir).absolute()
        self.template_dir = None if template_dir is None else Path(template_dir).absolute()
        self.email = email
        self.password = ""
        self.token = ""
        self._secret_key = ""
        self.log_path = self.data_dir / "label-studio.log"
        self._port = port
        self._port_is_free_choice = port == 0
        self._environment = dict(environment or {})
        self._start_timeout = start_timeout
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it answers, without a slash at the end."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int | None:
        """Process id of the running server, None when it does not run."""
        return self._process.pid if self.running and self._process else None

    @property
    def running(self) -> bool:
        """Whether the child process lives."""
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> LabelStudioServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and wait until it answers to our token.

        Raises:
            LabelStudioError: the executable is missing, the process ended, the port belongs to somebody else, or
                nothing answered in time; the end of the server's log is part of the message.
        """
        if self.running:
            return
        if not self.executable.is_file():
            raise LabelStudioError(
                f"There is no Label Studio executable at {self.executable}; install label-studio into an environment "
                "of its own and name its bin/label-studio."
            )
        self._prepare_data_dir()
        deadline = time.monotonic() + self._start_timeout
        for _ in range(_PORT_TRIES):
            if self._port == 0:
                self._port = _free_port()
            self._spawn()
            try:
                if self._wait_until_ours(deadline):
                    return
            except BaseException:
                self.kill()
                raise
            self.kill()
            if not self._port_is_free_choice:
                raise LabelStudioError(f"Port {self._port} belongs to another process; choose another port.")
            self._port = 0
        raise LabelStudioError(f"Label Studio found {_PORT_TRIES} ports taken by other processes, one after another.")

    def stop(self, *, timeout: float = 10.0) -> None:
        """End the server politely, then by force after `timeout` seconds; without effect when it does not run."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """End the server at once, as a power cut would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def log_tail(self, lines: int = 30) -> str:
        """The last lines of the server's log, empty when there is none."""
        if not self.log_path.exists():
            return ""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])

    def _prepare_data_dir(self) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        database = self.data_dir / _DATABASE
        if not database.exists() and self.template_dir is not None:
            template = ensure_template(self.executable, self.template_dir)
            if template is not None:
                shutil.copyfile(template, database)
        account = self.data_dir / _ACCOUNT
        if not account.exists():
            content = {
                "email": self.email,
                "password": secrets.token_urlsafe(12),
                "token": secrets.token_hex(20),
                "secret_key": secrets.token_hex(25),
            }
            handle = os.open(account, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "w") as file:
                json.dump(content, file)
        known = json.loads(account.read_text())
        self.email, self.password, self.token = known["email"], known["password"], known["token"]
        self._secret_key = known.get("secret_key", "")

    def _spawn(self) -> None:
        environment = _clean_environment(self.executable, self.data_dir) | {
            # The account goes through the environment: arguments are readable by every user of the machine.
            "LABEL_STUDIO_USERNAME": self.email,
            "LABEL_STUDIO_PASSWORD": self.password,
            "LABEL_STUDIO_USER_TOKEN": self.token,
            "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
            # Label Studio refuses backends and webhooks on loopback unless both of these are off.
            "SSRF_PROTECTION_ENABLED": "false",
            "ML_BLOCK_LOCAL_IP": "false",
        }
        if self._secret_key:
            # The one that Label Studio makes itself cannot be read back where it begins with "$" (one in fifty): every
            # start then makes another, and all access tokens of before are worthless.
            environment["SECRET_KEY"] = self._secret_key
        arguments = [str(self.executable), "start", "--no-browser", "--internal-host", "127.0.0.1"]
        arguments += ["--port", str(self._port), "--data-dir", str(self.data_dir), "--log-level", "INFO"]
        with self.log_path.open("wb") as log:
            self._process = _launch(arguments, environment | self._environment, self.data_dir, log)

    def _wait_until_ours(self, deadline: float) -> bool:
        """True when our own server answers, False when another process has the port."""
        headers = {"Authorization": f"Token {self.token}"}
        with httpx.Client(base_url=self.url, timeout=5.0, trust_env=False) as client:
            while time.monotonic() < deadline:
                if self._process is None or self._process.poll() is not None:
                    raise LabelStudioError(f"Label Studio ended while it started. Its log ends:\n{self.log_tail()}")
                # Label Studio moves to the next port without a word in its exit status when this one is busy.
                if f"Port {self._port} is in use" in self.log_tail(200):
                    return False
                try:
                    if client.get("/health").status_code == 200:
                        answer = client.get("/api/current-user/whoami", headers=headers)
                        return answer.status_code == 200 and answer.json().get("email") == self.email
                except httpx.HTTPError:
                    pass  # refused or cut off: it is not up yet
                time.sleep(_POLL_SECONDS)
        raise LabelStudioError(
            f"Label Studio did not answer at {self.url} within {self._start_timeout:.0f} s. "
            f"Its log ends:\n{self.log_tail()}"
        )


def installed_version(executable: Path) -> str | None:
    """Version of the Label Studio behind `executable`, None when its environment's Python cannot be found."""
    folder = Path(executable).resolve().parent
    code = "import importlib.metadata as m; print(m.version('label-studio'))"
    for name in ("python", "python3"):
        python = folder / name
        if python.is_file():
            # The environment of a venv is found through its own path, hence no resolve() of the interpreter.
            answer = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=False)
            if answer.returncode == 0:
                return answer.stdout.strip()
    return None


def ensure_template(executable: Path, template_dir: Path) -> Path | None:
    """The empty migrated database for this Label Studio version, made on the first call (about 50 seconds).

    Safe to call from several processes at once: the first makes it, the others wait.

    Returns:
        Path of the database; None when the version is unknown, so that no stale database can be taken.

    Raises:
        LabelStudioError: the migrations failed; the end of their output is part of the message.
    """
    version = installed_version(executable)
    if version is None:
        return None
    folder = Path(template_dir) / f"label-studio-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    database = folder / _DATABASE
    with FileLock(str(folder / "template.lock")):
        if not database.exists():
            with tempfile.TemporaryDirectory(dir=folder) as scratch_name:
                scratch = Path(scratch_name)
                _migrate(executable, scratch)
                (scratch / _DATABASE).replace(database)
    return database


def _migrate(executable: Path, data_dir: Path) -> None:
    """Let Label Studio create its tables in `data_dir` and nothing else: `version` migrates before it prints."""
    log_path = data_dir / "migrate.log"
    environment = _clean_environment(executable, data_dir)
    with log_path.open("wb") as log:
        process = _launch([str(executable), "version", "--data-dir", str(data_dir)], environment, data_dir, log)
        try:
            status = process.wait(timeout=600)
        finally:
            process.kill()
            process.wait()
    if status != 0 or not (data_dir / _DATABASE).exists():
        tail = "\n".join(log_path.read_text(errors="replace").splitlines()[-30:])
        raise LabelStudioError(f"Label Studio's migrations ended with status {status}:\n{tail}")


def _launch(
    arguments: list[str], environment: Mapping[str, str], folder: Path, log: BinaryIO
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-I", "-c", _LAUNCHER, str(os.getpid()), *arguments]
    return subprocess.Popen(
        command,
        env=dict(environment),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C goes to us; we end the server when nothing needs it any more
    )


def _clean_environment(executable: Path, data_dir: Path) -> dict[str, str]:
    return {
        "PATH": os.pathsep.join([str(executable.parent), os.defpath]),
        "HOME": str(data_dir),
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "COLLECT_ANALYTICS": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "LATEST_VERSION_CHECK": "false",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
