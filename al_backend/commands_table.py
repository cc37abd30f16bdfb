"""Writes `docs/commands.md` from the command line itself: `python -m al_backend.commands_table > docs/commands.md`."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from types import UnionType
from typing import Any, Union

from typer.main import get_command

from al_backend.cli import app

_HEAD = """# Commands

Written by `python -m al_backend.commands_table`; edit the modules of `al_backend/cli/` instead.

`al-backend [OPTIONS] COMMAND [ARGUMENTS]`. With `--json` a command prints one JSON document on stdout and its logs on
stderr; arguments that cannot be read at all are told on stderr alone. The exit status is 0 on success, 1 on failure
(for `doctor` an error is one, a warning is none), 2 on wrong use.
Addresses and secrets come from the environment: [settings](settings.md).

"""


def commands_page() -> str:
    """The whole page, in Markdown."""
    group: Any = get_command(app)
    commands: dict[str, Any] = dict(group.commands)
    names = [f"| [`{name}`](#{name}) | {_sentence(command.help)} |" for name, command in commands.items()]
    overview = "\n".join(["| Command | |", "|---|---|", *names])
    parts = [f"{overview}\n", f"## Before every command\n\n{_table(group.callback, group.params)}"]
    parts += [_section(name, command) for name, command in commands.items()]
    return _HEAD + "\n".join(parts)


def _section(name: str, command: Any) -> str:
    arguments = "".join(f" {_argument(item)}" for item in command.params if item.param_type_name == "argument")
    options = " [OPTIONS]" if any(item.param_type_name == "option" for item in command.params) else ""
    usage = f"`al-backend {name}{arguments}{options}`"
    return "\n\n".join([f"## {name}", usage, command.help, _table(command.callback, command.params)])


def _table(function: Callable[..., Any], parameters: Iterable[Any]) -> str:
    hints = typing.get_type_hints(function, include_extras=True)
    rows = ["| | Values | Default | |", "|---|---|---|---|"]
    rows += [
        f"| {_names(item)} | {_values(item, hints[item.name])} | {_default(item)} | {_cell(item.help or '')} |"
        for item in parameters
        if item.name in hints
    ]
    return "\n".join(rows) + "\n"


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{_argument(parameter)}`"
    return ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))


def _argument(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _values(parameter: Any, hint: Any) -> str:
    """What a parameter takes, from the annotation of the command's function; empty for a flag."""
    annotation, *metadata = typing.get_args(hint) if typing.get_origin(hint) is typing.Annotated else (hint,)
    if _plain(annotation) is bool:
        return ""
    low, high = (next((getattr(item, name, None) for item in metadata), None) for name in ("min", "max"))
    limits = "" if low is None else f", at least {low}" if high is None else f", {low} to {high}"
    kinds = {str: "text", int: "integer", float: "number", Path: "path"}
    return kinds[_plain(annotation)] + limits


def _plain(annotation: Any) -> Any:
    """The type of one value: of `list[int] | None` that is `int`."""
    if typing.get_origin(annotation) in (Union, UnionType):
        (annotation,) = (part for part in typing.get_args(annotation) if part is not type(None))
    return typing.get_args(annotation)[0] if typing.get_origin(annotation) is list else annotation


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    if getattr(parameter, "is_flag", False):
        return f"`{parameter.opts[0]}`" if value and parameter.secondary_opts else ""
    return f"`{value}`" if isinstance(value, (str, int, float)) else ""


def _sentence(text: str | None) -> str:
    return _cell((text or "").strip().split("\n")[0])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(commands_page(), end="")
