"""The WSGI app: Label Studio's routes, those for operators, and what surrounds every request."""

from __future__ import annotations

import logging
from pathlib import Path

from flask import Flask

from al_backend.http import openapi, routes_label_studio, routes_operations
from al_backend.http.auth import SHORT_PASSWORD, install_auth
from al_backend.http.bodies import install_limits
from al_backend.http.browser import install_headers, install_host_check, install_origin_check
from al_backend.http.dashboard import install_dashboard
from al_backend.http.errors import install_error_handlers
from al_backend.http.metrics import install_metrics
from al_backend.http.request_log import install_request_log
from al_backend.http.services import EXTENSION, Services
from al_backend.jobs.queues import Queues
from al_backend.masking import remember_secrets
from al_backend.registry import Registry
from al_backend.settings import Settings

logger = logging.getLogger(__name__)

LARGEST_REQUEST = 64 * 1024 * 1024
"""Bytes of a request body. Label Studio sends all tasks of "Retrieve Predictions" at once: about 500 bytes each."""


def create_app(
    settings: Settings,
    *,
    registry: Registry | None = None,
    queues: Queues | None = None,
    metrics_folder: Path | None = None,
) -> Flask:
    """The app of one web process. Neither Redis nor the registry nor Label Studio has to be there yet.

    Args:
        settings: of the process.
        registry: None opens the one at `MODEL_DIR` when it is first needed.
        queues: None connects when they are first needed.
        metrics_folder: where several web processes share their request counts.

    Raises:
        ConfigError: the authentication settings contradict each other.
    """
    remember_secrets(settings)
    app = Flask("al_backend", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = LARGEST_REQUEST
    app.url_map.strict_slashes = False
    here = app.extensions[EXTENSION] = Services(settings, registry, queues)
    install_error_handlers(app)
    install_headers(app)
    install_metrics(app, here, metrics_folder)  # before auth, so that refused requests are counted
    install_auth(app, settings)
    install_host_check(app, settings)
    install_origin_check(app, settings)
    install_limits(app)
    install_request_log(app)
    app.register_blueprint(routes_label_studio.blueprint)
    app.register_blueprint(routes_operations.blueprint)
    app.register_blueprint(openapi.blueprint)
    install_dashboard(app, settings)
    if settings.webhook_secret and not settings.auth_required:
        logger.warning(
            "WEBHOOK_SECRET protects /webhook alone, and Start Training will be refused, because Label Studio sends "
            "the secret only with events: set BASIC_AUTH_USER and BASIC_AUTH_PASS too"
        )
    elif not settings.auth_required and settings.host not in ("127.0.0.1", "localhost", "::1"):
        logger.warning(
            "Everyone who reaches %s:%d may use this backend: set BASIC_AUTH_USER and BASIC_AUTH_PASS",
            settings.host,
            settings.port,
        )
    password = settings.basic_auth_pass
    if settings.auth_required and password is not None and len(password.get_secret_value()) < SHORT_PASSWORD:
        logger.warning(
            "BASIC_AUTH_PASS has fewer than %d characters, and wrong guesses lock nobody out: take a longer one",
            SHORT_PASSWORD,
        )
    return app
