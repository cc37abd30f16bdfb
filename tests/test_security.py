"""The page on security says nothing that no test tries."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
HEAD = ["Threat", "What we do", "Where", "Test"]


def rows() -> list[list[str]]:
    """The cells of every row of every threat table."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("|")
    ]
    return [row for row in cells if row != HEAD and not set(row[0]) <= set("-")]


def test_there_are_threats() -> None:
    assert len(rows()) > 40
    assert all(len(row) == len(HEAD) and all(row) for row in rows())


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:50])
def test_every_threat_names_code_and_a_test_that_exist(row: list[str]) -> None:
    _, _, where, test = row
    places = re.findall(r"`([^`]+)`", where)
    assert places
    for place in places:
        assert (ROOT / place).is_file(), place
    tests = re.findall(r"`([^`]+)`", test)
    assert tests
    for name in tests:
        path, _, function = name.partition("::")
        assert function in functions(path), name


def functions(path: str) -> set[str]:
    """Names of the test functions of a file, methods too; one that is always skipped is none."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    return {node.name for node in found if not any("skip" in ast.unparse(mark) for mark in node.decorator_list)}


def test_every_threat_stands_once() -> None:
    threats = [row[0] for row in rows()]
    assert len(threats) == len(set(threats))
