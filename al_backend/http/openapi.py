"""The OpenAPI document of the routes, written by hand: it says what Label Studio sends, which no type of ours does.

A test compares it with the app's routes, and a fuzzer with their answers, so it cannot fall behind.
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, jsonify

from al_backend import __version__

blueprint = Blueprint("openapi", __name__)

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_PROJECT: Schema = {
    "description": 'Id, or id and time of creation as Label Studio writes it ("5.1795253337").',
    "anyOf": [
        {"type": "integer", "minimum": 1, "maximum": 2**63 - 1},
        {"type": "string", "pattern": r"^[0-9]{1,18}(\.[0-9]*)?$"},
        {"type": "object", "required": ["id"], "properties": {"id": {"type": "integer", "minimum": 1}}},
    ],
}
_EXTRA_PARAMS: Schema = {
    "description": 'Learning settings of the project, such as {"budget": 20}; an object or the same as JSON text.',
    "type": ["object", "string", "null"],
}
_VERSION_NAME: Schema = {"type": "string", "minLength": 1}


def _object(properties: dict[str, Schema], *required: str) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required or properties)}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


_TASK = _object({"id": {"type": ["integer", "null"]}, "data": {"type": "object"}}, "data")
_PREDICTION = _object(
    {
        "result": _list({"type": "object"}),
        "score": {"type": "number", "minimum": 0, "maximum": 1, "description": "Order score: 0 is labelled first."},
        "model_version": _VERSION_NAME,
    }
)
_STATUS = {"type": "string", "enum": ["ok"]}
_CHECK = _object({"ok": {"type": "boolean"}, "detail": _TEXT})
_READY = _object({"ready": {"type": "boolean"}, "checks": {"type": "object", "additionalProperties": _CHECK}})
_HEALTH = _object({"status": {"enum": ["UP"]}, "model_class": _TEXT, "version": _TEXT}, "status", "model_class")
_JOB = _object({"id": _TEXT, "queue": _TEXT, "project": {}, "kind": {}, "status": {}, "progress": {}})
_JOBS = _object({"queues": {"type": "object"}, "jobs": _list(_JOB)})


def _json(schema: Schema) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _errors(*statuses: int) -> dict[str, Any]:
    words = {
        400: "The request cannot be understood; the sentence says why.",
        401: "User and password, or the webhook's secret, are missing or wrong.",
        403: "The request comes from a web page of another site, or by a name that is not ours.",
        404: "The project is not connected, or there is no such thing.",
        410: "The job is over long ago or never was.",
        413: "The body is too large.",
        503: "Redis, the registry or a worker is missing; the same request may succeed later.",
    }
    error = {"$ref": "#/components/schemas/Error"}
    return {str(status): {"description": words[status], "content": _json(error)} for status in statuses}


def _operation(summary: str, answer: Schema, *errors: int, body: Schema | None = None, **more: Any) -> dict[str, Any]:
    usual = (400, 401, 403, 413) if body is not None else (401, 403)
    operation: dict[str, Any] = {
        "summary": summary,
        "responses": {
            "200": {"description": "Done.", "content": _json(answer)},
            **_errors(*sorted({*usual, *errors})),
        },
        **more,
    }
    if body is not None:
        operation["requestBody"] = {"required": True, "content": _json(body)}
    return operation


def document() -> dict[str, Any]:
    """The whole document, OpenAPI 3.1."""
    by_project = _object({"project": _PROJECT})
    versions = _object({"versions": _list(_VERSION_NAME)})
    started = _object({"job": _TEXT, "status": _STATUS})
    health = _operation("Whether the process answers.", _HEALTH, security=[])
    health["responses"] = {"200": health["responses"]["200"], **_errors(403)}
    ready = _operation("Whether everything is there that the product needs.", _READY)
    ready["responses"]["503"] = {"description": "Something is missing.", "content": _json(_READY)}
    metrics = _operation("The metrics, for Prometheus.", _TEXT)
    metrics["responses"]["200"]["content"] = {"text/plain": {"schema": _TEXT}}
    train = _operation("Start a training.", started, 404, 503, body=by_project)
    asked_project = {"name": "project", "in": "query", "required": False, "schema": _TEXT}
    of_one = _operation("Names of the versions of a project, or of all.", versions, 400, 404, 503)
    of_one_posted = _operation("The same.", versions, 404, 503, body=_object({"project": _PROJECT}, "project"))
    of_one_posted["requestBody"]["required"] = False
    of_one_posted["requestBody"]["content"]["application/json"]["schema"].pop("required")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "al-backend",
            "version": __version__,
            "description": "Active-learning backend for Label Studio. Errors are one sentence: also the HTTP reason.",
        },
        "security": [{"password": []}, {}],
        "paths": {
            "/": {"get": health},
            "/health": {"get": health},
            "/setup": {
                "post": _operation(
                    "Connect a project; Label Studio calls it before nearly everything.",
                    _object({"model_version": _TEXT}),
                    503,
                    body=_object(
                        {
                            "project": _PROJECT,
                            "schema": {**_TEXT, "description": "The labelling config."},
                            "hostname": {},
                            "access_token": {},
                            "extra_params": _EXTRA_PARAMS,
                        },
                        "project",
                        "schema",
                    ),
                )
            },
            "/predict": {
                "post": _operation(
                    "Pre-annotations, one per task, in the order of the tasks.",
                    _object({"results": _list(_PREDICTION)}),
                    404,
                    503,
                    body=_object(
                        {"tasks": _list(_TASK), "project": _PROJECT, "label_config": {}, "params": {}},
                        "tasks",
                        "project",
                    ),
                )
            },
            "/webhook": {
                "post": _operation(
                    "An event of Label Studio: a hint to look at a project, or START_TRAINING.",
                    _object({"status": _STATUS, "enqueued": {"type": "boolean"}, "job": _TEXT}, "status"),
                    404,
                    503,
                    body=_object({"action": _TEXT, "project": _PROJECT}),
                    security=[{"password": []}, {"webhook": []}, {}],
                )
            },
            "/train": {"post": train},
            "/versions": {"get": {**of_one, "parameters": [asked_project]}, "post": of_one_posted},
            "/job_status": {
                "post": _operation(
                    "How far a job is.",
                    _object({"job_status": {"enum": _JOB_STATES}}),
                    410,
                    503,
                    body=_object({"job": _TEXT}),
                )
            },
            "/validate": {
                "post": _operation(
                    "Whether this backend can serve a labelling config.",
                    _object({"status": _STATUS, "labels": _list(_TEXT)}),
                    body=_object({"config": _TEXT}),
                )
            },
            "/delete": {
                "post": _operation(
                    "Stop serving a project; its versions stay.",
                    _object({"status": _STATUS, "project": {"type": "integer"}, "kept": _TEXT}),
                    404,
                    503,
                    body=by_project,
                )
            },
            "/duplicate_model": {
                "post": _operation(
                    "Connect a second project with the settings of a first one.",
                    _object({"status": _STATUS, "project": {"type": "integer"}, "copied": _list(_TEXT)}),
                    404,
                    503,
                    body=_object({"project_src": _PROJECT, "project_dst": _PROJECT}),
                )
            },
            "/ready": {"get": ready},
            "/jobs": {"get": _operation("Queues, workers, and the jobs that wait or run.", _JOBS, 503)},
            "/metrics": {"get": metrics},
            "/openapi.json": {"get": _operation("This document.", {"type": "object"})},
        },
        "components": {
            "schemas": {"Error": _object({"error": _TEXT})},
            "securitySchemes": {
                "password": {"type": "http", "scheme": "basic", "description": "BASIC_AUTH_USER, BASIC_AUTH_PASS."},
                "webhook": {"type": "http", "scheme": "bearer", "description": "WEBHOOK_SECRET, or derived."},
            },
        },
    }


_JOB_STATES = ["created", "queued", "finished", "failed", "started", "deferred", "scheduled", "stopped", "canceled"]


@blueprint.get("/openapi.json")
def openapi() -> Response:
    """The document, for generators of clients and for fuzzers."""
    return jsonify(document())
