"""How every process logs: one event a line, with the project, task, job, version and request that it belongs to.

A part of the code that works on something says so once with `bound`, and every event inside carries it, also those of
libraries. Secrets are masked where the text is made, so that none gets out whoever wrote it.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import SecretStr

from al_backend.errors import ConfigError

if TYPE_CHECKING:
    from al_backend.settings import Settings

FIELDS = ("project", "task", "job", "kind", "version", "request")
"""What an event may belong to, in the order in which text shows it."""

MASK = "***"

_SHORTEST_SECRET = 4  # characters; masking shorter ones would tear holes into everything
_fields: ContextVar[Mapping[str, Any]] = ContextVar("al_backend_log_fields", default={})  # noqa: B039 - never changed

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
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


@contextmanager
def bound(**fields: Any) -> Iterator[None]:
    """Every event inside the block carries these fields, beside those of the blocks around it; None leaves one out.

    Raises:
        ValueError: a field that `FIELDS` does not name.
    """
    token = _fields.set(_fields.get())
    try:
        bind(**fields)
        yield
    finally:
        _fields.reset(token)


def bind(**values: Any) -> None:
    """The rest of the innermost `bound` block carries these fields, too; outside of any block, the whole process."""
    unknown = values.keys() - set(FIELDS)
    if unknown:
        raise ValueError(f"no such log field: {', '.join(sorted(unknown))}; there are {', '.join(FIELDS)}")
    _fields.set({**_fields.get(), **{name: value for name, value in values.items() if value is not None}})


def fields() -> Mapping[str, Any]:
    """What events carry at this point."""
    return _fields.get()


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


class TextFormatter(logging.Formatter):
    """One event a line for people; only the traceback of a surprise takes more."""

    def __init__(self, mask: Masker) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._mask = mask

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        around = " ".join(f"{name}={value}" for name, value in _ordered(_fields.get()))
        event = f"{record.getMessage()} [{around}]" if around else record.getMessage()
        # What others wrote into message or fields can neither begin a line of its own nor steer the terminal.
        event = _CONTROL.sub(" ", " | ".join(event.splitlines()))
        line = f"{self.formatTime(record)} {record.levelname} {record.name}: {event}"
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        # Indented, because an error may quote what a stranger sent, line breaks and all.
        traceback = [f"    {_CONTROL.sub(' ', part)}" for part in (record.exc_text or "").splitlines()]
        return self._mask("\n".join([line, *traceback]))


class JsonFormatter(logging.Formatter):
    """One JSON object a line for machines: time (UTC), level, logger, message, the fields, and exception if any."""

    def __init__(self, mask: Masker) -> None:
        super().__init__()
        self._mask = mask

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        event: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": self._mask(record.getMessage()),
        }
        for name, value in _ordered(_fields.get()):
            event[name] = value if isinstance(value, int) else self._mask(str(value))
        if record.exc_info:
            event["exception"] = self._mask(self.formatException(record.exc_info))
        return json.dumps(event, ensure_ascii=False)


def configure(settings: Settings, stream: TextIO | None = None) -> None:
    """Send all events of this process to stderr in the format of `LOG_FORMAT`; calling it again replaces the first.

    Args:
        settings: `log_level`, `log_format`, and the secrets that are masked.
        stream: instead of stderr.

    Raises:
        ConfigError: `LOG_LEVEL` is no level.
    """
    level = logging.getLevelName(settings.log_level.upper())
    if not isinstance(level, int):
        raise ConfigError(f"LOG_LEVEL is {settings.log_level!r}; use DEBUG, INFO, WARNING or ERROR.")
    mask = Masker(secrets_of(settings))
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(mask) if settings.log_format == "json" else TextFormatter(mask))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    # One line per request to Label Studio, and four per job, are noise to everyone who did not ask for them.
    for chatty in ("httpx", "httpcore", "rq.worker"):
        logging.getLogger(chatty).setLevel(max(level, logging.WARNING) if level > logging.DEBUG else level)


def from_child(process: str, line: str, *, as_json: bool, width: int = 0) -> str:
    """A line that a child process printed, with the child's name.

    Args:
        process: its name.
        line: without the end of line.
        as_json: whether our own lines are JSON; a line that is none becomes the message of an event.
        width: to which the name is filled up in text.
    """
    if not as_json:
        return f"{process:<{width}} | {line}"
    event = _event(line)
    if event is None:
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        event = {"time": now, "level": "INFO", "logger": "stdout", "message": Masker()(line)}
    return json.dumps({**event, "process": process}, ensure_ascii=False)


def _event(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _ordered(fields: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(name, fields[name]) for name in FIELDS if name in fields]
