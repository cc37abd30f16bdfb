"""What a caller gets when something is wrong: a status, and one sentence as JSON."""

from __future__ import annotations

import logging
from http import HTTPStatus

import redis
from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound, RequestEntityTooLarge

from al_backend.errors import BackendError, ConfigError, LabelConfigError, NoWorker, VersionNotFound
from al_backend.masking import masked

logger = logging.getLogger(__name__)

_REASON_LIMIT = 300
_SHOWN_LIMIT = 200


class BadRequest(BackendError):
    """A request that cannot be understood."""


class NotKnown(BackendError):
    """A request about something that does not exist here."""


class Unavailable(BackendError):
    """Redis or the registry does not answer; the same request may succeed later."""


def error_response(status: int, sentence: str) -> Response:
    """The JSON answer of an error.

    Label Studio shows its users the HTTP reason phrase and nothing of the body, so the sentence is both.
    """
    sentence = masked(sentence)
    response = jsonify({"error": sentence})
    response.status = f"{status} {_reason(sentence) or HTTPStatus(status).phrase}"
    return response


def install_error_handlers(app: Flask) -> None:
    """Answer every error of the app with `error_response`; the traceback of a surprise goes to the log alone."""
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(BackendError, _expected_error)
    app.register_error_handler(redis.RedisError, _redis_error)
    app.register_error_handler(RecursionError, _nested_too_deep)
    app.register_error_handler(Exception, _surprise)


def _http_error(error: HTTPException) -> Response:
    sentence = error.description or error.name
    if isinstance(error, NotFound):
        sentence = f"There is no {_short(request.path)} here."
    elif isinstance(error, MethodNotAllowed):
        allowed = ", ".join(sorted(set(error.valid_methods or ()) - {"HEAD", "OPTIONS"}))
        sentence = f"{_short(request.path)} takes {allowed}, not {_short(request.method)}."
    elif isinstance(error, RequestEntityTooLarge):
        sentence = "The request is larger than this backend takes; send fewer tasks at once."
    response = error_response(error.code or 500, sentence)
    for name, value in error.get_headers():
        if name.lower() not in ("content-type", "content-length"):
            response.headers[name] = value
    return response


def _expected_error(error: BackendError) -> Response:
    if isinstance(error, BadRequest | LabelConfigError | ConfigError):
        return error_response(400, str(error))
    if isinstance(error, NotKnown | VersionNotFound):
        return error_response(404, str(error))
    if not isinstance(error, NoWorker | Unavailable):
        logger.warning("%s %s failed: %s", request.method, request.path, error)
    return error_response(503, str(error))


def _redis_error(error: redis.RedisError) -> Response:
    logger.warning("Redis failed during %s %s: %s", request.method, request.path, error)
    return error_response(503, f"Redis does not answer ({error}); start it, or correct REDIS_URL.")


def _nested_too_deep(error: RecursionError) -> Response:
    return error_response(400, "The body is nested too deeply; expected a few levels of JSON.")


def _surprise(error: Exception) -> Response:
    logger.exception("Unexpected error during %s %s", request.method, request.path)
    return error_response(500, "Internal error; the backend's log has the details.")


def _short(text: str) -> str:
    """What a stranger sent, cut to what a sentence can carry."""
    return text if len(text) <= _SHOWN_LIMIT else f"{text[:_SHOWN_LIMIT]}..."


def _reason(sentence: str) -> str:
    """`sentence` as a header may carry it: printable ASCII on one line, so that nobody can smuggle in headers."""
    printable = "".join(char if " " <= char <= "~" else " " if char.isspace() else "?" for char in sentence)
    return " ".join(printable.split())[:_REASON_LIMIT]
