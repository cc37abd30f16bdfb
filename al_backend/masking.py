"""Keeps secrets out of what leaves the process by other ways than the log: errors, answers, `--json`, addresses.

Errors are raised far from the settings, and other libraries write addresses into theirs. So the secrets of a process
are remembered once, at its start, and looked for wherever text leaves it. The log has the same rules, see `logs.py`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from al_backend.logs import MASK, SECRET_IN_QUERY, Masker, secrets_of

if TYPE_CHECKING:
    from al_backend.settings import Settings

_PASSWORD = re.compile(r"(://[^/?#\s:\"'<>]*:)[^/?#\s\"'<>]*@")
_USER_ALONE = re.compile(r"(://)[^/?#\s:@\"'<>]+@")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


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


def masked_url(url: str) -> str:
    """An address without its password, without a user that stands alone (a token), and without secrets in its query."""
    url = _PASSWORD.sub(rf"\1{MASK}@", url)
    return SECRET_IN_QUERY.sub(rf"\1{MASK}", _USER_ALONE.sub(rf"\1{MASK}@", url))


def masked(text: str) -> str:
    """`text` without the remembered secrets, and without what looks like one in an address or a header."""
    return _remembered.mask(masked_url(text))


def one_line(text: str) -> str:
    """`text` with control characters written out: for what strangers send and operators read."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
