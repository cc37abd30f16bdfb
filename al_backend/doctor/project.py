"""Checks of one project: its order, its annotators, its labels and one of its images."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import redis

from al_backend.base_checkpoint import describe_checkpoint
from al_backend.doctor import order
from al_backend.doctor.connection import model_connection, other_webhooks, webhook
from al_backend.doctor.finding import Finding, error, fine, warning
from al_backend.doctor.subject import Subject
from al_backend.errors import BackendError, LabelConfigError, LabelStudioError
from al_backend.inference import image_value
from al_backend.jobs.client import error_key
from al_backend.jobs.current import current_ranking
from al_backend.jobs.documents import published_model_version, read_attempt
from al_backend.jobs.failures import last_failures
from al_backend.jobs.tries import in_vain
from al_backend.labelstudio.client import Project
from al_backend.labelstudio.images import ImageSource
from al_backend.labelstudio.labeling_config import LabelingConfig, parse_labeling_config
from model.errors import ImageUnreadable
from model.images import image_size


def examine_project(subject: Subject) -> list[Finding]:
    """One finding per check; only the first when the project cannot be read.

    Each check stands alone, so that a failing one leaves the others their say.
    """
    try:
        project = subject.label_studio.project(subject.project_id)
    except LabelStudioError as found:
        remedy = "Check the number (it is in the project's address, /projects/NUMBER/) and whose key is used."
        return [error("project", str(found), remedy)]
    result = [fine("project", f'Project {subject.project_id} is "{project.title}" with {project.task_number} tasks.')]
    try:
        config = parse_labeling_config(project.label_config)
        result.append(fine("labelling config", f"It has the labels {', '.join(config.labels)}."))
    except LabelConfigError as found:
        result.append(error("labelling config", str(found), "Correct it in Settings, Labeling Interface."))
        config = None
    parts: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("model connection", lambda: model_connection(subject, project)),
        ("webhook", lambda: webhook(subject)),
        ("other webhooks", lambda: other_webhooks(subject)),
        ("sampling", lambda: order.sampling(subject, project)),
        ("model version", lambda: order.model_version(subject, project)),
        ("predictions", lambda: order.predictions(subject, project)),
        ("queue tab", lambda: order.queue_tab(subject)),
        ("project settings", lambda: order.surprises(project)),
        ("annotators", lambda: _annotators(subject, project)),
        ("registry entry", lambda: _registered(subject)),
        ("last run", lambda: _last_run(subject)),
        ("weights", lambda: _weights(subject)),
    ]
    if config is not None:
        checked = config
        parts += [("labels", lambda: _labels(subject, checked)), ("image", lambda: _image(subject, checked))]
    for name, look in parts:
        try:
            result += look()
        except (BackendError, redis.RedisError) as found:
            result.append(error(name, f"This could not be looked at: {found}", "Solve what is named, and ask again."))
    return result


def _annotators(subject: Subject, project: Project) -> Iterator[Finding]:
    check, exact = "annotators", True
    members = subject.label_studio.members(subject.project_id)
    if members > 1:
        exact = False
        yield warning(
            check,
            f"The project has {members} members: Label Studio then draws the next task at random among the scored.",
            'Use the tab "Active learning queue" with "Label Tasks As Displayed", where two people may get the same '
            "task, or remove the members.",
        )
    if project.maximum_annotations > 1:
        exact = False
        yield warning(
            check,
            f"Each task needs {project.maximum_annotations} annotations: begun tasks come first, at random. "
            "Expected 1 for an exact order.",
            "Set annotations per task to 1, or live with a looser order.",
        )
    if not project.show_collab_predictions:
        exact = False
        yield warning(
            check,
            "The project does not show predictions to annotators, so boxes are drawn from nothing.",
            'Switch on "Use predictions to prelabel tasks" in Settings, Annotation.',
        )
    if exact:
        yield fine(
            check,
            "One annotation per task, no extra members: the order is exact. A task that somebody has open stays theirs "
            "for a day, whatever the order says since.",
        )


def _registered(subject: Subject) -> Iterator[Finding]:
    if subject.registry is None:
        return
    if subject.registry.project(subject.project_id) is None:
        yield error(
            "registry entry", f"The registry does not know project {subject.project_id}.", subject.connect_again
        )
    else:
        yield fine("registry entry", f"The registry knows project {subject.project_id}.")


def _last_run(subject: Subject) -> Iterator[Finding]:
    if subject.queues is not None:
        said = subject.queues.connection.get(error_key(subject.project_id))
        if said:
            yield error(
                "reconcile",
                f"The last look at the project failed: {said.decode() if isinstance(said, bytes) else said}",
                "See the log.",
            )
        for kind, reason in last_failures(subject.queues.connection, subject.project_id).items():
            yield error(
                f"{kind} job",
                f"The last {kind} job failed: {reason}",
                "Solve what it names; it is tried again by itself.",
            )
        ranking = None if subject.registry is None else current_ranking(subject.registry, subject.project_id).ranking
        for sentence in in_vain(subject.queues.connection, subject.project_id, None if ranking is None else ranking.id):
            yield warning(
                "repeated work", sentence, "See the log of its worker; an image that is to blame is left out."
            )
    yield from _left_out(subject)
    attempt = read_attempt(subject.registry, subject.project_id) if subject.registry is not None else None
    if attempt is not None and attempt.error:
        yield error(
            "training",
            f"The last training failed: {attempt.error}",
            f"Solve what it names; new labels or `al-backend train {subject.project_id}` start the next one.",
        )


def _left_out(subject: Subject) -> Iterator[Finding]:
    published = None if subject.registry is None else published_model_version(subject.registry, subject.project_id)
    if subject.registry is None or published is None:
        return
    unreadable = (subject.registry.read_summary(subject.project_id, published) or {}).get("unreadable") or {}
    if unreadable.get("count"):
        first = unreadable["first"][0]
        yield warning(
            "unreadable images",
            f"{unreadable['count']} images of the published order could not be read, the first is that of task "
            f"{first['task']}: {first['reason']}",
            f"`al-backend status {subject.project_id}` lists them all.",
        )


def _weights(subject: Subject) -> Iterator[Finding]:
    record = None if subject.registry is None else subject.registry.project(subject.project_id)
    if subject.registry is None or record is None or subject.registry.versions(subject.project_id):
        return
    detector = subject.settings.learning.overridden(record.overrides).detector
    trained, sentence = describe_checkpoint(subject.registry, detector)
    if trained:
        yield fine("weights", sentence)
    else:
        yield warning("weights", sentence, f"Run `al-backend fetch-weights {detector}`.")


def _labels(subject: Subject, config: LabelingConfig) -> Iterator[Finding]:
    version = None if subject.registry is None else subject.registry.active_version(subject.project_id)
    if version is None or not version.is_trained:
        yield fine("labels", "No version is trained yet, so all labels will be learnt by the first training.")
        return
    classes = version.classes
    known = {config.label_of(name) for name in classes}
    missing = [label for label in config.labels if label not in known]
    if missing:
        yield warning(
            "labels",
            f"{version.name} cannot predict {', '.join(missing)}: it knows {', '.join(classes)}.",
            f"Label some of them; `al-backend train {subject.project_id}` makes a version that knows them.",
        )
    else:
        yield fine("labels", f"{version.name} knows every label of the config.")


def _image(subject: Subject, config: LabelingConfig) -> Iterator[Finding]:
    check = "image"
    task = next(iter(subject.label_studio.open_tasks(subject.project_id)), None)
    if task is None:
        yield fine(check, "No task is open, so no image was tried.")
        return
    value = image_value(task.data, config)
    if value is None:
        keys = ", ".join(task.data) or "none"
        yield error(
            check,
            f'Task {task.id} names no image under "{config.data_key}"; its keys are {keys}.',
            f'Import tasks with "{config.data_key}", or correct value="${config.data_key}" in the config.',
        )
        return
    try:
        # A folder of its own, because a copy in the cache would say nothing about today.
        with (
            tempfile.TemporaryDirectory() as folder,
            closing(ImageSource(subject.label_studio, subject.settings, Path(folder))) as source,
        ):
            height, width = image_size(source.fetch(value, task_id=task.id))
    except (BackendError, ImageUnreadable) as found:
        yield error(
            check,
            f"The image of task {task.id} cannot be had: {found}",
            "Check that the key's user may open it in Label Studio, and AL_IMAGE_HOSTS for other hosts.",
        )
        return
    yield fine(check, f"The image of task {task.id} was fetched: {width} x {height} pixels.")
