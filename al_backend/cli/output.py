"""What every command shares: where its output goes, how its errors look, and the doors it may open."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from al_backend.jobs.queues import Queues
    from al_backend.labelstudio.client import LabelStudio
    from al_backend.registry import Registry
    from al_backend.settings import Settings

logger = logging.getLogger(__name__)

_WRONG_USE = 2
_FILE_WIDTH = 200

Document = TypeVar("Document")


class Doors:
    """Settings, registry, queues and Label Studio, each opened when a command first asks for it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @cached_property
    def registry(self) -> Registry:
        """The registry at `MODEL_DIR`."""
        from al_backend.registry import open_registry

        return open_registry(self.settings)

    @cached_property
    def queues(self) -> Queues:
        """The queues on Redis."""
        from al_backend.jobs.queues import connect

        return connect(self.settings)

    def queues_if_running(self) -> Queues | None:
        """The queues, or None when no Redis answers: the regular look finds later what is not announced now."""
        from al_backend.errors import ConfigError

        try:
            return self.queues
        except ConfigError as error:
            logger.debug("Going on without queues: %s", error)
            return None

    @cached_property
    def label_studio(self) -> LabelStudio:
        """The Label Studio that holds the projects."""
        from al_backend.labelstudio.client import LabelStudio

        return LabelStudio.from_settings(self.settings)

    def label_studio_if_known(self) -> LabelStudio | None:
        """Label Studio, or None without a key of it."""
        return None if self.settings.label_studio_api_key is None else self.label_studio

    def require_connected(self, project: int) -> None:
        """Refuse a project that nobody connected: no worker would ever look at it.

        Raises:
            BackendError: it is not in the registry.
        """
        from al_backend.errors import BackendError

        if self.registry.project(project) is None:
            raise BackendError(f"Project {project} is not connected; run `al-backend connect {project}` first.")


class Output:
    """Where one command prints: tables for people, or one JSON document."""

    def __init__(self, doors: Doors, *, as_json: bool) -> None:
        self.doors = doors
        self.as_json = as_json

    @cached_property
    def errors(self) -> Console:
        """The terminal on stderr, for progress and logs."""
        from rich.console import Console

        return Console(stderr=True)

    def show(self, document: Document, view: Callable[[Document], RenderableType]) -> None:
        """Print a result: the document itself with `--json`, else the view of it."""
        if self.as_json:
            print_json(document)
            return
        result_console().print(view(document), highlight=False)


def result_console() -> Console:
    """The terminal on stdout; a file has no width, and 80 columns would cut what somebody greps for."""
    from rich.console import Console

    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=_FILE_WIDTH)


@contextmanager
def command_output(given: Mapping[str, Any], *, as_json: bool = False, **options: Any) -> Iterator[Output]:
    """The frame of every command: settings first, then the command, its errors in one sentence.

    Args:
        given: options that stand before the command.
        as_json: whether stdout carries JSON, errors included.
        options: settings that the command's own options override; None keeps the environment's.
    """
    from al_backend.errors import BackendError, ConfigError, WrongUse
    from al_backend.logs import configure as configure_logging
    from al_backend.settings import load_settings
    from model.errors import ModelError

    try:
        settings = load_settings(**given, **{name: value for name, value in options.items() if value is not None})
        configure_logging(settings)
    except ConfigError as error:
        _complain(str(error), as_json)
        raise typer.Exit(_WRONG_USE) from None
    try:
        yield Output(Doors(settings), as_json=as_json)
    except (BackendError, ModelError) as error:
        logger.debug("The command failed", exc_info=True)
        _complain(str(error), as_json)
        raise typer.Exit(_WRONG_USE if isinstance(error, WrongUse) else 1) from None
    except (typer.Exit, typer.BadParameter, typer.Abort, BrokenPipeError):
        raise
    except Exception as error:
        logger.debug("The command failed", exc_info=True)
        _complain(
            f"Unexpected {type(error).__name__}: {error}. LOG_LEVEL=DEBUG shows where; please report it.", as_json
        )
        raise typer.Exit(1) from None


def print_json(document: Any) -> None:
    """Print one JSON document on stdout; no secret of the settings is in it."""
    from al_backend.masking import masked

    sys.stdout.write(masked(json.dumps(to_plain(document), indent=2, ensure_ascii=False, default=str)) + "\n")


def to_plain(document: Any) -> Any:
    """Dataclasses, pydantic models and sequences of them as plain values."""
    if dataclasses.is_dataclass(document) and not isinstance(document, type):
        return dataclasses.asdict(document)
    if hasattr(document, "model_dump"):
        return document.model_dump(mode="json")
    if isinstance(document, Sequence) and not isinstance(document, str):
        return [to_plain(item) for item in document]
    return document


def _complain(sentence: str, as_json: bool) -> None:
    from al_backend.masking import masked

    sentence = masked(sentence)
    if as_json:
        print_json({"error": sentence})
    else:
        sys.stderr.write(sentence + "\n")
