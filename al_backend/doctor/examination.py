"""The order of the checks: this machine, then Label Studio, then one project."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from al_backend.doctor import surroundings
from al_backend.doctor.finding import Finding
from al_backend.doctor.project import examine_project
from al_backend.doctor.subject import Subject
from al_backend.settings import Settings


class Examination:
    """The findings, and the project that they are about; its Label Studio is open.

    Attributes:
        findings: one per check, in the order of the checks.
        subject: None without a project, or without a Label Studio that answers.
    """

    def __init__(self, general: list[Finding], subject: Subject | None) -> None:
        self._general = general
        self.subject = subject
        self.findings = self.again()

    def again(self) -> list[Finding]:
        """The findings, with the project looked at anew."""
        return self._general + ([] if self.subject is None else examine_project(self.subject))


def examine(settings: Settings, project_id: int | None = None) -> list[Finding]:
    """Look at everything that the product stands on; nothing is changed, and one broken part hides no other.

    Args:
        settings: that the web server and the workers run with.
        project_id: also look at this project's connection; None looks at what all projects share.

    Returns:
        One finding per check, in the order of the checks. It takes some seconds, most of them Label Studio's.
    """
    with open_examination(settings, project_id) as examination:
        return examination.findings


@contextmanager
def open_examination(settings: Settings, project_id: int | None) -> Iterator[Examination]:
    """`examine`, with what it has opened still open inside the block."""
    findings = surroundings.authentication(settings)
    redis_findings, queues = surroundings.redis_and_workers(settings)
    registry_findings, registry = surroundings.registry(settings)
    findings += [*redis_findings, *registry_findings, surroundings.disk(settings), surroundings.web_server(settings)]
    label_studio_findings, label_studio = surroundings.label_studio(settings)
    findings += label_studio_findings
    if label_studio is None:
        yield Examination(findings, None)
        return
    try:
        subject = None if project_id is None else Subject(settings, label_studio, registry, queues, project_id)
        yield Examination(findings, subject)
    finally:
        label_studio.close()
