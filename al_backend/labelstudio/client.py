"""The one door to Label Studio."""

from __future__ import annotations

from typing import TYPE_CHECKING

from al_backend.errors import ConfigError
from al_backend.labelstudio.connections import Connections
from al_backend.labelstudio.labelling import Labelling
from al_backend.labelstudio.publishing import QUEUE_TAB, UNCERTAINTY_SAMPLING, Pace, Publishing
from al_backend.labelstudio.records import ImportReport, LabelledTask, PredictionRow, Project, Task

if TYPE_CHECKING:
    from al_backend.settings import Settings

__all__ = [
    "QUEUE_TAB",
    "UNCERTAINTY_SAMPLING",
    "ImportReport",
    "LabelStudio",
    "LabelledTask",
    "PredictionRow",
    "Project",
    "Task",
]


class LabelStudio(Publishing, Connections, Labelling):
    """Label Studio's API as this backend needs it; safe to share between threads.

    Every method raises `LabelStudioError` when Label Studio does not answer or refuses; the message has the request,
    the status and Label Studio's own words, and never a secret.
    """

    @classmethod
    def from_settings(cls, settings: Settings, *, pace: Pace | None = None) -> LabelStudio:
        """The Label Studio that the settings name.

        Args:
            settings: address and key.
            pace: waits for a turn to write; None waits only for this process's own writes.

        Raises:
            ConfigError: there is no API key, or it is not one that lasts.
        """
        key = settings.label_studio_api_key
        if key is None or not key.get_secret_value().strip():
            raise ConfigError(
                "LABEL_STUDIO_API_KEY is not set; take a personal access token from Label Studio "
                "(Account & Settings, Personal Access Token)."
            )
        made = cls(settings.label_studio_url, key.get_secret_value().strip(), verify_ssl=settings.verify_ssl)
        if pace is not None:
            made.pace = pace
        return made
