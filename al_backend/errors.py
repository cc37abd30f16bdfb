"""The errors of the Label Studio side: each message says what was found, what was expected, what to do."""

from __future__ import annotations


class BackendError(Exception):
    """Base of every error that `al_backend/` raises on purpose; the command line prints it without a traceback."""


class ConfigError(BackendError):
    """A setting that is missing, malformed or contradicts another."""


class WrongUse(ConfigError):
    """Arguments of a command that cannot be meant; it ends with 2."""


class LabelConfigError(BackendError):
    """A labelling config that this backend cannot serve."""


class LabelStudioError(BackendError):
    """Label Studio did not answer, or answered something else than asked for.

    Attributes:
        status: HTTP status of the answer; None when there was none.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ProjectGone(LabelStudioError):
    """Label Studio answers, and has no such project that our key may see."""


class ImageUnavailable(BackendError):
    """An image of a task cannot be had: the message is the reason that `status` shows.

    Attributes:
        passing: whether it may be had later: its server was away or busy.
        lost: whether its server answered that it has none: for good, or because the disk behind it is away.
    """

    def __init__(self, message: str, *, passing: bool = False, lost: bool = False) -> None:
        super().__init__(message)
        self.passing = passing
        self.lost = lost


class VersionNotFound(BackendError):
    """A version name that the registry does not hold."""


class RegistryError(BackendError):
    """The registry's location cannot be read or written, or holds a newer format."""


class NoWorker(BackendError):
    """No living worker takes the queue that a request needs."""
