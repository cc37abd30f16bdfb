"""How every process logs: one event a line, with the project, task, job, version and request that it belongs to.

A part of the code that works on something says so once with `bound`, and every event inside carries it, also those of
libraries. Secrets are masked where the text is made, so that none gets out whoever wrote it.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TextIO

from al_backend.errors import ConfigError
from al_backend.masking import mask_secrets, remember_secrets

if TYPE_CHECKING:
    from al_backend.settings import Settings

FIELDS = ("project", "task", "job", "kind", "version", "request")
"""What an event may belong to, in the order in which text shows it."""

_fields: ContextVar[Mapping[str, Any]] = ContextVar("al_backend_log_fields", default={})  # noqa: B039 - never changed

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


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


class TextFormatter(logging.Formatter):
    """One event a line for people; only the traceback of a surprise takes more."""

    def __init__(self, mask: Callable[[str], str] = mask_secrets) -> None:
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

    def __init__(self, mask: Callable[[str], str] = mask_secrets) -> None:
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
    remember_secrets(settings)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
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
        event = {"time": now, "level": "INFO", "logger": "stdout", "message": mask_secrets(line)}
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
