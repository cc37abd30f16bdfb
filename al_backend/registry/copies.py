"""Local copies of the versions of a remote registry, up to a size."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

_IN_USE_SECONDS = 600.0
_LEFTOVER_SECONDS = 3600.0


class Copies:
    """Folders `projects/<id>/versions/<name>/<identity>`, shared by all processes of one machine.

    Args:
        folder: created with the first copy.
        limit_bytes: the size that the least recently used copies make room for. A copy that somebody was given in the
            last ten minutes stays even beyond it, because it may just be loaded.
    """

    def __init__(self, folder: Path, limit_bytes: float) -> None:
        self.folder = folder
        self._limit = limit_bytes

    def used(self, copy: Path) -> None:
        """Note that somebody was given this copy."""
        os.utime(copy)

    def shrink(self, *, keep: Path) -> None:
        """Remove the least recently used copies, except `keep`, until the rest fits the limit."""
        now = time.time()
        copies: list[tuple[float, int, Path]] = []
        for path in self.folder.glob("projects/*/versions/*/*"):
            try:
                used_at = path.stat().st_mtime
                size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            except FileNotFoundError:
                continue  # another process removed it first
            if path.name.startswith("."):
                if now - used_at > _LEFTOVER_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)
            else:
                copies.append((used_at, size, path))
        total = sum(size for _, size, _ in copies)
        for used_at, size, path in sorted(copies):
            if total <= self._limit or now - used_at < _IN_USE_SECONDS:
                return
            if path != keep:
                # Renamed first: half a copy must never be found under its name.
                gone = path.with_name(f".gone-{path.name}-{os.getpid()}")
                try:
                    path.rename(gone)
                except FileNotFoundError:
                    continue
                shutil.rmtree(gone, ignore_errors=True)
                total -= size
