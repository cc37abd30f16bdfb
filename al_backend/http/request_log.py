"""One event for every request, and an id that the caller, the log and the jobs of the request share."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask

from al_backend import logs

logger = logging.getLogger(__name__)

HEADER = "X-Request-ID"

_GIVEN = re.compile(r"[A-Za-z0-9._-]{1,64}")
_QUIET = ("/", "/health", "/ready", "/metrics", "/setup", "/versions", "/jobs")
"""Asked again and again by Label Studio and monitors; events of them would hide the others."""


def install_request_log(app: Flask) -> None:
    """Log every request of the app; call it last, because it surrounds everything else.

    A caller may name the request in `X-Request-ID`; the answer carries that name, or one that is made here.
    """
    inner = app.wsgi_app

    def logged(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        given = str(environ.get("HTTP_X_REQUEST_ID", ""))
        name = given if _GIVEN.fullmatch(given) else uuid.uuid4().hex[:12]
        status = "500"

        def start(status_line: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            nonlocal status
            status = status_line[:3]
            return start_response(status_line, [*headers, (HEADER, name)], *rest)

        with logs.bound(request=name):
            started = time.perf_counter()
            try:
                return inner(environ, start)
            finally:
                _log(environ, status, time.perf_counter() - started)

    app.wsgi_app = logged  # type: ignore[method-assign]


def _log(environ: dict[str, Any], status: str, seconds: float) -> None:
    method, path = str(environ.get("REQUEST_METHOD")), str(environ.get("PATH_INFO"))[:200]
    level = logging.WARNING if status >= "500" else logging.DEBUG if path in _QUIET else logging.INFO
    # The query is left out: nothing here takes one, so whatever it holds is somebody else's, maybe a secret.
    logger.log(level, "%s %s %s in %.0f ms", method, path, status, seconds * 1000)
