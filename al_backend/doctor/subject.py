"""The project that is examined, and what is needed to look at it."""

from __future__ import annotations

from dataclasses import dataclass

from al_backend.jobs.queues import Queues
from al_backend.labelstudio.client import LabelStudio
from al_backend.registry import Registry
from al_backend.settings import Settings


@dataclass(frozen=True, slots=True)
class Subject:
    """One project of Label Studio.

    Attributes:
        settings: of the backend.
        label_studio: where the project is.
        registry: None when it cannot be opened.
        queues: None when Redis does not answer.
        project_id: the project.
    """

    settings: Settings
    label_studio: LabelStudio
    registry: Registry | None
    queues: Queues | None
    project_id: int

    @property
    def connect_again(self) -> str:
        """The remedy for most of what can be wrong with a connection."""
        return f"Run `al-backend connect {self.project_id}`."
