"""`doctor --fix`: repairs what cannot hurt anybody, and says what it leaves to a person."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from al_backend.connect import connect, our_backends
from al_backend.doctor.examination import Examination, open_examination
from al_backend.doctor.finding import Finding
from al_backend.doctor.order import find_bad_predictions
from al_backend.doctor.subject import Subject
from al_backend.errors import BackendError
from al_backend.jobs.client import enqueue_reconcile
from al_backend.jobs.documents import published_model_version
from al_backend.settings import Settings

_MOST_DELETED = 2000  # predictions; two minutes of Label Studio's time


@dataclass(frozen=True, slots=True)
class Treatment:
    """What `doctor --fix` did.

    Attributes:
        repaired: one sentence for each change; empty when there was nothing to do.
        failed: repairs that were tried and refused, one sentence each.
        left: what remains wrong and needs a person, as the doctor finds it now.
        findings: of the examination after the repairs.
    """

    repaired: tuple[str, ...]
    failed: tuple[str, ...]
    left: tuple[Finding, ...]
    findings: tuple[Finding, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "repaired": list(self.repaired),
            "failed": list(self.failed),
            "left": [finding.as_dict() for finding in self.left],
            "findings": [finding.as_dict() for finding in self.findings],
        }

    def __str__(self) -> str:
        lines = [str(finding) for finding in self.findings if finding.ok]
        lines += [f"repaired: {sentence}" for sentence in self.repaired] or ["repaired: nothing, it was not needed"]
        lines += [f"refused: {sentence}" for sentence in self.failed]
        if self.left:
            lines.append("left to a person:")
            lines += [str(finding) for finding in self.left]
        return "\n".join(lines)


def treat(settings: Settings, project_id: int) -> Treatment:
    """Examine a project, repair what is safe, and examine it again. Doing it twice changes nothing the second time.

    Repaired are: the webhook, title, password and sampling of a project that was connected before, the model version
    that the project shows, the queue's tab, and predictions of the published version that are double or have no score.
    Left to a person is what somebody may have meant so (annotations per task, members, hidden predictions, other model
    connections), and what lies outside of Label Studio.

    Args:
        settings: that the web server and the workers run with.
        project_id: the project.
    """
    with open_examination(settings, project_id) as examination:
        repaired, failed = _repair(examination)
        findings = tuple(examination.again()) if repaired else tuple(examination.findings)
        if repaired and examination.subject is not None and examination.subject.queues is not None:
            enqueue_reconcile(examination.subject.queues, project_id, "doctor --fix")
    return Treatment(tuple(repaired), tuple(failed), tuple(item for item in findings if not item.ok), findings)


def _repair(examination: Examination) -> tuple[list[str], list[str]]:
    subject = examination.subject
    if subject is None:
        return [], []
    wrong = {finding.check for finding in examination.findings if not finding.ok}
    repaired: list[str] = []
    failed: list[str] = []
    for checks, repair in _REPAIRS:
        if wrong & set(checks):
            try:
                repaired += repair(subject)
            except BackendError as error:
                failed.append(f"{', '.join(sorted(wrong & set(checks)))}: {error}")
    return repaired, failed


def _connection(subject: Subject) -> list[str]:
    """What `connect` does, for a project that a person connected before: a first connection is theirs to make."""
    registry, settings = subject.registry, subject.settings
    if registry is None:
        return []
    ours = our_backends(subject.label_studio.ml_backends(subject.project_id), settings.own_url)
    if registry.project(subject.project_id) is None and not ours:
        return []
    report = connect(settings, subject.label_studio, registry, subject.project_id, queues=subject.queues)
    return list(report.changes)


def _model_version(subject: Subject) -> list[str]:
    published = None if subject.registry is None else published_model_version(subject.registry, subject.project_id)
    client = subject.label_studio
    shown = client.project(subject.project_id).model_version
    if published is None or shown == published or not client.model_versions(subject.project_id).get(published):
        return []
    client.publish_model_version(subject.project_id, published)
    return [f'the project shows the model version "{published}" again, not "{shown}"']


def _queue_tab(subject: Subject) -> list[str]:
    client = subject.label_studio
    tabs = client.queue_tabs(subject.project_id)
    if not tabs:
        if subject.registry is None or subject.registry.project(subject.project_id) is None:
            return []
        client.ensure_queue_tab(subject.project_id)
        return ["made the queue's tab in the Data Manager"]
    if client.is_queue_order(tabs[0]):
        return []
    client.restore_queue_tab(subject.project_id, tabs[0])
    return ["set the order and the filter of the queue's tab"]


def _predictions(subject: Subject) -> list[str]:
    published = None if subject.registry is None else published_model_version(subject.registry, subject.project_id)
    if published is None:
        return []
    client = subject.label_studio
    stored = client.model_versions(subject.project_id).get(published, 0)
    tasks = len(client.tasks_with_version(subject.project_id, published)) if stored else 0
    project = client.project(subject.project_id)
    bad = find_bad_predictions(client, project, published, stored, tasks)
    done = []
    for ids, what in ((bad.scoreless, "predictions without a score"), (bad.duplicates, "second predictions")):
        deleted = client.delete_predictions(ids[:_MOST_DELETED])
        if deleted:
            done.append(f"deleted {deleted} {what} of {published}")
    return done


_REPAIRS: tuple[tuple[tuple[str, ...], Callable[[Subject], list[str]]], ...] = (
    (("model connection", "title", "webhook", "sampling", "registry entry"), _connection),
    (("predictions",), _predictions),
    (("model version", "title"), _model_version),
    (("queue tab",), _queue_tab),
)
"""Checks, and what repairs them. Predictions come before the version: a version without any cannot be shown."""
