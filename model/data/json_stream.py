"""Reads a large JSON object item by item: an annotation file of gigabytes never lies in memory as a whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

CHUNK = 1 << 18
"""Characters read at once."""
MAX_ITEM = 256 << 20
"""Characters of the largest single item; a mask of one crowd takes some 100,000."""
_LONGEST_CUT = 3
_SPACE = " \t\n\r"


def iterate_object(path: Path) -> Iterator[tuple[str, Any]]:
    """The members of the JSON object that a file holds, in their order.

    A member that is an array comes as one pair (key, item) per item, an empty one not at all; any other comes as
    one pair (key, value).

    Raises:
        ValueError: not UTF-8, not JSON, cut off, or not an object at the top; says where.
        OSError: the file cannot be read.
    """
    with path.open(encoding="utf-8-sig") as file:
        yield from _Reader(file).members()


class _Reader:
    def __init__(self, file: TextIO) -> None:
        self._file, self._decoder = file, json.JSONDecoder()
        self._text, self._at, self._passed, self._ended = "", 0, 0, False

    def members(self) -> Iterator[tuple[str, Any]]:
        self._expect("{")
        if self._next() == "}":
            self._at += 1
        else:
            while True:
                key = self._value()
                if not isinstance(key, str):
                    raise self._error("expected a member's name")
                self._expect(":")
                yield from self._member(key)
                if self._separator("}"):
                    break
        if self._next():
            raise self._error("expected the end")

    def _member(self, key: str) -> Iterator[tuple[str, Any]]:
        if self._next() != "[":
            yield key, self._value()
            return
        self._at += 1
        if self._next() == "]":
            self._at += 1
            return
        while True:
            yield key, self._value()
            if self._separator("]"):
                return

    def _separator(self, closing: str) -> bool:
        """Pass over a comma, or over `closing`; whether it was that."""
        found = self._next()
        if found not in (",", closing) or not found:
            raise self._error(f"expected ',' or '{closing}'")
        self._at += 1
        return found == closing

    def _expect(self, character: str) -> None:
        if self._next() != character:
            raise self._error(f"expected '{character}'")
        self._at += 1

    def _next(self) -> str:
        """The next character that is no space, without passing over it; empty at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._text) or not self._more(CHUNK):
                return self._text[self._at : self._at + 1]

    def _value(self) -> Any:
        self._next()
        size = CHUNK
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # Cut off by the chunk, or broken: only more text can tell. Doubling keeps the retries cheap.
                if len(self._text) - self._at > MAX_ITEM or not self._more(size):
                    raise self._error(error.msg, error.pos) from error
            except RecursionError as error:
                raise self._error("too deep") from error
            else:
                # Near the end of the chunk a number may go on: of 1e+5 only 1 is seen before the 5 is there.
                if end + _LONGEST_CUT <= len(self._text) or not self._more(size):
                    self._at = end
                    return value
            size *= 2

    def _more(self, size: int) -> bool:
        """Read on; False at the end of the file."""
        if self._ended:
            return False
        chunk = self._file.read(size)
        if chunk:
            self._passed += self._at
            self._text, self._at = self._text[self._at :] + chunk, 0
        self._ended = not chunk
        return not self._ended

    def _error(self, what: str, at: int | None = None) -> ValueError:
        return ValueError(f"{what} at character {self._passed + (self._at if at is None else at):,}")
