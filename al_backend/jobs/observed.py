"""What the last look at a project found, kept for people: a page must not list a project while somebody waits."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from al_backend import cycle
from al_backend.jobs.context import Context
from al_backend.jobs.documents import now
from al_backend.jobs.observe import Observation
from al_backend.registry import Registry
from al_backend.settings import LearningSettings

OBSERVED = "observed"

_UNCHANGED = timedelta(minutes=5)
"""Age at which the same numbers are written once more, so that it shows that somebody still looks."""


@dataclass(frozen=True, slots=True)
class Observed:
    """Numbers of a project at one moment.

    Attributes:
        at: when they were read from Label Studio.
        title: of the project.
        labels: labelled tasks.
        new_labels: of them, new or changed since the newest version was trained.
        missing_labels: more labels until the next training starts by itself; 0 when one is due.
        pool: tasks without a label.
        scored: tasks of the pool with a prediction of the published order.
        model_version: that Label Studio shows; "" for none.
        ranking: id of the newest ranking of the active version; None without one.
        taken: of the published order's first images, those that are not open any more.
    """

    at: datetime
    title: str
    labels: int
    new_labels: int
    missing_labels: int
    pool: int
    scored: int
    model_version: str
    ranking: str | None
    taken: tuple[int, ...]


def note_observation(
    here: Context, project_id: int, seen: Observation, state: cycle.State, settings: LearningSettings
) -> None:
    """Keep the numbers of a look; nothing is written while they are the same as a moment ago."""
    labels = dict(seen.snapshot.labels)
    content = {
        "title": seen.title,
        "labels": len(labels),
        "new_labels": cycle.pending_labels(labels, state.trained_on),
        "missing_labels": cycle.missing_labels(labels, state.trained_on, settings),
        "pool": len(seen.snapshot.pool),
        "scored": len(seen.snapshot.scored & set(seen.snapshot.pool)),
        "model_version": seen.snapshot.model_version,
        "ranking": None if state.ranking is None else state.ranking.id,
        "taken": _taken(here.registry, project_id, state.published, seen.snapshot.pool),
    }
    last = here.registry.read_document(project_id, OBSERVED) or {}
    moment = now()
    fresh = "at" in last and moment - datetime.fromisoformat(last["at"]) < _UNCHANGED
    if not fresh or {key: value for key, value in last.items() if key != "at"} != content:
        here.registry.write_document(project_id, OBSERVED, {"at": moment.isoformat(), **content})


def read_observed(registry: Registry, project_id: int) -> Observed | None:
    """What the last look found; None before the first one, and after one of an older release."""
    document = registry.read_document(project_id, OBSERVED)
    if document is None or not {field.name for field in fields(Observed)} <= document.keys():
        return None
    values: dict[str, Any] = dict(document)
    return Observed(
        **{field.name: values[field.name] for field in fields(Observed) if field.name not in ("at", "taken")},
        at=datetime.fromisoformat(values["at"]),
        taken=tuple(values["taken"]),
    )


def _taken(registry: Registry, project_id: int, published: str | None, pool: tuple[int, ...]) -> list[int]:
    head = None if published is None else registry.read_head(project_id, published)
    if head is None:
        return []
    still_open = set(pool)
    return [task for task in head["task_id"].to_list() if task not in still_open]
