"""What the routes stand on: the registry and the queues, opened when they are first needed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Generic, TypeVar, cast

from flask import current_app

from al_backend.cycle import UNTRAINED
from al_backend.errors import ConfigError, RegistryError
from al_backend.http.errors import NotKnown, Unavailable
from al_backend.http.label_studio_probe import LabelStudioProbe
from al_backend.jobs.queues import Queues, connect
from al_backend.labelstudio.labeling_config import LabelingConfig, parse_labeling_config
from al_backend.registry import ProjectRecord, Registry, open_registry
from al_backend.settings import Settings

EXTENSION = "al_backend"

_RETRY_SECONDS = 2.0
_REDIS_SECONDS = 1.0  # Label Studio waits as long for /webhook, and a thread that hangs is missing for /health

Opened = TypeVar("Opened")


class Services:
    """Settings, registry and queues of one web process.

    Nothing is opened before a request needs it, so the server starts and is healthy while Redis is not there yet.

    Args:
        settings: of the process.
        registry: None opens the one at `MODEL_DIR`.
        queues: None connects to the Redis of the settings.
    """

    def __init__(self, settings: Settings, registry: Registry | None = None, queues: Queues | None = None) -> None:
        self.settings = settings
        self.label_studio = LabelStudioProbe(settings)
        self._registry = _Lazy(lambda: open_registry(settings), registry)
        self._queues = _Lazy(lambda: connect(settings), queues)
        # Each waiting /predict holds a thread; two stay free, so that /health answers within Label Studio's second.
        self._slots = threading.BoundedSemaphore(max(1, settings.threads - 2))

    @property
    def registry(self) -> Registry:
        """The registry.

        Raises:
            Unavailable: its location cannot be used.
        """
        return self._registry.get()

    @property
    def queues(self) -> Queues:
        """The queues; what is asked of Redis fails when it does not answer within a second.

        Raises:
            Unavailable: Redis does not answer.
        """
        return self._queues.get().within(_REDIS_SECONDS)

    @contextmanager
    def prediction_slot(self) -> Iterator[None]:
        """The right to keep a thread waiting for the inference worker.

        Raises:
            Unavailable: too many requests wait already.
        """
        if not self._slots.acquire(blocking=False):
            raise Unavailable("Too many /predict requests wait already; try again, or raise THREADS.")
        try:
            yield
        finally:
            self._slots.release()

    def known_project(self, project_id: int) -> ProjectRecord:
        """The registered project.

        Raises:
            NotKnown: it was never connected, or was deleted.
        """
        record = self.registry.project(project_id)
        if record is None:
            raise NotKnown(
                f"Project {project_id} is not connected to this backend; run `al-backend connect {project_id}`."
            )
        return record

    def model_version(self, project_id: int) -> str:
        """The version that Label Studio has to know: the published one, else the active one, else "untrained"."""
        published = (self.registry.read_document(project_id, "published") or {}).get("model_version")
        if isinstance(published, str) and published:
            return published
        active = self.registry.active(project_id)
        return active.version if active else UNTRAINED


def services() -> Services:
    """The services of the app that handles the current request."""
    return cast(Services, current_app.extensions[EXTENSION])


@lru_cache(maxsize=64)
def labeling_config(xml: str) -> LabelingConfig:
    """The parsed labelling config; Label Studio sends the same one with every `/setup`.

    Raises:
        LabelConfigError: this backend cannot serve it.
    """
    return parse_labeling_config(xml)


class _Lazy(Generic[Opened]):
    """Opens something once; a failure is remembered for a moment, so that a queue of requests does not wait in line."""

    def __init__(self, open_: Callable[[], Opened], opened: Opened | None) -> None:
        self._open = open_
        self._opened = opened
        self._failure = ""
        self._failed_at = float("-inf")
        self._guard = threading.Lock()

    def get(self) -> Opened:
        if self._opened is not None:
            return self._opened
        with self._guard:
            if self._opened is None:
                if time.monotonic() - self._failed_at < _RETRY_SECONDS:
                    raise Unavailable(self._failure)
                try:
                    self._opened = self._open()
                except (ConfigError, RegistryError) as error:
                    self._failure, self._failed_at = str(error), time.monotonic()
                    raise Unavailable(self._failure) from error
            return self._opened
