"""The routes that Label Studio calls. None but `/predict` waits for anything, none loads a model or calls back."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response, jsonify, request

from al_backend import logs
from al_backend.errors import BackendError
from al_backend.extra_params import parse_extra_params
from al_backend.http import bodies
from al_backend.http.errors import BadRequest, error_response
from al_backend.http.services import Services, labeling_config, services
from al_backend.jobs import client

logger = logging.getLogger(__name__)

blueprint = Blueprint("label_studio", __name__)

PREDICT_TIMEOUT = 90.0
"""Seconds that `/predict` waits; Label Studio gives up after 100."""

START_TRAINING = "START_TRAINING"
PROJECT_UPDATED = "PROJECT_UPDATED"

_PROJECT_FIELDS = ("label_config", "model_version", "sampling", "show_collab_predictions", "maximum_annotations")
"""What of a project the cycle depends on; counters change with every annotation and say nothing new."""

_JOB_ID = re.compile(r"request-(train|rank)-[0-9]{1,19}-[0-9]{1,14}|(?!request-)[A-Za-z0-9_-]{1,200}")

_SEEN_SECONDS = 7 * 86_400


@blueprint.post("/setup")
def setup() -> Response:
    """Connects a project, and tells Label Studio which model version is current.

    Label Studio calls it before nearly everything, so a repeated call costs three small reads. The body is never
    logged: it carries the project owner's token.
    """
    here, body = services(), bodies.read_object()
    project, schema = bodies.project_id(body.get("project")), bodies.text(body, "schema")
    labeling_config(schema)
    overrides = parse_extra_params(body.get("extra_params"), here.settings.learning)
    known = here.registry.project(project)
    if known is None or known.label_config != schema or known.overrides != overrides:
        queues = here.queues  # first, so that nothing is registered that could not be worked on
        here.registry.register_project(project, label_config=schema, overrides=overrides)
        client.enqueue_reconcile(queues, project, "setup")
        logger.info("Project %d is %s", project, "connected" if known is None else "connected with other settings")
    return jsonify({"model_version": here.model_version(project)})


@blueprint.post("/predict")
def predict() -> Response:
    """Pre-annotations for tasks: as many results as tasks, in their order.

    The inference worker makes them; without one this fails within two seconds instead of letting Label Studio wait.
    """
    here, body = services(), bodies.read_object()
    tasks = bodies.tasks(body)
    if not tasks:
        return jsonify({"results": []})
    project = here.known_project(bodies.project_id(body.get("project"))).id
    with here.prediction_slot():
        results = client.predict(here.queues, project, tasks, timeout=PREDICT_TIMEOUT)
    _check_results(results, len(tasks))
    return jsonify({"results": results})


@blueprint.post("/webhook")
def webhook() -> Response:
    """An event of Label Studio: a hint that the project is worth a look, whatever it says.

    The truth is read by the reconcile that this enqueues, because events get lost and carry no labels for imports.
    """
    here, body = services(), bodies.read_object()
    action = bodies.text(body, "action")
    logs.bind(task=bodies.task_of(body), kind=action[:64])
    if "project" not in body:
        raise BadRequest('The event names no project: switch on "Send payload" for this webhook in Label Studio.')
    project = here.known_project(bodies.project_id(body["project"])).id
    if action == START_TRAINING:
        return _start_training(here, project)
    if action == PROJECT_UPDATED and not _news(here, project, body["project"]):
        return jsonify({"status": "ok", "enqueued": False})
    enqueued = client.enqueue_reconcile(here.queues, project, f"webhook {action[:64]}")
    return jsonify({"status": "ok", "enqueued": enqueued})


@blueprint.post("/train")
def train() -> Response:
    """Starts a training: what Label Studio called before it sent START_TRAINING to `/webhook`."""
    here, body = services(), bodies.read_object()
    return _start_training(here, here.known_project(bodies.project_id(body.get("project"))).id)


@blueprint.route("/versions", methods=["GET", "POST"])
def versions() -> Response:
    """Names of the versions of one project, or of all: Label Studio asks without saying for which project."""
    here = services()
    body: Mapping[str, Any] = request.args
    if request.method == "POST" and request.get_data(cache=True):
        body = bodies.read_object()
    asked = body.get("project")
    projects = here.registry.projects() if asked is None else [here.known_project(bodies.project_id(asked)).id]
    names = [version.name for project in projects for version in here.registry.all_versions(project)]
    return jsonify({"versions": list(dict.fromkeys(names))})


@blueprint.post("/job_status")
def job_status() -> Response:
    """How far a job is: queued, started, finished, failed or canceled; 410 for one that is not known any more."""
    here, job = services(), bodies.text(bodies.read_object(), "job")
    status = client.job_status(here.registry, here.queues, job) if _JOB_ID.fullmatch(job) else None
    if status is None:
        return error_response(410, f"Job {job!r} is not known; it is over long ago or never was.")
    return jsonify({"job_status": status})


@blueprint.post("/validate")
def validate() -> Response:
    """Whether this backend can serve a labelling config."""
    config = labeling_config(bodies.text(bodies.read_object(), "config"))
    return jsonify({"status": "ok", "labels": list(config.labels)})


@blueprint.post("/delete")
def delete() -> Response:
    """Stops serving a project. Its versions and rankings stay, so that connecting it again goes on where it was."""
    here, body = services(), bodies.read_object()
    project = here.known_project(bodies.project_id(body.get("project"))).id
    here.registry.forget_project(project)
    logger.info("Project %d is disconnected", project)
    return jsonify({"status": "ok", "project": project, "kept": "versions and rankings"})


@blueprint.post("/duplicate_model")
def duplicate_model() -> Response:
    """Connects a second project with the settings of a first one.

    Versions are not copied: the labels that they were made from stay with the first project, and the second trains on
    its own. A project that is connected already keeps its labelling config and gets the settings only.
    """
    here, body = services(), bodies.read_object()
    source = here.known_project(bodies.project_id(body.get("project_src"), "project_src"))
    target = bodies.project_id(body.get("project_dst"), "project_dst")
    known, queues = here.registry.project(target), here.queues
    here.registry.register_project(
        target, label_config=known.label_config if known else source.label_config, overrides=source.overrides
    )
    client.enqueue_reconcile(queues, target, "duplicate_model")
    return jsonify({"status": "ok", "project": target, "copied": ["label_config", "settings"][bool(known) :]})


def _start_training(here: Services, project: int) -> Response:
    job = client.request_training(here.registry, here.queues, project)
    logger.info("Training of project %d requested: job %s", project, job)
    return jsonify({"job": job, "status": "ok"})


def _news(here: Services, project: int, payload: object) -> bool:
    """Whether the project differs from how the last PROJECT_UPDATED described it.

    Every publish patches the project and comes back as this event; only a difference is worth a look, so that echoes
    cannot keep each other going. Kept in Redis, because any web process may get the next event.
    """
    if not isinstance(payload, Mapping):
        return True
    content = json.dumps([payload.get(field) for field in _PROJECT_FIELDS], sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()
    before = here.queues.connection.set(f"al:project-seen:{project}", digest, ex=_SEEN_SECONDS, get=True)
    return before is None or before != digest.encode()


def _check_results(results: list[dict[str, Any]], tasks: int) -> None:
    """Label Studio stores broken answers without a word: an infinite score makes its lists fail from then on."""
    if len(results) != tasks:
        raise BackendError(f"The inference worker gave {len(results)} results for {tasks} tasks; see its log.")
    for result in results:
        score, version = result.get("score"), result.get("model_version")
        in_range = isinstance(score, int | float) and not isinstance(score, bool) and 0 <= score <= 1  # NaN is not
        if not (in_range and isinstance(version, str) and version and isinstance(result.get("result"), list)):
            raise BackendError(
                f"The inference worker gave a prediction that Label Studio must not get (score {score!r}, "
                f"model version {version!r}); see its log."
            )
