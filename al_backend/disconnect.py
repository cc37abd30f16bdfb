"""Takes a project out of this backend: the other way round than `connect`. Idempotent."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from rq.job import Job

from al_backend.connect import our_backends
from al_backend.errors import BackendError, LabelStudioError
from al_backend.jobs.cancel import cancel
from al_backend.jobs.client import error_key, gone_key, pending_key
from al_backend.jobs.context import job_name
from al_backend.jobs.failures import failures_key
from al_backend.jobs.liveness import in_flight
from al_backend.jobs.queues import QueueName, Queues
from al_backend.labelstudio.client import LabelStudio
from al_backend.registry import Registry
from al_backend.settings import Settings

_STOPS_WITHIN = 60.0  # seconds; a training stops after its step
_LOOK_EVERY = 0.5


@dataclass(frozen=True)
class DisconnectReport:
    """What `disconnect` did.

    Attributes:
        project: Label Studio's project id.
        changes: what was removed, one phrase each; empty when it was done before.
        kept: names of the versions that stay for a later `connect`.
        warnings: what could not be done and is left to a person.
    """

    project: int
    changes: tuple[str, ...]
    kept: tuple[str, ...]
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def __str__(self) -> str:
        lines = [
            f"Project {self.project} is not connected to this backend any more.",
            f"  changed now: {', '.join(self.changes) or 'nothing, it was not connected'}",
        ]
        if self.kept:
            lines.append(
                f"  kept: {len(self.kept)} versions with what they were trained on; `al-backend connect "
                f"{self.project}` goes on with them"
            )
        return "\n".join([*lines, *(f"  warning: {warning}" for warning in self.warnings)])


def disconnect(
    settings: Settings,
    registry: Registry,
    project_id: int,
    *,
    label_studio: LabelStudio | None,
    queues: Queues | None,
    url: str | None = None,
    delete_versions: bool = False,
) -> DisconnectReport:
    """Stop serving a project, and have Label Studio send nothing here any more.

    Predictions, the sampling and the queue's tab stay in Label Studio, where people may be working with them. What
    cannot be reached is left with a warning; calling it again does what is missing.

    Args:
        settings: the default URL.
        registry: that the workers use.
        project_id: the project; it need not exist in Label Studio any more.
        label_studio: None when there is no key.
        queues: None when no Redis answers, and then nobody works either.
        url: under which Label Studio reached this backend; `settings.own_url` by default.
        delete_versions: remove its weights, rankings and history from the registry, for good.

    Raises:
        BackendError: `delete_versions`, and a training does not stop.
    """
    url = (url or settings.own_url).rstrip("/")
    changes: list[str] = []
    warnings: list[str] = []
    # Label Studio first: as long as it knows us, its next /setup would register the project again.
    if label_studio is None:
        warnings.append("without LABEL_STUDIO_API_KEY the model connection and the webhook stay in Label Studio")
    else:
        _leave_label_studio(label_studio, project_id, url, changes, warnings)
    if registry.project(project_id) is not None:
        registry.forget_project(project_id)
        changes.append("took the project out of the registry")
    if queues is not None:
        _stop_jobs(queues, registry, project_id, changes)
    names = tuple(version.name for version in registry.all_versions(project_id))
    if not delete_versions:
        return DisconnectReport(project_id, tuple(changes), names, tuple(warnings))
    if queues is not None:
        _wait_for_training(queues, project_id)
    registry.delete_project(project_id)
    if names:
        changes.append(f"deleted {len(names)} versions with their rankings and history")
    return DisconnectReport(project_id, tuple(changes), (), tuple(warnings))


def _leave_label_studio(
    label_studio: LabelStudio, project_id: int, url: str, changes: list[str], warnings: list[str]
) -> None:
    by_hand = "remove the model connection and the webhook there by hand"
    try:
        label_studio.project(project_id)
        hooks = [hook for hook in label_studio.webhooks(project_id) if str(hook["url"]).rstrip("/") == f"{url}/webhook"]
        for hook in hooks:
            label_studio.delete_webhook(hook["id"])
            changes.append("removed the webhook")
        for backend in our_backends(label_studio.ml_backends(project_id), url):
            label_studio.delete_ml_backend(backend["id"])
            changes.append(f'removed the model connection "{backend["title"]}"')
        others = [str(backend["url"]) for backend in label_studio.ml_backends(project_id)]
    except LabelStudioError as error:
        if error.status != 404:
            warnings.append(f"Label Studio was not asked to the end, {by_hand}: {error}")
        return  # with the project its connections are gone, too
    if others:
        warnings.append(
            f"the project has other model connections, which were left alone: {', '.join(others)}; "
            "if one of them is this backend's, repeat with --url"
        )


def _stop_jobs(queues: Queues, registry: Registry, project_id: int, changes: list[str]) -> None:
    stopped = cancel(queues, registry, project_id)
    if stopped.training is not None:
        changes.append("cancelled the training")
    if stopped.ranking is not None:
        changes.append("cancelled the ranking")
    removed = stopped.removed_jobs
    for name in QueueName:
        queue = queues.queue(name)
        for job in Job.fetch_many(queue.get_job_ids(), connection=queues.connection, serializer=queues.serializer):
            if job is not None and job.meta.get("project") == project_id:
                removed += job.meta.get("kind") != "reconcile"  # looks come and go by themselves
                job.delete()
    if removed:
        changes.append(f"took {removed} jobs out of the queues")
    keys = (pending_key, error_key, gone_key, failures_key)
    queues.connection.delete(*(key(project_id) for key in keys))


def _wait_for_training(queues: Queues, project_id: int) -> None:
    deadline = time.monotonic() + _STOPS_WITHIN
    while in_flight(queues, QueueName.TRAIN, job_name("train", project_id)):
        if time.monotonic() > deadline:
            raise BackendError(
                f"The training of project {project_id} has not stopped within {_STOPS_WITHIN:.0f} s, so its versions "
                "stay. The project is disconnected; run the same command again to delete them."
            )
        time.sleep(_LOOK_EVERY)
