"""Connects a Label Studio project to this backend, so that events arrive and the queue is ordered. Idempotent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from al_backend.cycle import UNTRAINED
from al_backend.errors import LabelStudioError
from al_backend.extra_params import parse_extra_params
from al_backend.jobs.client import enqueue_reconcile
from al_backend.jobs.documents import RANK_CANCEL, TRAIN_CANCEL
from al_backend.jobs.queues import Queues
from al_backend.labelstudio.client import UNCERTAINTY_SAMPLING, LabelStudio, Project
from al_backend.labelstudio.labeling_config import parse_labeling_config
from al_backend.masking import masked_url
from al_backend.registry import Registry
from al_backend.settings import Settings

TITLE = "Active learning"
"""Of the model connection in Label Studio."""

CONNECTED = "CO"
"""State of a model connection whose `/health` and `/setup` Label Studio reached."""

SWITCHES = (
    "Label Studio refuses addresses in private networks unless it runs with both SSRF_PROTECTION_ENABLED=false and "
    "ML_BLOCK_LOCAL_IP=false; set both and restart it, then run `al-backend connect` again"
)

Backend = dict[str, Any]


@dataclass(frozen=True)
class ConnectReport:
    """What a project's connection looks like now, and what was changed to get there.

    Attributes:
        project: Label Studio's project id.
        project_title: its title.
        url: under which Label Studio reaches this backend.
        title: of the model connection.
        backend: id of the model connection.
        webhook: id of the webhook.
        tab: id of the Data Manager tab that shows the queue.
        labels: that the detector learns.
        model_version: that the project shows; "" before the first ranking is published.
        changes: what this call changed, one phrase each; empty when everything was right already.
        warnings: what makes the order less exact than it could be.
    """

    project: int
    project_title: str
    url: str
    title: str
    backend: int
    webhook: int
    tab: int
    labels: tuple[str, ...]
    model_version: str
    changes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def __str__(self) -> str:
        lines = [
            f'Project {self.project} "{self.project_title}" is connected to {masked_url(self.url)} as "{self.title}".',
            f"  labels: {', '.join(self.labels)}",
            f"  model version: {self.model_version or 'none yet, it comes with the first order'}",
            f"  changed now: {', '.join(self.changes) or 'nothing, it was connected already'}",
        ]
        return "\n".join([*lines, *(f"  warning: {warning}" for warning in self.warnings)])


def connect(
    settings: Settings,
    label_studio: LabelStudio,
    registry: Registry,
    project_id: int,
    *,
    url: str | None = None,
    title: str = TITLE,
    queues: Queues | None = None,
) -> ConnectReport:
    """Make Label Studio send the project's events here and serve its queue in our order.

    Everything is looked at before it is changed, so a second call changes nothing and a call after a crash finishes
    the work. The web server has to answer at `url` already, because Label Studio asks it.

    Args:
        settings: credentials that Label Studio has to use, and the default URL.
        label_studio: where the project is.
        registry: that the workers use.
        project_id: the project.
        url: under which Label Studio reaches this backend; `settings.own_url` by default.
        title: wanted for a new model connection; a number is added where it is taken.
        queues: where the first look at the project is enqueued; None leaves it to the timer.

    Raises:
        LabelStudioError: the token, the project or the address is refused; the message says which and what to do.
        LabelConfigError: this backend cannot serve the project's labelling config.
        ConfigError: the extra params of an existing connection are not valid.
    """
    url = (url or settings.own_url).rstrip("/")
    label_studio.whoami()
    project = _project(label_studio, project_id)
    config = parse_labeling_config(project.label_config)
    changes: list[str] = []
    if registry.project(project_id) is None:  # `disconnect` has stopped what ran; from now on it is wanted again
        for cancellation in (TRAIN_CANCEL, RANK_CANCEL):
            registry.delete_document(project_id, cancellation)

    backend = _connect_backend(settings, label_studio, registry, project_id, url, title, changes)
    webhook = _connect_webhook(settings, label_studio, project_id, url, changes)
    _set_sampling(label_studio, project, changes)
    project = _leave_title(label_studio, registry, project_id, str(backend["title"]), changes)
    if not label_studio.queue_tabs(project_id):
        changes.append("made the queue's tab in the Data Manager")
    tab = label_studio.ensure_queue_tab(project_id)
    overrides = parse_extra_params(backend.get("extra_params"), settings.learning)
    if registry.project(project_id) is None:
        changes.append("registered the project")
    registry.register_project(project_id, label_config=project.label_config, overrides=overrides)
    if queues is not None:
        enqueue_reconcile(queues, project_id, "connect")
    return ConnectReport(
        project=project_id,
        project_title=project.title,
        url=url,
        title=str(backend["title"]),
        backend=int(backend["id"]),
        webhook=int(webhook["id"]),
        tab=tab,
        labels=config.labels,
        model_version=project.model_version,
        changes=tuple(changes),
        warnings=tuple(_warnings(label_studio, project, backend)),
    )


def our_backends(backends: Sequence[Backend], url: str) -> list[Backend]:
    """The model connections that lead to `url`, oldest first."""
    return sorted(
        (backend for backend in backends if str(backend.get("url", "")).rstrip("/") == url),
        key=lambda backend: int(backend["id"]),
    )


def stored_versions(label_studio: LabelStudio, project_id: int) -> set[str]:
    """Model versions that predictions carry; Label Studio also lists a title that is shown as one, with count 0."""
    return {name for name, count in label_studio.model_versions(project_id).items() if count > 0}


def bearer_headers(settings: Settings) -> dict[str, str]:
    """Headers that Label Studio has to put on the webhook; none when the backend is open."""
    return {"Authorization": f"Bearer {settings.webhook_bearer}"} if settings.webhook_bearer else {}


def _project(label_studio: LabelStudio, project_id: int) -> Project:
    try:
        return label_studio.project(project_id)
    except LabelStudioError as error:
        if error.status != 404:
            raise
        raise LabelStudioError(
            f"Label Studio at {label_studio.url} has no project {project_id} that this user may see; "
            "the number is in the project's address: /projects/NUMBER/.",
            status=404,
        ) from error


def _connect_backend(
    settings: Settings,
    label_studio: LabelStudio,
    registry: Registry,
    project_id: int,
    url: str,
    title: str,
    changes: list[str],
) -> Backend:
    """The one model connection that leads here: found, moved here, or made."""
    every = label_studio.ml_backends(project_id)
    ours = our_backends(every, url) or _moved(every, title)
    for surplus in ours[1:]:
        label_studio.delete_ml_backend(surplus["id"])
        changes.append(f'removed the second model connection "{surplus["title"]}" to the same address')
    others = [backend for backend in every if backend not in ours]
    # A title that is also a version would make Label Studio take one for the other.
    taken = {str(backend["title"]) for backend in others} | _version_names(label_studio, registry, project_id)
    basic_auth = _credentials(settings)
    if not ours:
        try:
            backend = label_studio.add_ml_backend(project_id, url, _free(title, taken), basic_auth=basic_auth)
        except LabelStudioError as error:
            raise _explained(error, url) from error
        changes.append(f'added the model connection "{backend["title"]}"')
        return backend
    kept = ours[0]
    wanted = _free(str(kept["title"]), taken)
    moved = str(kept["url"]).rstrip("/") != url
    password_is_right = bool(basic_auth) == (kept.get("auth_method") == "BASIC_AUTH")
    if not moved and kept["title"] == wanted and kept.get("state") == CONNECTED and password_is_right:
        return kept
    try:
        updated = label_studio.update_ml_backend(kept["id"], project_id, url, title=wanted, basic_auth=basic_auth)
    except LabelStudioError as error:
        raise _explained(error, url) from error
    if moved:
        changes.append(f'moved the model connection "{wanted}" from {kept["url"]}')
        _remove_webhooks(label_studio, project_id, f"{str(kept['url']).rstrip('/')}/webhook", changes)
    else:
        changes.append(f'updated the model connection "{wanted}"')
    return updated


def _moved(backends: Sequence[Backend], title: str) -> list[Backend]:
    """A connection with our title that leads to where nothing answers any more: our own, from before a move."""
    return [backend for backend in backends if backend.get("title") == title and backend.get("state") != CONNECTED][:1]


def _connect_webhook(
    settings: Settings, label_studio: LabelStudio, project_id: int, url: str, changes: list[str]
) -> dict[str, Any]:
    """Exactly one webhook that leads here, with the secret that Label Studio does not put there by itself."""
    address = f"{url}/webhook"
    # Label Studio itself writes another spelling when the connection's URL had a slash at the end or none.
    spellings = {str(hook["url"]) for hook in label_studio.webhooks(project_id)} - {address}
    for spelling in sorted(other for other in spellings if other.rstrip("/") == address):
        _remove_webhooks(label_studio, project_id, spelling, changes)
    before = [hook for hook in label_studio.webhooks(project_id) if hook["url"] == address]
    try:
        webhook = label_studio.set_webhook(project_id, address, bearer_headers(settings))
    except LabelStudioError as error:
        raise _explained(error, url) from error
    if not before:
        changes.append("added the webhook")
    elif len(before) > 1:
        changes.append(f"removed {len(before) - 1} surplus webhooks")
    if before and webhook not in before:
        changes.append("updated the webhook")
    return webhook


def _remove_webhooks(label_studio: LabelStudio, project_id: int, address: str, changes: list[str]) -> None:
    for hook in label_studio.webhooks(project_id):
        if hook["url"] == address:
            label_studio.delete_webhook(hook["id"])
            changes.append(f"removed the webhook to {address}")


def _set_sampling(label_studio: LabelStudio, project: Project, changes: list[str]) -> None:
    if project.sampling == UNCERTAINTY_SAMPLING:
        return
    label_studio.request("PATCH", f"/api/projects/{project.id}/", body={"sampling": UNCERTAINTY_SAMPLING})
    changes.append(f'changed the sampling from "{project.sampling}" to "{UNCERTAINTY_SAMPLING}"')


def _leave_title(
    label_studio: LabelStudio, registry: Registry, project_id: int, title: str, changes: list[str]
) -> Project:
    """Undo what Label Studio does on connecting: it shows the title as model version, and then orders at random."""
    project = label_studio.project(project_id)
    if project.model_version != title:
        return project
    published = (registry.read_document(project_id, "published") or {}).get("model_version")
    target = str(published) if published in stored_versions(label_studio, project_id) else ""
    project = label_studio.publish_model_version(project_id, target)
    changes.append(f'changed the model version from the title "{title}" to "{target}"')
    return project


def _warnings(label_studio: LabelStudio, project: Project, backend: Backend) -> list[str]:
    found = []
    first = min(label_studio.ml_backends(project.id), key=lambda each: int(each["id"]))
    if first["id"] != backend["id"]:
        found.append(
            f'Label Studio asks only the first model connection for predictions, which is "{first["title"]}"; '
            "remove that one if it is not needed"
        )
    members = label_studio.members(project.id)
    if members > 1:
        found.append(f"with {members} project members Label Studio draws the next task at random among the scored ones")
    if project.maximum_annotations > 1:
        found.append(
            f"with {project.maximum_annotations} annotations per task Label Studio serves begun tasks first, at random"
        )
    return found


def _version_names(label_studio: LabelStudio, registry: Registry, project_id: int) -> set[str]:
    ours = {version.name for version in registry.all_versions(project_id)}
    return ours | stored_versions(label_studio, project_id) | {UNTRAINED}


def _free(title: str, taken: set[str]) -> str:
    candidates = [title, *(f"{title} {number}" for number in range(2, len(taken) + 3))]
    return next(candidate for candidate in candidates if candidate not in taken)


def _credentials(settings: Settings) -> tuple[str, str] | None:
    if not settings.auth_required or not settings.basic_auth_user or not settings.basic_auth_pass:
        return None
    return settings.basic_auth_user, settings.basic_auth_pass.get_secret_value()


def _explained(error: LabelStudioError, url: str) -> LabelStudioError:
    """The same error with what to do about it; Label Studio's own words stay."""
    advice = ""
    if error.status == 403 and "reserved network" in str(error) and "ML_BLOCK_LOCAL_IP" not in str(error):
        advice = f" {SWITCHES}."
    elif error.status == 400 and "valid URL" in str(error):
        advice = (
            f" Label Studio takes {url} as a model connection and not as a webhook, whose host has to be localhost, an "
            "address or a name with a dot: give this backend such a name (AL_PUBLIC_URL)."
        )
    elif error.status == 400:
        advice = (
            f" The backend has to answer at {url} as seen from Label Studio: check that it runs, and AL_PUBLIC_URL "
            "(and AL_HOST=0.0.0.0 where Label Studio is on another machine or in a container)."
        )
    return LabelStudioError(f"{error}{advice}", status=error.status)
