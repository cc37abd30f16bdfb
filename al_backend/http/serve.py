"""Runs the app under gunicorn: `serve(settings)`, or `python -m al_backend.http.serve`."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.config import Config
from gunicorn.glogging import Logger

from al_backend.errors import BackendError
from al_backend.http.auth import check_auth_settings
from al_backend.listening import check_address
from al_backend.logs import configure as configure_logging
from al_backend.masking import masked
from al_backend.settings import Settings, load_settings

_METRICS_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


def serve(settings: Settings) -> None:
    """Answer requests in this process (and its `settings.workers` children) until SIGTERM or SIGINT.

    Args:
        settings: `host`, `port`, `workers`, `threads` and all that the app needs.

    Raises:
        ConfigError: the address cannot be bound, or the authentication settings contradict each other.
        BackendError: the server ended with an error.
    """
    check_auth_settings(settings)
    check_address(settings)
    parent = os.getpid()
    try:
        _Server(settings).run()
    except SystemExit as ended:
        if os.getpid() != parent:
            # A gunicorn child leaves through our stack: nothing of the caller's (its `finally`, its exit handlers) may
            # run in it a second time.
            logging.shutdown()
            os._exit(ended.code if isinstance(ended.code, int) else 1)
        if ended.code:
            raise BackendError(f"The web server ended with status {ended.code}; its log says why.") from ended


class _Server(BaseApplication):
    """gunicorn without its command line and its configuration files."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._metrics_folder: Path | None = None
        if settings.workers > 1:
            # prometheus_client looks at the variable when it is first imported, which `load` does in each child.
            self._metrics_folder = Path(tempfile.mkdtemp(prefix="al-backend-metrics-"))
            os.environ[_METRICS_FOLDER_VARIABLE] = str(self._metrics_folder)
        super().__init__()

    def load_config(self) -> None:
        settings = self._settings
        options: dict[str, Any] = {
            "bind": f"{_bracketed(settings.host)}:{settings.port}",
            "workers": settings.workers,
            "threads": settings.threads,
            "worker_class": "gthread",
            "timeout": 0,  # a request may wait 90 s for the inference worker
            "graceful_timeout": 10,
            "keepalive": 5,
            "preload_app": False,  # connections and CUDA do not survive a fork
            "loglevel": settings.log_level.lower(),
            "logger_class": _Logger,
            "proc_name": "al-backend",
            "on_exit": self._clean_up,
            "child_exit": self._child_exit,
        }
        if "control_socket_disable" in self.cfg.settings:  # gunicorn 25 and later
            options["control_socket_disable"] = True
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        from al_backend.http.app import create_app  # in the child alone, see __init__

        return create_app(self._settings, metrics_folder=self._metrics_folder)

    def _clean_up(self, arbiter: object) -> None:
        if self._metrics_folder is not None:
            shutil.rmtree(self._metrics_folder, ignore_errors=True)

    def _child_exit(self, arbiter: object, worker: Any) -> None:
        if self._metrics_folder is not None:
            from prometheus_client.multiprocess import mark_process_dead

            mark_process_dead(worker.pid, str(self._metrics_folder))


class _Logger(Logger):
    """gunicorn's own events go the way of all others; it would print them in a format of its own."""

    def setup(self, cfg: Config) -> None:
        """Set the levels and leave the handlers to the root logger."""
        super().setup(cfg)
        for handler in list(self.error_log.handlers):
            self.error_log.removeHandler(handler)
        self.error_log.propagate = True


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def main() -> int:
    """Serve with the settings of the environment; the exit status is 0, or 1 after an error."""
    try:
        settings = load_settings()
        configure_logging(settings)
        serve(settings)
    except BackendError as error:
        print(masked(str(error)), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
