"""Checks of how Label Studio finds this backend: the model connection and the webhook."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from al_backend.connect import CONNECTED, SWITCHES, Backend, bearer_headers, our_backends, stored_versions
from al_backend.doctor.finding import Finding, error, fine, warning
from al_backend.doctor.subject import Subject
from al_backend.errors import BackendError
from al_backend.extra_params import parse_extra_params
from al_backend.labelstudio.client import Project
from al_backend.masking import masked_url


def model_connection(subject: Subject, project: Project) -> Iterator[Finding]:
    """Whether exactly one connection leads here, is alive, comes first and has a usable title and extra params."""
    check, url = "model connection", subject.settings.own_url
    backends = sorted(subject.label_studio.ml_backends(subject.project_id), key=lambda backend: int(backend["id"]))
    ours = our_backends(backends, url)
    if urlsplit(url).query or urlsplit(url).fragment:
        yield error(
            "address",
            f"The address {url} has a part behind a question mark or #: Label Studio would send events to "
            f"{url}/webhook, which is another place. Expected none.",
            f"Set AL_PUBLIC_URL without it, restart, and run `al-backend connect {subject.project_id}`.",
        )
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
            "Check that the backend runs, that Label Studio can reach this address: AL_PUBLIC_URL (and AL_HOST=0.0.0.0 "
            "where Label Studio is on another machine or in a container), and that the "
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
    """Whether events arrive: one webhook, switched on, for everything, with our secret, to where they are sent."""
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
    elif (refusal := subject.label_studio.webhook_refusal(subject.project_id, address)) is not None:
        yield error(
            check,
            f"Label Studio sends no event to {address}, though the webhook is there: it looks at the address again at "
            f"each event, and was started without its switch since. ({refusal})",
            f"{SWITCHES}.",
        )
    else:
        yield fine(check, f"Events go to {address}.")


def other_webhooks(subject: Subject) -> Iterator[Finding]:
    """Whether model connections that are gone have left their webhooks behind; Label Studio does not remove them."""
    address = f"{subject.settings.own_url}/webhook"
    backends = subject.label_studio.ml_backends(subject.project_id)
    used = {f"{str(backend['url']).rstrip('/')}/webhook" for backend in backends} | {address}
    urls = {str(hook["url"]).rstrip("/") for hook in subject.label_studio.webhooks(subject.project_id)}
    orphans = sorted(url for url in urls if url.endswith("/webhook") and url not in used)
    if orphans:
        yield warning(
            "other webhooks",
            f"Webhooks lead to {', '.join(map(masked_url, orphans))}, where no model connection leads: Label "
            "Studio keeps them when a connection is removed. Where nothing answers, every submit waits a second.",
            "Delete them in Settings, Webhooks, if nobody needs them.",
        )


def _has_secret(subject: Subject, headers: dict[str, str]) -> bool:
    return bearer_headers(subject.settings).items() <= headers.items()
