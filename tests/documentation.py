"""What the pages say: their text, fenced blocks and command lines, for the tests that hold them to the code."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<body>.*?)^(?P=indent)```", re.DOTALL | re.MULTILINE
)
_ASSIGNMENT = re.compile(r"[A-Z][A-Z0-9_]*=.*")
_PLACEHOLDERS = {"PROJECT": "7", "[PROJECT]": "7", "VERSION": "yolov5n-v1-0a1b2c", "DATASET": "reef:40"}


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page."""

    page: str
    language: str
    body: str


@dataclass(frozen=True, slots=True)
class CommandLine:
    """One command of a fenced block, its environment apart; placeholders stand for something that parses."""

    page: str
    environment: dict[str, str]
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(language: str | None = None) -> Iterator[Block]:
    """Fenced blocks of all pages; shell commands stand in those without a language."""
    for path in PAGES:
        for found in _FENCE.finditer(path.read_text(encoding="utf-8")):
            body = re.sub(f"^{found['indent']}", "", found["body"], flags=re.MULTILINE)
            if language is None or found["language"] == language:
                yield Block(name_of(path), found["language"], body)


def command_lines() -> Iterator[CommandLine]:
    """Every command of every block without a language."""
    for block in blocks(""):
        for line in block.body.splitlines():
            for part in line.split(" && "):
                words = shlex.split(part, comments=True)
                if words:
                    yield _command_line(block.page, words)


def inline_code() -> Iterator[tuple[str, str]]:
    """Page and text of everything between single backticks."""
    for path in PAGES:
        prose = _FENCE.sub("", path.read_text(encoding="utf-8"))
        for found in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose):
            yield name_of(path), found


def anchors(page: Path) -> set[str]:
    """Ids of a page's headings, as MkDocs and GitHub both make them."""
    prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
    found = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", prose, re.MULTILINE):
        plain = re.sub(r"[^\w\s-]", "", re.sub(r"[`*]", "", heading).lower())
        found.add(re.sub(r"[-\s]+", "-", plain).strip("-"))
    return found


def _command_line(page: str, words: list[str]) -> CommandLine:
    environment: dict[str, str] = {}
    if words[0] == "export":
        return CommandLine(page, dict(_assignment(word) for word in words[1:]), ("export",))
    while words and _ASSIGNMENT.fullmatch(words[0]):
        environment.update([_assignment(words.pop(0))])
    return CommandLine(page, environment, tuple(_PLACEHOLDERS.get(word, word) for word in words))


def _assignment(word: str) -> tuple[str, str]:
    name, _, value = word.partition("=")
    return name, value
