"""The curves of a long experiment in one text file, a line per file of its folders, so that they can be committed.

Whoever has the file goes on where it ended, on another machine, too: only weights are left out, and a training that is
needed again for its weights is done again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model.simulation.store import read_json, write_json, write_whole

_PATTERNS = ("manifest.json", "cells/*/cycle-*.json", "full/*.json", "starts/*/measured.json", "first/*.json")


def keep_curves(work: Path, folders: Sequence[str], file: Path) -> int:
    """Write what the folders of experiments (`model.simulation.store.Store`) know into one file.

    Args:
        work: where the folders are; those that are missing are passed over.
        folders: their names.
        file: written as a whole; sorted by path, so that what is added changes no other line.

    Returns:
        How many lines.
    """
    rows: list[dict[str, Any]] = []
    for folder in folders:
        for path in sorted(path for pattern in _PATTERNS for path in (work / folder).glob(pattern)):
            document = read_json(path)
            if document is not None:  # a damaged one counts for nothing in the experiment, too
                rows.append({"path": path.relative_to(work).as_posix(), "document": document})
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(",", ":")) for row in rows]
    write_whole(file, "".join(f"{line}\n" for line in lines).encode())
    return len(lines)


def restore_curves(file: Path, work: Path) -> int:
    """Put everything back that `keep_curves` wrote, except where there is a file already.

    Returns:
        How many files were written.

    Raises:
        ValueError: a path leads out of `work`.
    """
    written = 0
    for line in file.read_text("utf-8").splitlines():
        row = json.loads(line)
        path = work / row["path"]
        if not path.resolve().is_relative_to(work.resolve()):
            raise ValueError(f"{file} names {row['path']}, which is outside of {work}")
        if not path.exists():
            write_json(path, row["document"])
            written += 1
    return written
