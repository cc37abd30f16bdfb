"""What the doctor says about one thing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any


class Level(str, Enum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"

    def __str__(self) -> str:
        """The level as users read it."""
        return self.value


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        check: what was looked at, a stable short name.
        ok: whether it is as it has to be; false for warnings too.
        level: warning where the cycle still runs, error where it does not.
        message: what was found, and what was expected where that differs.
        remedy: what to do; "" when nothing.
    """

    check: str
    ok: bool
    level: Level
    message: str
    remedy: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"level": self.level.value}

    def __str__(self) -> str:
        return f"{self.level:7} {self.check}: {self.message}" + (f"\n        -> {self.remedy}" if self.remedy else "")


def fine(check: str, message: str) -> Finding:
    """A check that found nothing wrong."""
    return Finding(check, True, Level.OK, message)


def warning(check: str, message: str, remedy: str) -> Finding:
    """A check that found something that makes the result worse."""
    return Finding(check, False, Level.WARNING, message, remedy)


def error(check: str, message: str, remedy: str) -> Finding:
    """A check that found something that stops the cycle."""
    return Finding(check, False, Level.ERROR, message, remedy)
