"""Who may ask what: basic auth everywhere, a bearer secret on `/webhook`, nothing on `/health`."""

from __future__ import annotations

import base64
import binascii
import hmac
import logging
import threading
import time

from flask import Flask, Response, request

from al_backend.errors import ConfigError
from al_backend.http.errors import error_response
from al_backend.masking import one_line
from al_backend.settings import Settings

logger = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/", "/health"})
"""Label Studio and container health checks look here before they know a password."""

WEBHOOK_PATH = "/webhook"

SHORT_PASSWORD = 12
"""Characters of a password below which guessing is worth a try: nobody is locked out here, see `Refusals`."""

_REFUSALS_EVERY = 10.0


def check_auth_settings(settings: Settings) -> None:
    """Refuse settings that look protected and are not.

    Raises:
        ConfigError: only one of user and password is set.
    """
    if bool(settings.basic_auth_user) != bool(settings.basic_auth_pass and settings.basic_auth_pass.get_secret_value()):
        is_set, missing = ("USER", "PASS") if settings.basic_auth_user else ("PASS", "USER")
        raise ConfigError(
            f"BASIC_AUTH_{is_set} is set and BASIC_AUTH_{missing} is not: set both, or neither for an open backend."
        )


def install_auth(app: Flask, settings: Settings) -> None:
    """Check every request of the app before its route, unknown routes included."""
    check_auth_settings(settings)
    refusals = Refusals()

    def check() -> Response | None:
        path = request.url_rule.rule if request.url_rule else ""
        if path in OPEN_PATHS or _allowed(settings, path, request.headers.get("Authorization", "")):
            return None
        if request.headers.get("Authorization"):
            refusals.note(request.remote_addr or "an unknown address", path or "an unknown route")
        response = error_response(401, _advice(settings, path))
        response.headers["WWW-Authenticate"] = 'Basic realm="al-backend", charset="UTF-8"'
        return response

    app.before_request(check)


def shows_password(settings: Settings) -> bool:
    """Whether the current request would be let in everywhere; also for routes that are open to all."""
    return _allowed(settings, "", request.headers.get("Authorization", ""))


class Refusals:
    """Tells the log about wrong passwords, at most once in ten seconds: a guesser must not fill the disk either.

    Nobody is locked out or slowed down. Label Studio and a guesser may come from the same address, behind one proxy,
    and then a guesser could lock out Label Studio.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._count = 0
        self._said_at = float("-inf")

    def note(self, address: str, where: str) -> None:
        """Count one refused password or secret."""
        with self._guard:
            self._count += 1
            if time.monotonic() - self._said_at < _REFUSALS_EVERY:
                return
            count, self._count, self._said_at = self._count, 0, time.monotonic()
        logger.warning(
            "Wrong password or secret, %d since the last such line, now from %s at %s", count, one_line(address), where
        )


def _allowed(settings: Settings, path: str, header: str) -> bool:
    bearer = settings.webhook_bearer
    if path == WEBHOOK_PATH and bearer is not None:
        # A secret alone protects the webhook alone; with a password either opens it, because Label Studio sends
        # its events with the secret and START_TRAINING with the password.
        return _is_bearer(header, bearer) or (settings.auth_required and _is_basic(header, settings))
    return not settings.auth_required or _is_basic(header, settings)


def _is_bearer(header: str, secret: str) -> bool:
    scheme, _, token = header.partition(" ")
    return scheme.lower() == "bearer" and _same(token.strip().encode("latin-1", "replace"), secret)


def _is_basic(header: str, settings: Settings) -> bool:
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic" or not settings.basic_auth_user or not settings.basic_auth_pass:
        return False
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return False
    # Both are compared whatever the first says, so that time does not tell which of them was wrong.
    known = [_same(user, settings.basic_auth_user), _same(password, settings.basic_auth_pass.get_secret_value())]
    return bool(colon) and all(known)


def _same(found: bytes, expected: str) -> bool:
    """Compared in constant time; `requests` writes names and passwords in Latin-1, browsers in UTF-8."""
    spellings = [expected.encode()]
    if all(ord(char) < 256 for char in expected):
        spellings.append(expected.encode("latin-1"))
    return any([hmac.compare_digest(found, spelling) for spelling in spellings])


def _advice(settings: Settings, path: str) -> str:
    if path != WEBHOOK_PATH:
        return "User and password are missing or wrong; give the model connection in Label Studio BASIC_AUTH_USER's."
    if settings.auth_required:
        return "The webhook's Authorization header is missing or wrong; run `al-backend connect PROJECT` to set it."
    return (
        "The webhook's secret is missing or wrong; run `al-backend connect PROJECT` to set it. "
        "Start Training needs BASIC_AUTH_USER and BASIC_AUTH_PASS besides WEBHOOK_SECRET."
    )
