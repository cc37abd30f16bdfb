"""What is known of a project without asking Label Studio: read from the registry, each version only once."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from al_backend.cycle import Attempt
from al_backend.errors import ConfigError, LabelConfigError, VersionNotFound
from al_backend.jobs.documents import PUBLISHED, THROUGHPUT, read_attempt
from al_backend.jobs.observed import Observed, read_observed
from al_backend.labelstudio.labeling_config import SKIPPED, parse_labeling_config
from al_backend.learning_curve import worth_of_labels
from al_backend.registry import ActivePointer, ProjectRecord, Registry, Version
from al_backend.settings import LearningSettings, Settings
from model.simulation.stopping import StoppingHint

_MOST_VERSIONS = 2000
"""Versions that stay in memory, a few kB each."""


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """A version without the digest of each of its labels, which may be a hundred thousand.

    Attributes:
        images_labelled: tasks whose labels it was made from, held-out ones included.
        removed_at: when its weights were removed to save room; None while they are there.
        seconds: that the training took; None where an older release did not say.
        size: bytes of its files.
        intervals: of mAP by chance of the held-out images, by the metric's name; empty where nobody counted them.
    """

    name: str
    number: int
    detector: str
    classes: tuple[str, ...]
    created_at: datetime
    parent: str | None
    images_labelled: int
    label_counts: Mapping[str, int]
    train_images: int
    validation_images: int
    boxes: int
    metrics: Mapping[str, Any] | None
    trained: bool
    promoted: bool
    verdict: str
    problems: tuple[str, ...]
    removed_at: datetime | None
    seconds: float | None
    size: int
    intervals: Mapping[str, tuple[float, float]]

    @property
    def map50(self) -> float | None:
        """On the held-out images, in [0, 1]; None where there were none."""
        return (self.metrics or {}).get("map50")

    @property
    def map50_95(self) -> float | None:
        """Likewise, from IoU 0.5 to 0.95."""
        return (self.metrics or {}).get("map50_95")


@dataclass(frozen=True, slots=True)
class ProjectFacts:
    """A project as the registry has it.

    Attributes:
        observed: what the last look at Label Studio found; None before the first.
        active: the active version; None before the first training, or when its files are gone.
        cold_start: what orders the queue before the first training; "" after it, or when nothing does yet.
        published: the document about the published order; empty before the first.
        doctor: the document of the doctor's last examination; empty before the first.
        config_error: why the labelling config is not served; "" when it is.
    """

    id: int
    record: ProjectRecord
    learning: LearningSettings
    observed: Observed | None
    versions: tuple[VersionFacts, ...]
    pointer: ActivePointer | None
    active: VersionFacts | None
    cold_start: str
    published: Mapping[str, Any]
    attempt: Attempt | None
    doctor: Mapping[str, Any]
    images_per_second: float | None
    config_error: str
    label_studio_url: str

    @property
    def title(self) -> str:
        """As Label Studio has it; a stand-in before the first look."""
        return (self.observed.title if self.observed else "") or f"Project {self.id}"

    @property
    def labels(self) -> int:
        """Labelled tasks at the last look, else those that the newest version was made from."""
        if self.observed is not None:
            return self.observed.labels
        return self.versions[-1].images_labelled if self.versions else 0

    @property
    def worth(self) -> StoppingHint | None:
        """What the last labels brought; None while there are too few versions to say."""
        return worth_of_labels(self.versions, self.learning.stop_gain)

    @property
    def published_tasks(self) -> int | None:
        """Images in the published order; None before the first."""
        tasks = self.published.get("tasks")
        return tasks if isinstance(tasks, int) else None

    @property
    def url(self) -> str:
        """Of the project in Label Studio."""
        return f"{self.label_studio_url}/projects/{self.id}"


class Facts:
    """Reads projects; a version is read again only when it has changed, which happens when its weights go."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._versions: dict[tuple[int, str], tuple[int, VersionFacts]] = {}
        self._guard = threading.Lock()

    def project(self, registry: Registry, project_id: int) -> ProjectFacts | None:
        """One project; None when it is not registered."""
        record = registry.project(project_id)
        if record is None:
            return None
        everything = self._read_versions(registry, project_id)
        versions = tuple(item for item in everything if item.trained)
        pointer = registry.active(project_id)
        active = next((item for item in everything if pointer and item.name == pointer.version), None)
        speed = (registry.read_document(project_id, THROUGHPUT) or {}).get("images_per_second")
        learning, trouble = self._learning(record)
        return ProjectFacts(
            id=project_id,
            record=record,
            learning=learning,
            observed=read_observed(registry, project_id),
            versions=versions,
            pointer=pointer,
            active=active if active is not None and active.trained else None,
            cold_start=active.verdict if active is not None and not active.trained else "",
            published=registry.read_document(project_id, PUBLISHED) or {},
            attempt=read_attempt(registry, project_id),
            doctor=registry.read_document(project_id, "doctor") or {},
            images_per_second=float(speed) if speed else None,
            config_error=trouble,
            label_studio_url=self._settings.label_studio_public_url or self._settings.label_studio_url,
        )

    def projects(self, registry: Registry) -> list[ProjectFacts]:
        """All registered projects, by id."""
        found = [self.project(registry, project_id) for project_id in registry.projects()]
        return [item for item in found if item is not None]

    def _learning(self, record: ProjectRecord) -> tuple[LearningSettings, str]:
        try:
            learning = self._settings.learning.overridden(record.overrides)
        except ConfigError as error:
            return self._settings.learning, str(error)
        try:
            config = parse_labeling_config(record.label_config)
        except LabelConfigError as error:
            return learning, str(error)
        return learning, SKIPPED if config.skip else ""

    def _read_versions(self, registry: Registry, project_id: int) -> tuple[VersionFacts, ...]:
        found = []
        for name, stamp in registry.version_stamps(project_id).items():
            known = self._versions.get((project_id, name))
            if known is None or known[0] != stamp:
                try:
                    known = (stamp, _facts(registry.version(project_id, name), registry.version_size(project_id, name)))
                except VersionNotFound:
                    continue  # removed in this moment
                with self._guard:
                    if len(self._versions) >= _MOST_VERSIONS:
                        self._versions.clear()
                    self._versions[project_id, name] = known
            found.append(known[1])
        return tuple(sorted(found, key=lambda version: (version.number, version.name)))


def _facts(version: Version, size: int) -> VersionFacts:
    metrics = version.metrics
    intervals = (metrics or {}).get("intervals") or {}
    seconds = version.training.get("seconds")
    return VersionFacts(
        name=version.name,
        number=version.number,
        detector=version.detector,
        classes=version.classes,
        created_at=version.created_at,
        parent=version.parent,
        images_labelled=version.images_labelled,
        label_counts=version.label_counts,
        train_images=version.train_images,
        validation_images=version.validation_images,
        boxes=version.boxes,
        metrics=metrics,
        trained=version.is_trained,
        promoted=version.gate.promoted,
        verdict=version.gate.reason,
        problems=version.problems,
        removed_at=version.removed_at,
        seconds=float(seconds) if isinstance(seconds, int | float) else None,
        size=size,
        intervals={name: (float(low), float(high)) for name, (low, high) in intervals.items()},
    )
