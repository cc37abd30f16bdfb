"""Keeps secrets out of what is printed: passwords and tokens in text, in addresses, and in everything that is logged.

Errors are raised far from the settings, and other libraries write addresses into theirs. So the secrets of a process
are remembered once, at its start, and looked for wherever text leaves it.
"""

from __future__ import annotations

import base64
import logging
import re
import traceback
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

if TYPE_CHECKING:
    from al_backend.settings import Settings

HIDDEN = "***"

SHORTEST = 4
"""Characters of a secret that is looked for in text; a shorter one would be found in ordinary words."""

_USERINFO = re.compile(r"(?<=://)[^/?#\s\"'<>]*@")
_SECRET_NAME = r"(?:pass(?:word|wd)?|secret|token|signature|sig|credential|api_?key|access_?key|account_?key)"
_QUERY = re.compile(rf"([?&][^=&\s]*{_SECRET_NAME}[^=&\s]*=)[^&\s\"'<>]+", re.IGNORECASE)
_HEADER = re.compile(r"\b(Bearer|Basic|Token)( +)[A-Za-z0-9._~+/=-]{16,}")
_WEB_TOKEN = re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?")
_FIELD = re.compile(r"((?:access_token|api_key|password|secret)[\"']?\s*[:=]\s*[\"']?)[^\s\"',&}]+", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


class _Remembered:
    """The secrets of this process, longest first, so that one inside another leaves no rest."""

    def __init__(self) -> None:
        self.secrets: tuple[str, ...] = ()

    def add(self, found: Iterable[str]) -> None:
        fresh = {*self.secrets, *(secret for secret in found if len(secret) >= SHORTEST)}
        self.secrets = tuple(sorted(fresh, key=len, reverse=True))


_remembered = _Remembered()


def remember_secrets(settings: Settings) -> None:
    """Look for the secrets of `settings` in every text from now on."""
    _remembered.add(secrets_of(settings))


def secrets_of(settings: Settings) -> set[str]:
    """Every secret in the settings, in each form in which it may be written."""
    named = (settings.label_studio_api_key, settings.basic_auth_pass, settings.webhook_secret)
    found = {value.get_secret_value().strip() for value in named if value is not None}
    if settings.webhook_bearer:
        found.add(settings.webhook_bearer)
    if settings.auth_required and settings.basic_auth_pass is not None:
        pair = f"{settings.basic_auth_user}:{settings.basic_auth_pass.get_secret_value()}"
        found.add(base64.b64encode(pair.encode()).decode())
    for url in (settings.redis_url, settings.model_dir, settings.label_studio_url, settings.public_url):
        found |= _secrets_in_url(url or "")
    return {form for secret in found if secret for form in (secret, quote(secret, safe=""))}


def masked_url(url: str) -> str:
    """An address without user, password and what in its query is secret by its name."""
    return _QUERY.sub(rf"\1{HIDDEN}", _USERINFO.sub(f"{HIDDEN}@", url))


def masked(text: str) -> str:
    """`text` without the remembered secrets, and without what looks like one in an address or a header."""
    for secret in _remembered.secrets:
        text = text.replace(secret, HIDDEN)
    text = _HEADER.sub(rf"\1\2{HIDDEN}", masked_url(text))
    return _FIELD.sub(rf"\1{HIDDEN}", _WEB_TOKEN.sub(HIDDEN, text))


def one_line(text: str) -> str:
    """`text` on one line, control characters written out: for what strangers send and operators read."""
    return _CONTROL.sub(_written_out, text).replace("\n", "\\n").replace("\t", "\\t")


def protect_logs(settings: Settings) -> None:
    """From now on no log line of this process shows a secret, or can be forged by what a stranger sends.

    The second and further lines of a message are indented, so that none of them looks like a message of its own; other
    control characters, which move a terminal's cursor, are written out.
    """
    remember_secrets(settings)
    current = logging.getLogRecordFactory()
    if not isinstance(current, _SafeRecords):
        logging.setLogRecordFactory(_SafeRecords(current))


class _SafeRecords:
    """Makes log records through another factory and cleans them: every logger of every library goes through here."""

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self._make(*args, **kwargs)
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # a logging mistake must not end the request that it tells of
            message = f"{record.msg} (its arguments do not fit)"
        record.msg, record.args = _safe(message), None
        if record.exc_info and record.exc_info[0] is not None:
            # Formatters take the text that is there instead of writing one from the exception.
            record.exc_text = masked("".join(traceback.format_exception(*record.exc_info)).rstrip())
        return record


def _safe(message: str) -> str:
    first, *others = masked(message).replace("\r\n", "\n").split("\n")
    return "\n    ".join(_CONTROL.sub(_written_out, line) for line in (first, *others))


def _written_out(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def _secrets_in_url(url: str) -> set[str]:
    """Password, a user that stands alone, and secret values of the query, as written and decoded."""
    found: set[str] = set()
    for userinfo in _USERINFO.findall(url):
        user, colon, password = userinfo[:-1].partition(":")
        found.add(password if colon else user)
    try:
        query = urlsplit(url).query
    except ValueError:
        query = url.partition("?")[2]
    found |= {value for name, value in parse_qsl(query) if re.search(_SECRET_NAME, name, re.IGNORECASE)}
    return found | {unquote(secret) for secret in found}
