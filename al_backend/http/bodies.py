"""Reads request bodies: a value of the expected shape, or a `BadRequest` that says what was found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from flask import Flask, request

from al_backend import logs
from al_backend.http.errors import BadRequest

_LARGEST_ID = 2**63 - 1

LONG_BODIES = frozenset({"/predict", "/webhook"})
"""Label Studio sends all tasks at once: of "Retrieve Predictions" to the one, of an import to the other."""

LARGEST_SHORT_BODY = 2 * 1024 * 1024
"""Bytes that every other route takes; a labelling config of a thousand labels has about 100,000."""


def install_limits(app: Flask) -> None:
    """Let only those routes take as much as the app's `MAX_CONTENT_LENGTH` that Label Studio sends long bodies to."""

    def limit() -> None:
        path = request.url_rule.rule if request.url_rule else ""
        if path not in LONG_BODIES:
            request.max_content_length = min(LARGEST_SHORT_BODY, app.config["MAX_CONTENT_LENGTH"])

    app.before_request(limit)


def read_object() -> dict[str, Any]:
    """The JSON object in the request's body; the content type is not looked at.

    Raises:
        BadRequest: the body is not JSON, not an object, or holds NaN or Infinity.
    """
    try:
        value = json.loads(request.get_data(cache=False), parse_constant=_refuse_constant)
    except ValueError as error:  # also wrong UTF-8 and numbers of thousands of digits
        raise BadRequest(f"The body is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise BadRequest(f"The body is {_kind(value)}; expected a JSON object.")
    return value


def project_id(value: object, where: str = "project") -> int:
    """A project id from `5`, `"5"`, Label Studio's `"5.1795253337"` (id and creation time) or `{"id": 5}`.

    Args:
        value: what was found.
        where: name of the place, for the sentence.

    Raises:
        BadRequest: it is none of these.
    """
    if isinstance(value, Mapping):
        value, where = value.get("id"), f"{where}.id"
    number = -1
    if isinstance(value, str):
        digits = value.partition(".")[0]
        if digits.isascii() and digits.isdecimal() and len(digits) < 20:
            number = int(digits)
    elif isinstance(value, int) and not isinstance(value, bool):
        number = value
    if not 0 < number <= _LARGEST_ID:
        raise BadRequest(f'"{where}" is {_shown(value)}; expected a project id such as 5 or "5.1795253337".')
    logs.bind(project=number)
    return number


def text(body: Mapping[str, Any], name: str) -> str:
    """A string of the body.

    Raises:
        BadRequest: it is missing, no string, or cannot be written as UTF-8 (a lone surrogate).
    """
    value = body.get(name)
    if not isinstance(value, str):
        raise BadRequest(f'"{name}" is {_kind(value)}; expected a string.')
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRequest(f'"{name}" holds a character that is not valid Unicode.') from error
    return value


def task_of(body: Mapping[str, Any]) -> int | None:
    """The task that an event is about; None where it is about none, several, or names it in another way."""
    task = body.get("task")
    number = task.get("id") if isinstance(task, Mapping) else None
    return number if isinstance(number, int) and not isinstance(number, bool) and abs(number) <= _LARGEST_ID else None


def tasks(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tasks of a `/predict` request, each cut down to its id and data.

    Raises:
        BadRequest: one of them is no task.
    """
    found = body.get("tasks")
    if not isinstance(found, list):
        raise BadRequest(f'"tasks" is {_kind(found)}; expected a list of tasks.')
    return [_task(index, task) for index, task in enumerate(found)]


def _task(index: int, task: object) -> dict[str, Any]:
    if not isinstance(task, dict):
        raise BadRequest(f'"tasks[{index}]" is {_kind(task)}; expected an object with "id" and "data".')
    number, data = task.get("id"), task.get("data")
    if number is not None and (isinstance(number, bool) or not isinstance(number, int) or abs(number) > _LARGEST_ID):
        raise BadRequest(f'"tasks[{index}].id" is {_shown(number)}; expected a whole number.')
    if not isinstance(data, dict):
        raise BadRequest(f'"tasks[{index}].data" is {_kind(data)}; expected an object with the image\'s address.')
    # Tasks sent by hand often have no id; a negative one keeps them apart and cannot be a task of Label Studio.
    return {"id": -1 - index if number is None else number, "data": data}


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return "missing" if value is None else names.get(type(value), type(value).__name__)


def _shown(value: object) -> str:
    """The value itself while it is short and plain, else its kind."""
    if isinstance(value, bool | int | float | str) and len(repr(value)) <= 40:
        return repr(value)
    return _kind(value)
