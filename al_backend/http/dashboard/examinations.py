"""The doctor, asked from the dashboard: in a thread, because it takes seconds, and its last words are kept."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from al_backend.doctor import examine
from al_backend.errors import BackendError, RegistryError
from al_backend.jobs.documents import now
from al_backend.masking import masked
from al_backend.registry import Registry
from al_backend.settings import Settings

logger = logging.getLogger(__name__)

DOCTOR = "doctor"


class Examinations:
    """Starts examinations, at most one per project at a time in this process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._running: set[int] = set()
        self._guard = threading.Lock()

    def running(self, project_id: int) -> bool:
        """Whether the doctor looks at a project now."""
        with self._guard:
            return project_id in self._running

    def start(self, registry: Registry, project_id: int) -> bool:
        """Let the doctor look at a project; False when he does so already."""
        with self._guard:
            if project_id in self._running:
                return False
            self._running.add(project_id)
        thread = threading.Thread(target=self._examine, args=(registry, project_id), name="doctor", daemon=True)
        thread.start()
        return True

    def _examine(self, registry: Registry, project_id: int) -> None:
        started, began = now(), time.monotonic()
        findings: list[dict[str, Any]] = []
        problem = None
        try:
            findings = [finding.as_dict() for finding in examine(self._settings, project_id)]
        except BackendError as error:
            logger.warning("The doctor could not examine project %d: %s", project_id, error)
            problem = str(error)
        except Exception as error:  # the thread ends here, and who pressed the button waits for its words
            logger.exception("The doctor failed at project %d", project_id)
            problem = masked(f"Unexpected {type(error).__name__}: {error}. The web server's log has the details.")
        document = {
            "at": started.isoformat(),
            "seconds": round(time.monotonic() - began, 1),
            "findings": findings,
            "error": problem,
        }
        try:
            registry.write_document(project_id, DOCTOR, document)
        except RegistryError as error:
            logger.warning("What the doctor found at project %d is not kept: %s", project_id, error)
        finally:
            with self._guard:
                self._running.discard(project_id)
