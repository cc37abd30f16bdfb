"""Writes `docs/settings.md` from the settings themselves: `python -m al_backend.settings_table > docs/settings.md`."""

from __future__ import annotations

import json
import typing
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union

from pydantic import AliasChoices, SecretStr
from pydantic.fields import FieldInfo

from al_backend.settings import LearningSettings, Settings

_HEAD = """# Settings

Written by `python -m al_backend.settings_table`; edit `al_backend/settings.py` instead.

Every setting is an environment variable. Options of the command line override some of them; a `.env` file is read by
Docker Compose only.

## Learning

A project overrides these by the "extra params" of its model connection in Label Studio, a JSON object with the names
in lower case and without `AL_`, for example `{"strategy": "random", "budget": 50}`. A changed variable counts after a
restart, changed extra params at the next training and at the next ranking; `al-backend rank PROJECT` makes one at once.

"""


def settings_page() -> str:
    """The whole page, in Markdown."""
    learning = {name: field for name, field in Settings.model_fields.items() if name in LearningSettings.model_fields}
    others = {name: field for name, field in Settings.model_fields.items() if name not in learning}
    return _HEAD + _table(learning) + "\n## The service\n\n" + _table(others)


def variables(name: str, field: FieldInfo) -> tuple[str, ...]:
    """The environment variables that set a field, the preferred one first."""
    if isinstance(field.validation_alias, AliasChoices):
        return tuple(str(choice) for choice in field.validation_alias.choices)
    return (f"AL_{name.upper()}",)


def _table(fields: dict[str, FieldInfo]) -> str:
    rows = ["| Variable | Type | Default | Description |", "|---|---|---|---|"]
    for name, field in fields.items():
        first, *others = variables(name, field)
        alias = f" (also `{'`, `'.join(others)}`)" if others else ""
        rows.append(
            f"| `{first}`{alias} | {_kind(field.annotation)}{_range(field)} | {_default(field.default)} | "
            f"{field.description} |"
        )
    return "\n".join(rows) + "\n"


def _range(field: FieldInfo) -> str:
    """What a number may be."""
    bounds = {
        name: getattr(rule, name) for rule in field.metadata for name in ("ge", "gt", "le", "lt") if hasattr(rule, name)
    }
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    return "".join(f", {words[name]} {value:g}" for name, value in bounds.items())


def _kind(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, UnionType):
        return " or ".join(_kind(argument) for argument in arguments if argument is not type(None))
    if origin is tuple:
        return "list, with commas or as JSON"
    names = {str: "text", int: "integer", float: "number", bool: "`true`, `false`", Path: "path", SecretStr: "secret"}
    return names[annotation]


def _default(value: Any) -> str:
    if value is None or value == ():
        return ""
    if isinstance(value, tuple):
        return f"`{json.dumps(value)}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


if __name__ == "__main__":
    print(settings_page(), end="")
