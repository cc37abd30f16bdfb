"""Which processes `up` and `worker` run, and the settings that they are given."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr

from al_backend.errors import BackendError, LabelStudioError
from al_backend.jobs.embedded_redis import EmbeddedRedis
from al_backend.jobs.queues import QueueName, connect_to
from al_backend.jobs.queues import connect as connect_queues
from al_backend.listening import check_address
from al_backend.masking import masked_url
from al_backend.settings import Settings
from al_backend.settings_table import variables
from al_backend.supervisor import ChildSpec, Supervisor

logger = logging.getLogger(__name__)

_CONNECT_EVERY = 5.0


def run_everything(settings: Settings, *, projects: Sequence[int] = ()) -> None:
    """Run Redis (unless `REDIS_URL` names one), the workers and the web server until SIGTERM or SIGINT.

    Args:
        settings: of all processes.
        projects: connected as soon as the web server answers.

    Raises:
        ConfigError: the port is taken, or Redis is not to be had.
    """
    check_address(settings)  # before anything starts: the web server alone would fail again and again
    redis: EmbeddedRedis | None = None
    if settings.redis_url:
        redis_url = settings.redis_url
        connect_to(redis_url)
    else:
        redis = EmbeddedRedis(settings.data_dir)
        redis_url = redis.url
    environment = {**child_environment(settings), "REDIS_URL": redis_url}
    web = ChildSpec("web", (sys.executable, "-m", "al_backend.http.serve"), environment)
    supervisor = Supervisor(
        [web, *worker_children(tuple(QueueName), environment)], redis=redis, json_lines=settings.log_format == "json"
    )
    connecting = _Connecting(settings, projects, redis_url)

    def started() -> None:
        where = "its own Redis" if redis else masked_url(redis_url)
        logger.info("al-backend runs at http://%s:%d with %s; Ctrl-C stops it", settings.host, settings.port, where)
        connecting.start()

    try:
        supervisor.run(on_started=started)
    finally:
        connecting.stop()


def run_workers(settings: Settings, names: Sequence[QueueName]) -> None:
    """Run one worker process per kind of work until SIGTERM or SIGINT.

    Raises:
        ConfigError: no Redis answers.
    """
    connect_queues(settings)
    children = worker_children(names, child_environment(settings))
    Supervisor(children, json_lines=settings.log_format == "json").run()


def worker_children(names: Sequence[QueueName], environment: dict[str, str]) -> list[ChildSpec]:
    """The worker processes that take these queues."""
    from al_backend.jobs.workers import worker_groups  # brings torch

    return [
        ChildSpec(
            kind,
            (sys.executable, "-m", "al_backend.jobs.workers", ",".join(name.value for name in queues)),
            environment,
        )
        for kind, queues in worker_groups(names)
    ]


def queue_names(text: str) -> tuple[QueueName, ...]:
    """The queues of a comma-separated list.

    Raises:
        ValueError: a name that is no queue, or none at all.
    """
    known = ", ".join(name.value for name in QueueName)
    names = [part.strip() for part in text.split(",") if part.strip()]
    wrong = [name for name in names if name not in {known.value for known in QueueName}]
    if wrong or not names:
        raise ValueError(f"{', '.join(wrong) or 'nothing'} is no queue; queues are {known}")
    return tuple(dict.fromkeys(QueueName(name) for name in names))


def child_environment(settings: Settings) -> dict[str, str]:
    """The environment variables that give a child process exactly these settings."""
    environment = {}
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        if value is not None:
            environment[variables(name, Settings.model_fields[name])[0]] = _as_text(value)
    return environment


def _as_text(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, (str, Path)):
        return str(value)
    return json.dumps(value)


class _Connecting(threading.Thread):
    """Connects projects while everything runs; waits for a Label Studio that starts later than we do."""

    def __init__(self, settings: Settings, projects: Sequence[int], redis_url: str) -> None:
        super().__init__(name="connect", daemon=True)
        self._settings = settings
        self._redis_url = redis_url
        self._projects = projects
        self._ended = threading.Event()

    def stop(self) -> None:
        self._ended.set()

    def run(self) -> None:
        if not self._projects:
            return
        from al_backend.connect import connect
        from al_backend.labelstudio.client import LabelStudio
        from al_backend.registry import open_registry

        while not self._web_answers():
            if self._ended.wait(0.5):
                return
        for project in self._projects:
            while not self._ended.is_set():
                try:
                    label_studio = LabelStudio.from_settings(self._settings)
                    registry = open_registry(self._settings)
                    report = connect(
                        self._settings, label_studio, registry, project, queues=connect_to(self._redis_url)
                    )
                    logger.info("%s", report)
                    break
                except LabelStudioError as error:
                    if error.status is not None:
                        logger.error("Project %d is not connected: %s", project, error)
                        break
                    logger.warning("Project %d waits for Label Studio: %s", project, error)
                    self._ended.wait(_CONNECT_EVERY)
                except BackendError as error:
                    logger.error("Project %d is not connected: %s", project, error)
                    break

    def _web_answers(self) -> bool:
        host = "127.0.0.1" if self._settings.host == "0.0.0.0" else self._settings.host
        try:
            return httpx.get(f"http://{host}:{self._settings.port}/health", timeout=2).is_success
        except httpx.HTTPError:
            return False
