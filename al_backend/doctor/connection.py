"""Checks of how Label Studio finds this backend: the model connection and the webhook."""

from __future__ import annotations

from collections.abc import Iterator

from al_backend.connect import CONNECTED, SWITCHES, Backend, bearer_headers, our_backends, stored_versions
from al_backend.doctor.finding import Finding, error, fine, warning
from al_backend.doctor.subject import Subject
from al_backend.errors import BackendError
from al_backend.extra_params import parse_extra_params
from al_backend.labelstudio.client import Project


def model_connection(subject: Subject, project: Project) -> Iterator[Finding]:
    """Whether exactly one connection leads here, is alive, comes first and has a usable title and extra params."""
    check, url = "model connection", subject.settings.own_url
    backends = sorted(subject.label_studio.ml_backends(subject.project_id), key=lambda backend: int(backend["id"]))
    ours = our_backends(backends, url)
    if not ours:
        there = ", ".join(str(backend["url"]) for backend in backends) or "none"
        yield error(check, f"No model connection leads to {url}; found {there}.", subject.connect_again)
        return
    backend = ours[0]
    if backend.get("state") != CONNECTED:
        yield error(
            check,
            f'Label Studio does not reach {url}: "{backend["title"]}" is {backend.get("readable_state")} '
            f"({backend.get('error_message') or 'no reason given'}); expected Connected.",
            "Check that the backend runs, that Label Studio can reach this address (AL_PUBLIC_URL), and that the "
            f"password of the connection is BASIC_AUTH_PASS. {subject.connect_again}",
        )
    elif len(ours) > 1:
        yield warning(check, f"{len(ours)} model connections lead to {url}; expected 1.", subject.connect_again)
    elif backends[0]["id"] != backend["id"]:
        yield warning(
            check,
            f'Label Studio asks only the first model connection, "{backends[0]["title"]}"; ours is another.',
            "Remove that one in Settings, Model, if it is not needed.",
        )
    else:
        yield fine(check, f'"{backend["title"]}" is connected to {url}.')
    yield from _title(subject, project, backend)
    yield _extra_params(subject, backend)


def _title(subject: Subject, project: Project, backend: Backend) -> Iterator[Finding]:
    title = str(backend["title"])
    if title in stored_versions(subject.label_studio, subject.project_id):
        yield error(
            "title",
            f'The model connection has the title "{title}", which is also a model version; expected another.',
            subject.connect_again,
        )
    elif project.model_version == title:
        yield error(
            "title",
            f'The project shows the model version "{title}", which is the title of the model connection: no '
            "prediction carries it, so Label Studio orders at random. Expected a version, or none yet.",
            f"{subject.connect_again} It sets the published version.",
        )
    else:
        yield fine("title", f'"{title}" is no model version.')


def _extra_params(subject: Subject, backend: Backend) -> Finding:
    try:
        overrides = parse_extra_params(backend.get("extra_params"), subject.settings.learning)
    except BackendError as found:
        return error("extra params", str(found), "Correct them in Settings, Model, Edit, Extra params.")
    return fine("extra params", f"The project overrides {', '.join(overrides) or 'no setting'}.")


def webhook(subject: Subject) -> Iterator[Finding]:
    """Whether events arrive: one webhook, switched on, for everything, with our secret."""
    check, address = "webhook", f"{subject.settings.own_url}/webhook"
    hooks = [
        hook for hook in subject.label_studio.webhooks(subject.project_id) if str(hook["url"]).rstrip("/") == address
    ]
    if not hooks:
        connected = our_backends(subject.label_studio.ml_backends(subject.project_id), subject.settings.own_url)
        if connected:
            yield error(
                check,
                f"The project has the model connection but no webhook to {address}, so it never sends an event: "
                "Label Studio refused the webhook when the connection was made, or somebody deleted it.",
                f"{SWITCHES}. A host without a dot (a Docker service name) is refused too.",
            )
        else:
            yield error(
                check, f"The project has no webhook to {address}, so it never sends an event.", subject.connect_again
            )
        return
    if len(hooks) > 1:
        yield warning(check, f"{len(hooks)} webhooks lead to {address}; expected 1.", subject.connect_again)
    hook = hooks[0]
    if not hook.get("is_active"):
        yield error(check, f"The webhook to {address} is switched off.", subject.connect_again)
    elif not hook.get("send_payload") or not hook.get("send_for_all_actions"):
        yield error(
            check, "The webhook does not send its payload for all actions; expected both on.", subject.connect_again
        )
    elif not _has_secret(subject, hook.get("headers") or {}):
        yield error(
            check,
            "The webhook's Authorization header is missing or has another secret than this backend, which answers "
            "401 to its events.",
            subject.connect_again,
        )
    else:
        yield fine(check, f"Events go to {address}.")


def _has_secret(subject: Subject, headers: dict[str, str]) -> bool:
    return bearer_headers(subject.settings).items() <= headers.items()
