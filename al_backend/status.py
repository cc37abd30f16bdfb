"""What a person wants to know about a project: what there is, what runs, what comes next and why."""

from __future__ import annotations

from typing import Any

import polars as pl

from al_backend.cycle import (
    MAX_ATTEMPTS,
    CancelledTraining,
    TrainedOn,
    cancellation_in_force,
    counted_from,
    missing_labels,
    pending_labels,
)
from al_backend.errors import LabelConfigError
from al_backend.jobs.client import last_error, overview
from al_backend.jobs.current import cancelled_training, current_ranking, newest_ranking, training_cancelled_at
from al_backend.jobs.documents import PUBLISHED, published_model_version, read_attempt
from al_backend.jobs.failures import last_failures
from al_backend.jobs.observe import trained_on
from al_backend.jobs.queues import QueueName, Queues
from al_backend.jobs.strategies import shortfall
from al_backend.jobs.tries import in_vain
from al_backend.labelstudio.client import LabelStudio, Project
from al_backend.labelstudio.codec import choose_annotation, label_digest
from al_backend.labelstudio.labeling_config import SKIPPED, parse_labeling_config
from al_backend.learning_curve import worth_of_labels
from al_backend.registry import Registry, Version
from al_backend.settings import LearningSettings, Settings


def project_status(
    settings: Settings, registry: Registry, label_studio: LabelStudio, queues: Queues, project_id: int
) -> dict[str, Any]:
    """Everything about one project as plain values.

    Returns:
        `project`, `labels`, `worth_of_labels` (mAP50 per 100 labels over the last cycles, None while that cannot be
        said), `pool`, `active`, `versions`, `training`, `ranking`, `published`, `unreadable` (task and reason),
        `problems` (what the last training left out), `workers`, `jobs` and `notes`: sentences about what is missing
        or wrong.
    """
    project = label_studio.project(project_id)
    record = registry.project(project_id)
    learning = settings.learning if record is None else settings.learning.overridden(record.overrides)
    labels = {
        task.id: label_digest(chosen)
        for task in label_studio.labelled_tasks(project_id)
        if (chosen := choose_annotation(task.annotations)) is not None
    }
    pool = len(label_studio.open_tasks(project_id))
    versions = registry.versions(project_id)
    newest = trained_on(versions)
    pointer = registry.active(project_id)
    active = next(
        (version for version in registry.all_versions(project_id) if pointer and version.name == pointer.version), None
    )
    live = overview(queues)
    jobs = [job for job in live["jobs"] if job["project"] == project_id]
    error = last_error(queues, project_id)
    cancelled = cancellation_in_force(newest, cancelled_training(registry, project_id))
    worth = worth_of_labels(versions, learning.stop_gain)
    ranking = _ranking(registry, project_id, active)
    return {
        "project": {"id": project.id, "title": project.title, "connected": record is not None},
        "labels": _labels(labels, newest, cancelled, learning),
        "worth_of_labels": None if worth is None else worth.gain,
        "pool": pool,
        "active": None if active is None else _version(active),
        "versions": len(versions),
        "training": _training(registry, project_id, jobs, cancelled),
        "ranking": ranking,
        "published": registry.read_document(project_id, PUBLISHED),
        "unreadable": unreadable(registry, project_id, active),
        "problems": [] if newest is None else list(_named(versions, newest.version).problems),
        "workers": {name: len(queue["workers"]) for name, queue in live["queues"].items()},
        "jobs": jobs,
        "notes": [
            *_notes(project, record is not None, labels, newest, learning, live, versions, registry, queues),
            *_cancellations(registry, project_id, cancelled, _missing(labels, newest, cancelled, learning)),
            *([worth.sentence] if worth is not None and worth.stop else []),
            *_shortfalls(registry, project_id, active),
            *_blind(registry, project_id),
            *in_vain(queues.connection, project_id, None if ranking is None else ranking["id"]),
            *([] if error is None else [f"The last look at the project failed: {error}"]),
        ],
    }


def unreadable(registry: Registry, project_id: int, active: Version | None) -> list[dict[str, Any]]:
    """Tasks of the active version's ranking whose image could not be read: `{"task", "reason"}`, by task id."""
    ranking = newest_ranking(registry.rankings(project_id), None if active is None else active.name)
    if ranking is None or not registry.finished_shards(project_id, ranking.id):
        return []
    bad = registry.read_shards(project_id, ranking.id).filter(pl.col("error").is_not_null()).sort("task_id")
    return [{"task": task, "reason": reason} for task, reason in bad.select("task_id", "error").iter_rows()]


def _trains(live: dict[str, Any], project_id: int) -> bool:
    return any(job["project"] == project_id and job["kind"] == "train" for job in live["jobs"])


def _labels(
    labels: dict[int, str],
    newest: TrainedOn | None,
    cancelled: CancelledTraining | None,
    learning: LearningSettings,
) -> dict[str, Any]:
    return {
        "images": len(labels),
        "new": pending_labels(labels, newest),
        "missing_until_training": _missing(labels, newest, cancelled, learning),
        "first_training_at": learning.min_labels,
        "train_every": learning.train_every,
    }


def _missing(
    labels: dict[int, str],
    newest: TrainedOn | None,
    cancelled: CancelledTraining | None,
    learning: LearningSettings,
) -> int:
    if cancelled is not None and cancelled.labels is None:  # nobody has looked since; all that is there counts as seen
        return max(learning.train_every, learning.min_labels - len(labels))
    return missing_labels(labels, counted_from(newest, cancelled), learning)


