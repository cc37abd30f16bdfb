"""A private PostgreSQL for one test module: its own cluster in a temporary folder, reached by a unix socket only."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

_STARTS_WITHIN = 60.0
_SERVICE_USER = "postgres"


def find_initdb() -> Path | None:
    """`initdb` on PATH, else the newest of Debian's, which are not on PATH."""
    found = shutil.which("initdb")
    if found:
        return Path(found)
    versions = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max(versions, key=lambda path: float(path.parts[-3]), default=None)


class PostgresServer:
    """Runs for as long as the `with` block; on Linux not longer than we do.

    Args:
        initdb: the server's other programs are expected beside it.
    """

    def __init__(self, initdb: Path) -> None:
        self._programs = initdb.resolve().parent
        self._initdb = initdb
        # Short, because the path of a unix socket may have 107 bytes only.
        self.folder = Path(tempfile.mkdtemp(prefix="al-pg-", dir="/tmp"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What makes Label Studio use it."""
        return {
            "DJANGO_DB": "default",
            "POSTGRE_NAME": "postgres",
            "POSTGRE_USER": _SERVICE_USER,
            "POSTGRE_PASSWORD": "",
            "POSTGRE_HOST": str(self.folder),
            "POSTGRE_PORT": "5432",
        }

    def __enter__(self) -> PostgresServer:
        data = self.folder / "data"
        if os.getuid() == 0:
            user = pwd.getpwnam(_SERVICE_USER)
            os.chown(self.folder, user.pw_uid, user.pw_gid)
        plain = ("--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8")
        self._run(self._initdb, "-D", data, "-U", _SERVICE_USER, *plain)
        # It holds nothing that has to survive a power cut.
        options = {
            "listen_addresses": "",
            "unix_socket_directories": self.folder,
            "fsync": "off",
            "full_page_writes": "off",
            "synchronous_commit": "off",
        }
        arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "server.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*self._as_user(), "--pdeathsig", "INT", str(self._programs / "postgres"), "-D", str(data), *arguments],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        deadline = time.monotonic() + _STARTS_WITHIN
        while subprocess.run([self._programs / "pg_isready", "-q", "-h", self.folder], check=False).returncode != 0:
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = (self.folder / "server.log").read_text()
                raise RuntimeError(f"PostgreSQL did not start: {said}")
            time.sleep(0.1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # a fast shutdown: it does not wait for its clients
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, *command: str | Path) -> None:
        done = subprocess.run(
            [*self._as_user(), *map(str, command)], capture_output=True, text=True, cwd=self.folder, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr}{done.stdout}")

    @staticmethod
    def _as_user() -> list[str]:
        """PostgreSQL refuses to run as root."""
        switch = ["--reuid", _SERVICE_USER, "--regid", _SERVICE_USER, "--clear-groups"] if os.getuid() == 0 else []
        return ["setpriv", *switch]
