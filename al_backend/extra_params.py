"""A project's own learning settings: the "extra params" of its model connection in Label Studio."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from al_backend.errors import ConfigError
from al_backend.settings import LearningSettings

_EXAMPLE = '{"budget": 20}'


def parse_extra_params(value: object, learning: LearningSettings) -> dict[str, Any]:
    """The overrides in `value`, known to be valid.

    Args:
        value: an object, the same as JSON text (what the user interface stores), None or "".
        learning: settings that they override.

    Raises:
        ConfigError: it is none of these, names no setting, or has a wrong value.
    """
    if isinstance(value, str):
        value = _from_text(value) if value.strip() else None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(
            f"The extra params of the model connection are of type {type(value).__name__}; "
            f"expected an object such as {_EXAMPLE}."
        )
    learning.overridden(value)
    return value


def _from_text(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except ValueError as error:
        raise ConfigError(
            f"The extra params of the model connection are not valid JSON ({error}); write {_EXAMPLE}."
        ) from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