def _version(version: Version) -> dict[str, Any]:
    metrics = version.metrics or {}
    return {
        "version": version.name,
        "trained": version.is_trained,
        "detector": version.detector,
        "classes": list(version.classes),
        "labels": version.images_labelled,
        "boxes": version.boxes,
        "validation_images": version.validation_images,
        "map50": metrics.get("map50"),
        "map50_95": metrics.get("map50_95"),
        "created_at": version.created_at.isoformat(),
        "gate": version.gate.reason,
    }


def _training(
    registry: Registry, project_id: int, jobs: list[dict[str, Any]], cancelled: CancelledTraining | None
) -> dict[str, Any]:
    attempt = read_attempt(registry, project_id)
    running = next((job for job in jobs if job["kind"] == "train"), None)
    by_hand = cancelled is not None and (attempt is None or attempt.started_at <= cancelled.at)
    return {
        "status": ("cancelled by hand" if by_hand else "idle") if running is None else running["status"],
        "progress": None if running is None else running["progress"],
        "attempts": 0 if attempt is None else attempt.count,
        "error": None if attempt is None else attempt.error,
    }


def _ranking(registry: Registry, project_id: int, active: Version | None) -> dict[str, Any] | None:
    ranking = newest_ranking(registry.rankings(project_id), None if active is None else active.name)
    if ranking is None:
        return None
    finished = {index for index in registry.finished_shards(project_id, ranking.id) if index < ranking.shards}
    return {
        "id": ranking.id,
        "version": ranking.version,
        "strategy": ranking.strategy,
        "tasks": ranking.tasks,
        "shards": ranking.shards,
        "finished_shards": len(finished),
        "created_at": ranking.created_at.isoformat(),
        "cancelled": current_ranking(registry, project_id).cancelled == ranking.id,
    }


def _shortfalls(registry: Registry, project_id: int, active: Version | None) -> list[str]:
    ranking = newest_ranking(registry.rankings(project_id), None if active is None else active.name)
    sentence = None if ranking is None else shortfall(ranking)
    return [] if sentence is None else [sentence]


def _blind(registry: Registry, project_id: int) -> list[str]:
    """Whether most of the published order is not by what images show."""
    served = published_model_version(registry, project_id)
    summary = (None if served is None else registry.read_summary(project_id, served)) or {}
    count = (summary.get("unreadable") or {}).get("count", 0)
    if count <= summary.get("images", 0):
        return []
    return [
        f"{count} of the {count + summary['images']} images of the published order could not be read, so it says "
        f"little. Once they can be had, `al-backend rank {project_id}` makes another."
    ]


def _cancellations(registry: Registry, project_id: int, training: CancelledTraining | None, missing: int) -> list[str]:
    found = []
    if training is not None:
        found.append(
            f"The training was cancelled by hand at {training.at:%Y-%m-%d %H:%M} UTC; {missing} more new labels or "
            f"`al-backend train {project_id}` start the next."
        )
    ranking = current_ranking(registry, project_id).cancelled
    if ranking is not None:
        found.append(
            f"The ranking {ranking} was cancelled by hand, the order before it stays; `al-backend rank {project_id}` "
            "starts another."
        )
    return found


def _named(versions: list[Version], name: str) -> Version:
    return next(version for version in versions if version.name == name)


def _notes(
    project: Project,
    connected: bool,
    labels: dict[int, str],
    newest: TrainedOn | None,
    learning: LearningSettings,
    live: dict[str, Any],
    versions: list[Version],
    registry: Registry,
    queues: Queues,
) -> list[str]:
    notes: list[str] = []
    if not connected:
        notes.append(f"The project is not connected; run `al-backend connect {project.id}`.")
    try:
        config = parse_labeling_config(project.label_config)
    except LabelConfigError as error:
        notes.append(str(error))
    else:
        if config.skip:
            notes.append(SKIPPED)
        if versions and versions[-1].classes != config.labels:
            notes.append("The labelling config has other labels than the newest version; the next training uses them.")
    missing = missing_labels(labels, newest, learning)
    if newest is None and missing and training_cancelled_at(registry, project.id) is None:
        notes.append(
            f"{missing} more labelled images start the first training ({len(labels)} of {learning.min_labels})."
        )
    failures = last_failures(queues.connection, project.id)
    attempt = read_attempt(registry, project.id)
    if attempt is not None and attempt.error is not None and attempt.error in failures.get("train", attempt.error):
        failures.pop("train", None)
        again = "label more images or run `al-backend train`" if attempt.count >= MAX_ATTEMPTS else "it is tried again"
        notes.append(f"The last training failed ({attempt.error}); {again}.")
    elif attempt is not None and attempt.count >= MAX_ATTEMPTS and missing == 0 and not _trains(live, project.id):
        notes.append(
            f"{attempt.count} trainings of the same labels were started and none used them all; killed, maybe for want "
            "of memory, or images could not be had. Label more images or run `al-backend train`."
        )
    notes += [f"The last {kind} job failed ({reason}); it is tried again." for kind, reason in failures.items()]
    idle = [name.value for name in QueueName if not live["queues"][name.value]["workers"]]
    if idle:
        notes.append(f"No worker takes the queues {', '.join(idle)}; start `al-backend worker` or `al-backend up`.")
    refused = [version for version in versions if not version.gate.promoted]
    if refused and refused[-1] is versions[-1]:
        notes.append(f"The newest version {refused[-1].name} was refused: {refused[-1].gate.reason}")
    return notes
