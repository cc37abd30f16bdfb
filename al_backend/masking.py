"""Keeps secrets out of what leaves the process: the log, errors, answers, `--json`, addresses.

Errors are raised far from the settings, and other libraries write addresses into theirs. So the secrets of a process
are remembered once, at its start, and looked for wherever text leaves it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import SecretStr

if TYPE_CHECKING:
    from al_backend.settings import Settings

MASK = "***"

_SHORTEST_SECRET = 4  # characters; masking shorter ones would tear holes into everything
_SECRET_NAME = r"(?:pass(?:word|wd)?|secret|token|signature|sig|credential|api_?key|access_?key|account_?key)"
SECRET_IN_QUERY = re.compile(rf"(?i)([?&][^=&\s]*{_SECRET_NAME}[^=&\s]*=)[^&\s\"'<>]+")
"""What is secret by its name in the query of an address: passwords, signed links."""

_PATTERNS = (
    (SECRET_IN_QUERY, rf"\1{MASK}"),
    # Credentials that no setting knows: those of other people's URLs, and tokens that Label Studio makes.
    (re.compile(r"(?i)(://[^/\s:@]*:)[^/\s@]+(?=@)"), rf"\1{MASK}"),
    (re.compile(r"(?i)\b((?:Bearer|Token|Basic)\s+)[A-Za-z0-9._~+/=-]{8,}"), rf"\1{MASK}"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?"), MASK),
    (re.compile(r"(?i)((?:access_token|api_key|password|secret)[\"']?\s*[:=]\s*[\"']?)[^\s\"',&}]+"), rf"\1{MASK}"),
)
_PASSWORD = re.compile(r"(://[^/?#\s:\"'<>]*:)[^/?#\s\"'<>]*@")
_USER_ALONE = re.compile(r"(://)[^/?#\s:@\"'<>]+@")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Masker:
    """Replaces secrets in text.

    Args:
        secrets: known ones; those shorter than 4 characters are left alone. What looks like a token, a password in a
            URL or an `Authorization` header is masked without being known.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = sorted({secret for secret in secrets if len(secret) >= _SHORTEST_SECRET}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def __call__(self, text: str) -> str:
        """The text without secrets."""
        if self._known is not None:
            text = self._known.sub(MASK, text)
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return text


def secrets_of(settings: Settings) -> list[str]:
    """Everything in the settings that must not be printed."""
    found = [
        value.get_secret_value()
        for name in type(settings).model_fields
        if isinstance(value := getattr(settings, name), SecretStr)
    ]
    for url in (settings.redis_url, settings.model_dir, settings.label_studio_url, settings.public_url):
        for password in _secrets_in(url) if url and "://" in url else ():
            found += [password, unquote(password)]
    bearer = settings.webhook_bearer
    return [*found, bearer] if bearer else found


def _secrets_in(url: str) -> list[str]:
    try:
        parts = urlsplit(url)
    except ValueError:  # an address that is wrong is printed nowhere, see `masked_url`
        return []
    alone = parts.username if parts.username and parts.password is None else None
    query = [value for name, value in parse_qsl(parts.query) if re.search(_SECRET_NAME, name, re.IGNORECASE)]
    return [secret for secret in (parts.password, alone, *query) if secret]


class _Remembered:
    def __init__(self) -> None:
        self.secrets: frozenset[str] = frozenset()
        self.mask = Masker()


_remembered = _Remembered()


def remember_secrets(settings: Settings) -> None:
    """Look for the secrets of `settings` in every text from now on, beside those of a former call."""
    found = _remembered.secrets | set(secrets_of(settings))
    if found != _remembered.secrets:
        _remembered.secrets, _remembered.mask = found, Masker(found)


def mask_secrets(text: str) -> str:
    """`text` without the remembered secrets, and without what looks like one."""
    return _remembered.mask(text)


def masked_url(url: str) -> str:
    """An address without its password, without a user that stands alone (a token), and without secrets in its query."""
    url = _PASSWORD.sub(rf"\1{MASK}@", url)
    return SECRET_IN_QUERY.sub(rf"\1{MASK}", _USER_ALONE.sub(rf"\1{MASK}@", url))


def masked(text: str) -> str:
    """`text` as `mask_secrets` has it, and what looks like an address as `masked_url` has it."""
    return mask_secrets(masked_url(text))


def one_line(text: str) -> str:
    """`text` with control characters written out: for what strangers send and operators read."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
