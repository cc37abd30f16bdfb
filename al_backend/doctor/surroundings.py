"""Checks of what all projects share: Redis, workers, registry, disk, web server, Label Studio."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import redis

from al_backend.doctor.finding import Finding, error, fine, warning
from al_backend.errors import BackendError, ConfigError, LabelStudioError
from al_backend.http.auth import check_auth_settings
from al_backend.jobs import liveness
from al_backend.jobs.queues import QueueName, Queues, connect
from al_backend.labelstudio.client import LabelStudio
from al_backend.masking import masked_url
from al_backend.registry import Registry, open_registry
from al_backend.settings import Settings

LEAST_FREE_GIB = 2.0

TESTED_LABEL_STUDIO = "1.23"
"""Release whose behaviour was measured; how the queue is ordered is no documented interface of Label Studio."""

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PROBE = "doctor_probe"
_TIMEOUT = 3.0


def authentication(settings: Settings) -> list[Finding]:
    """Whether the settings protect what they seem to protect."""
    check = "authentication"
    try:
        check_auth_settings(settings)
    except ConfigError as found:
        return [error(check, str(found), "Set BASIC_AUTH_USER and BASIC_AUTH_PASS, or neither; then restart.")]
    if settings.webhook_secret and not settings.auth_required:
        return [
            warning(
                check,
                "WEBHOOK_SECRET is set without a password: it protects /webhook alone, and Start Training is refused.",
                "Set BASIC_AUTH_USER and BASIC_AUTH_PASS too, restart, and run `al-backend connect` again.",
            )
        ]
    if not settings.auth_required and settings.host not in _LOOPBACK:
        return [
            warning(
                check,
                f"The backend listens on {settings.host} without a password; expected one where others can reach it.",
                "Set BASIC_AUTH_USER and BASIC_AUTH_PASS, restart, and run `al-backend connect` again.",
            )
        ]
    return [fine(check, "A password is set." if settings.auth_required else "Open, on this machine only.")]


def redis_and_workers(settings: Settings) -> tuple[list[Finding], Queues | None]:
    """Whether Redis answers and every queue has a living worker; the queues when they can be used."""
    try:
        queues = connect(settings).within(_TIMEOUT)
        living = liveness.workers(queues.connection)
    except (ConfigError, redis.RedisError) as found:
        return [error("redis", str(found), "Start `al-backend up`, or Redis itself, and check REDIS_URL.")], None
    findings = [fine("redis", "Redis answers.")]
    for name in QueueName:
        count = sum(name.value in worker["queues"] for worker in living)
        check = f"worker {name.value}"
        if count:
            findings.append(fine(check, f"{count} living worker(s) on queue {name.value}."))
        else:
            waiting = queues.queue(name).count
            findings.append(
                error(
                    check,
                    f"0 workers on queue {name.value}, where {waiting} job(s) wait; expected at least 1.",
                    f"Start `al-backend worker --queues {name.value}`, or everything with `al-backend up`.",
                )
            )
    return findings, queues


def registry(settings: Settings) -> tuple[list[Finding], Registry | None]:
    """Whether versions can be stored at `MODEL_DIR`."""
    try:
        found = open_registry(settings)
        if "://" in found.location:  # on a local disk opening it has written already
            found.write_document(0, _PROBE, {})
            found.delete_document(0, _PROBE)
    except BackendError as problem:
        remedy = "Set MODEL_DIR to a folder or URL that this user may write, with space left."
        return [error("registry", str(problem), remedy)], None
    return [fine("registry", f"The registry at {found.location} can be written.")], found


def disk(settings: Settings) -> Finding:
    """Whether images and versions have room."""
    remedies = {settings.data_dir: "set AL_DATA_DIR to another disk, or AL_CACHE_MB to less"}
    if "://" not in settings.model_dir:
        remedies.setdefault(Path(settings.model_dir), "set MODEL_DIR to another disk")
    for named, remedy in remedies.items():
        free = _free_gib(named)
        if free < LEAST_FREE_GIB:
            return warning(
                "disk",
                f"{free:.1f} GiB are free on the disk of {named}; expected at least {LEAST_FREE_GIB:.0f}.",
                f"Free some space, or {remedy}.",
            )
    return fine("disk", f"{_free_gib(settings.data_dir):.1f} GiB are free on the disk of {settings.data_dir}.")


def _free_gib(folder: Path) -> float:
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free / 2**30


def web_server(settings: Settings) -> Finding:
    """Whether the address that Label Studio is given leads to this backend, as seen from here."""
    check, url = "web server", settings.own_url
    remedy = (
        "Start `al-backend up` or `al-backend serve`, and set AL_PUBLIC_URL to where Label Studio reaches it "
        "(and AL_HOST=0.0.0.0 where Label Studio is on another machine or in a container)."
    )
    try:
        answer = httpx.get(f"{url}/health", timeout=_TIMEOUT, verify=settings.verify_ssl)
        content = answer.json() if answer.status_code == 200 else {}
    except (httpx.HTTPError, httpx.InvalidURL) as found:
        return error(check, f"{url}/health does not answer from here ({found or type(found).__name__}).", remedy)
    except ValueError:
        content = {}
    if not isinstance(content, dict) or content.get("model_class") != "ActiveLearningBackend":
        return error(
            check,
            f"{url}/health answers {answer.status_code} and is not this backend; expected 200 and our model_class.",
            remedy,
        )
    return fine(check, f"This backend answers at {url}.")


def label_studio(settings: Settings) -> tuple[list[Finding], LabelStudio | None]:
    """Whether Label Studio answers and takes our key; the client when it does."""
    url = masked_url(settings.label_studio_url)
    try:
        answer = httpx.get(f"{settings.label_studio_url}/health", timeout=_TIMEOUT, verify=settings.verify_ssl)
        reached = answer.status_code == 200
        seen = f"{url}/health answers {answer.status_code}, expected 200."
    except (httpx.HTTPError, httpx.InvalidURL) as found:
        reached, seen = False, f"{url} does not answer ({found or type(found).__name__})."
    if not reached:
        remedy = "Start Label Studio, and set LABEL_STUDIO_URL to where it answers (in Docker that is not localhost)."
        return [error("label studio", seen, remedy)], None
    findings = [fine("label studio", f"Label Studio answers at {url}.")]
    try:
        client = LabelStudio.from_settings(settings)
        user = client.whoami()
    except (ConfigError, LabelStudioError) as found:
        return [*findings, _refused_key(found)], None
    if not user.get("email"):
        return [*findings, _another_program(f"{url} names no user for the key.")], None
    findings.append(fine("token", f"Label Studio takes the key as {user['email']}."))
    return [*findings, *_release(client)], client


def _release(client: LabelStudio) -> Iterator[Finding]:
    """Whether this is the Label Studio whose behaviour is known."""
    check = "label studio release"
    try:
        release = client.version()
    except (LabelStudioError, KeyError) as found:
        yield warning(check, f"Label Studio does not say its release: {found}", "See /api/version there.")
        return
    if release == TESTED_LABEL_STUDIO or release.startswith(f"{TESTED_LABEL_STUDIO}."):
        yield fine(check, f"Label Studio is {release}.")
    else:
        yield warning(
            check,
            f"Label Studio is {release}; this backend was tested with {TESTED_LABEL_STUDIO}. How it serves tasks may "
            "differ.",
            "Compare the order that it serves with the queue's tab, or install the tested release.",
        )


def _refused_key(found: BackendError) -> Finding:
    if "legacy token authentication has been disabled" in str(found):
        return error(
            "token",
            f"Label Studio has legacy tokens switched off, and LABEL_STUDIO_API_KEY is one. ({found})",
            "Use a personal access token (Account & Settings), or switch legacy tokens on (Organization, API Tokens).",
        )
    if isinstance(found, LabelStudioError) and found.status in (200, 404, 405):
        return _another_program(str(found))
    return error(
        "token",
        str(found),
        "Set LABEL_STUDIO_API_KEY to a personal access token (Account & Settings in Label Studio).",
    )


def _another_program(found: str) -> Finding:
    return error(
        "token",
        f"Something answers there, but not as Label Studio does: {found}",
        "Set LABEL_STUDIO_URL to Label Studio's own address. Where its port is taken when it starts, it takes the next "
        "one and says so in its log alone.",
    )
