"""The blueprint: headers of its pages, its error pages, its static files, and what all templates know."""

from __future__ import annotations

import hashlib
import logging
from functools import lru_cache
from http import HTTPStatus
from importlib import resources
from typing import Any

import redis
from flask import Blueprint, Response, abort, current_app, make_response, render_template, request, url_for
from werkzeug.exceptions import HTTPException

from al_backend import __version__
from al_backend.errors import BackendError, VersionNotFound
from al_backend.http.dashboard import formats
from al_backend.http.dashboard.csrf import Forbidden
from al_backend.http.errors import BadRequest, NotKnown
from al_backend.masking import masked

logger = logging.getLogger(__name__)

blueprint = Blueprint("dashboard", __name__, url_prefix="/dashboard", template_folder="templates")

_POLICY = "; ".join(
    (
        "default-src 'none'",
        "img-src 'self' data:",
        "style-src 'self'",
        "script-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_STATIC = {
    "dashboard.css": "text/css; charset=utf-8",
    "dashboard.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_A_YEAR = 31_536_000

for _name, _filter in formats.FILTERS.items():
    blueprint.add_app_template_filter(_filter, _name)


@lru_cache
def static_file(name: str) -> bytes:
    """The content of a file that is shipped with the dashboard."""
    return (resources.files("al_backend.http.dashboard") / "static" / name).read_bytes()


def static_url(name: str) -> str:
    """The address of a static file; it changes with the content, so that browsers may keep it."""
    return url_for("dashboard.static_content", name=name, v=hashlib.sha256(static_file(name)).hexdigest()[:10])


@blueprint.get("/static/<name>")
def static_content(name: str) -> Response:
    """Style and script."""
    if name not in _STATIC:
        abort(404)
    response = Response(static_file(name), content_type=_STATIC[name])
    response.headers["Cache-Control"] = f"private, max-age={_A_YEAR}, immutable"
    return response


@blueprint.app_context_processor
def _common() -> dict[str, Any]:
    return {"static_url": static_url, "release": __version__} if request.blueprint == "dashboard" else {}


@blueprint.after_request
def _with_headers(response: Response) -> Response:
    for name, value in _HEADERS.items():
        response.headers[name] = value
    response.headers.setdefault("Cache-Control", "no-store")
    return response


@blueprint.route("/<path:rest>", methods=["GET", "POST"])
def nothing_here(rest: str) -> Response:
    """A page for addresses that do not exist."""
    return error_page(404, f"There is no page /dashboard/{rest}.")


def error_page(status: int, sentence: str) -> Response:
    """A page that says what is wrong."""
    sentence = masked(sentence)
    title = {403: "Nothing was done", 404: "Not here", 503: "Not possible now"}.get(status, HTTPStatus(status).phrase)
    return make_response(render_template("error.html", title=title, sentence=sentence, status=status), status)


def _expected(error: BackendError) -> Response:
    if isinstance(error, Forbidden):
        logger.warning("Refused %s %s: %s", request.method, request.path, error)
        return error_page(403, str(error))
    if isinstance(error, NotKnown | VersionNotFound):
        return error_page(404, str(error))
    return error_page(400 if isinstance(error, BadRequest) else 503, str(error))


def _without_redis(error: redis.RedisError) -> Response:
    logger.warning("Redis failed during %s %s: %s", request.method, request.path, error)
    return error_page(503, f"Redis does not answer ({error}). Start it, or correct REDIS_URL; nothing was done.")


def _refused(error: HTTPException) -> Response:
    sentences = {404: f"There is no page {request.path}.", 405: f"{request.path} does not take {request.method}."}
    status = error.code or 500
    return error_page(status, sentences.get(status, error.description or error.name))


def _surprise(error: Exception) -> Response:
    if current_app.testing:
        raise error
    logger.exception("Unexpected error during %s %s", request.method, request.path)
    return error_page(500, "Something went wrong that should not; the backend's log has the details.")


blueprint.register_error_handler(BackendError, _expected)
blueprint.register_error_handler(redis.RedisError, _without_redis)
blueprint.register_error_handler(HTTPException, _refused)
blueprint.register_error_handler(Exception, _surprise)
