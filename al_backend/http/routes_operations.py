"""The routes for operators and monitors: alive, ready, jobs, metrics."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, jsonify

from al_backend import __version__
from al_backend.errors import BackendError
from al_backend.http.auth import shows_password
from al_backend.http.metrics import CONTENT_TYPE, current_metrics
from al_backend.http.services import Services, services
from al_backend.jobs import client, liveness, queues

blueprint = Blueprint("operations", __name__)

MODEL_CLASS = "ActiveLearningBackend"


@blueprint.get("/")
@blueprint.get("/health")
def health() -> Response:
    """Whether this process answers; nothing else is looked at, because Label Studio waits one second for it.

    The version, which says which weaknesses to try, is for those who know the password.
    """
    answer = {"status": "UP", "model_class": MODEL_CLASS}
    return jsonify(answer | {"version": __version__} if shows_password(services().settings) else answer)


@blueprint.get("/ready")
def ready() -> tuple[Response, int]:
    """Whether everything is there that the product needs: 200, or 503 and a sentence for each missing part."""
    here = services()
    checks: dict[str, dict[str, Any]] = {
        "registry": _registry(here),
        "label_studio": _label_studio(here),
        **_redis_and_workers(here),
    }
    missing = [str(check["detail"]) for check in checks.values() if not check["ok"]]
    answer: dict[str, Any] = {"ready": not missing, "checks": checks}
    if missing:
        answer["error"] = " ".join(missing)
    return jsonify(answer), 503 if missing else 200


@blueprint.get("/jobs")
def jobs() -> Response:
    """The queues with their workers, and every job that waits or runs."""
    return jsonify(client.overview(services().queues))


@blueprint.get("/metrics")
def prometheus() -> Response:
    """The metrics in Prometheus' text format."""
    return Response(current_metrics().render(), content_type=CONTENT_TYPE)


def _registry(here: Services) -> dict[str, Any]:
    try:
        location = here.registry.location
    except BackendError as error:
        return {"ok": False, "detail": str(error)}
    return {"ok": True, "detail": f"The registry is at {location}."}


def _label_studio(here: Services) -> dict[str, Any]:
    seen = here.label_studio.look()
    return {"ok": seen.ok, "detail": seen.sentence}


def _redis_and_workers(here: Services) -> dict[str, dict[str, Any]]:
    """Checks "redis", "workers" and "device"; without Redis nothing can be known of the other two."""
    try:
        living = liveness.workers(here.queues.connection) if queues.ping(here.queues) else None
    except BackendError as error:
        return _without_redis(str(error))
    if living is None:
        return _without_redis("Redis does not answer; start it, or correct REDIS_URL.")
    counts = {name.value: sum(name.value in worker["queues"] for worker in living) for name in queues.QueueName}
    empty = [name for name, count in counts.items() if not count]
    detail = (
        f"0 workers on queue {', '.join(empty)}; start `al-backend worker` or `al-backend up`."
        if empty
        else "Every queue has a living worker."
    )
    devices = sorted({str(worker["device"]) for worker in living if worker.get("device")})
    return {
        "redis": {"ok": True, "detail": "Redis answers."},
        "workers": {"ok": not empty, "detail": detail, "queues": counts},
        "device": {
            "ok": bool(living),
            "detail": f"Workers use {', '.join(devices)}." if devices else _device_unknown(here, bool(living)),
            "wanted": here.settings.device,
        },
    }


def _device_unknown(here: Services, alive: bool) -> str:
    if alive:
        return f"The workers did not say which device they use; DEVICE is {here.settings.device}."
    return "No worker lives, so no device is in use."


def _without_redis(sentence: str) -> dict[str, dict[str, Any]]:
    unknown = {"ok": False, "detail": "Unknown without Redis."}
    return {"redis": {"ok": False, "detail": sentence}, "workers": unknown, "device": unknown}
