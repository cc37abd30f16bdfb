"""The order of the checks: this machine, then Label Studio, then one project."""

from __future__ import annotations

from al_backend.doctor import surroundings
from al_backend.doctor.finding import Finding
from al_backend.doctor.project import examine_project
from al_backend.doctor.subject import Subject
from al_backend.settings import Settings


def examine(settings: Settings, project_id: int | None = None) -> list[Finding]:
    """Look at everything that the product stands on; nothing is changed, and one broken part hides no other.

    Args:
        settings: that the web server and the workers run with.
        project_id: also look at this project's connection; None looks at what all projects share.

    Returns:
        One finding per check, in the order of the checks. It takes some seconds, most of them Label Studio's.
    """
    findings = surroundings.authentication(settings)
    redis_findings, queues = surroundings.redis_and_workers(settings)
    registry_findings, registry = surroundings.registry(settings)
    findings += [*redis_findings, *registry_findings, surroundings.disk(settings), surroundings.web_server(settings)]
    label_studio_findings, label_studio = surroundings.label_studio(settings)
    findings += label_studio_findings
    if project_id is not None and label_studio is not None:
        findings += examine_project(Subject(settings, label_studio, registry, queues, project_id))
    if label_studio is not None:
        label_studio.close()
    return findings
