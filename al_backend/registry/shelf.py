"""What the parts of the registry share: where things lie, and JSON in and out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from al_backend.errors import RegistryError
from al_backend.registry.storage import Storage

PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")
MANIFEST = "manifest.json"

Record = TypeVar("Record", bound=BaseModel)


class Shelf:
    """A registry's storage and the layout of its folders."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    @property
    def location(self) -> str:
        """The folder or URL that everything lies under."""
        return self._storage.location

    def _read_json(self, path: str) -> Any | None:
        return self._decoded(path, self._storage.read(path))

    def _decoded(self, path: str, content: bytes | None) -> Any | None:
        if content is None:
            return None
        try:
            return json.loads(content)
        except ValueError as error:
            raise self._damaged(path, str(error)) from error

    def _read_record(self, path: str, kind: type[Record]) -> Record | None:
        return self._validated(path, kind, self._storage.read(path))

    def _validated(self, path: str, kind: type[Record], content: bytes | None) -> Record | None:
        value = self._decoded(path, content)
        if value is None:
            return None
        try:
            return kind.model_validate(value)
        except ValidationError as error:
            found = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
            raise self._damaged(path, found) from error

    def _update_record(self, path: str, kind: type[Record], change: Callable[[Record | None], Record | None]) -> None:
        """Read, change and write a record as one step; see `Storage.update`."""

        def changed(content: bytes | None) -> bytes | None:
            record = change(self._validated(path, kind, content))
            return None if record is None else self._encoded(path, record)

        self._storage.update(path, changed)

    def _write_json(self, path: str, value: Any) -> None:
        self._storage.write(path, self._encoded(path, value))

    def _encoded(self, path: str, value: Any) -> bytes:
        try:
            # Not-a-number has no place in JSON, and a training whose loss exploded must still be recorded.
            return to_json(value, indent=2, inf_nan_mode="null")
        except PydanticSerializationError as error:
            raise RegistryError(f"{path} cannot be written as JSON: {error}") from error

    def _damaged(self, path: str, reason: str) -> RegistryError:
        return RegistryError(
            f"{path} in the registry at {self.location} is damaged ({reason}); restore it from a copy or remove it."
        )


def project_folder(project: int) -> str:
    """Where everything of a project lies."""
    return f"projects/{int(project)}"


def plain_name(name: str, what: str) -> str:
    """`name`, checked to be usable as one file name.

    Raises:
        RegistryError: it could leave its folder or is not portable.
    """
    if not PLAIN_NAME.fullmatch(name):
        raise RegistryError(
            f"{what} {name!r} cannot be stored: use letters, digits and . _ + -, at most 200, no dot in front."
        )
    return name
