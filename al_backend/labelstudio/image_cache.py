"""Downloaded images on disk, up to a size, shared by all processes of one machine."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
_PART = ".part"
# A file that somebody has just been given must outlive its reading, whatever the limit says.
_IN_USE_SECONDS = 300.0
_LEFTOVER_SECONDS = 3600.0
_RECOUNT_SECONDS = 300.0
_KEEP_SHARE = 0.9


class ImageCache:
    """Files named by the SHA-256 of their address; the least recently used go first.

    Other processes may use the same folder at the same time: files appear whole or not at all, and a file that
    vanishes is fetched again.

    Args:
        folder: created when the first file is kept.
        limit_bytes: the size that the folder is brought back to. Files used within the last five minutes stay even
            beyond it, so it is exceeded by what is being worked on.
    """

    def __init__(self, folder: Path, limit_bytes: float) -> None:
        self._folder = folder
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._size = 0
        self._counted_at: float | None = None

    def find(self, address: str) -> Path | None:
        """The kept file of `address`, marked as just used; None when there is none."""
        path = self._path(address)
        try:
            os.utime(path)
        except FileNotFoundError:
            return None
        return path

    @contextmanager
    def writing(self, address: str) -> Iterator[tuple[BinaryIO, Path]]:
        """A file to write to, and the path under which it is kept once the block ends without an error."""
        path = self._path(address)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=_PART)
        part = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file, path
            size = part.stat().st_size
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        self._written(size)

    def _path(self, address: str) -> Path:
        name = hashlib.sha256(address.encode()).hexdigest()
        return self._folder / name[:2] / f"{name}{_suffix(address)}"

    def _written(self, size: int) -> None:
        with self._lock:
            self._size += size
            now = time.monotonic()
            # Other processes write too, hence the recount.
            if self._counted_at is None or self._size > self._limit or now - self._counted_at > _RECOUNT_SECONDS:
                self._size = self._shrink()
                self._counted_at = now

    def _shrink(self) -> int:
        """Delete what is too much, oldest use first; returns the bytes that stay."""
        now = time.time()
        kept: list[tuple[float, int, Path]] = []
        for path in self._folder.glob("*/*"):
            try:
                status = path.stat()
                if path.suffix == _PART:
                    if now - status.st_mtime > _LEFTOVER_SECONDS:
                        path.unlink()
                else:
                    kept.append((status.st_mtime, status.st_size, path))
            except FileNotFoundError:
                continue  # another process deleted it first
        size = sum(entry[1] for entry in kept)
        if size <= self._limit:
            return size
        for used_at, bytes_, path in sorted(kept):
            if size <= self._limit * _KEEP_SHARE or now - used_at < _IN_USE_SECONDS:
                break
            path.unlink(missing_ok=True)
            size -= bytes_
        return size


def _suffix(address: str) -> str:
    """The image suffix of an address, for tools that look at names; the name may be in its query."""
    for text in (address.partition("?")[0], address):
        suffix = f".{text[-8:].rpartition('.')[2].lower()}"
        if suffix in _SUFFIXES:
            return suffix
    return ""
