"""The registry's storage on other fsspec file systems than a local disk, and on S3, which can do more."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from typing_extensions import override

from al_backend.errors import RegistryError
from al_backend.masking import masked, masked_url
from al_backend.registry.storage import LOCK_SECONDS, LocalStorage, Storage

_CONFLICTS = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
_LONGEST_WAIT = 0.5


class RemoteStorage(Storage):
    """Any other fsspec file system; a single put is atomic on object stores and in memory.

    Two threads of one process move a pointer one after the other; of two processes the last writer wins.
    """

    def __init__(self, fs: fsspec.AbstractFileSystem, root: str, location: str) -> None:
        self.fs = fs
        self.root = root.rstrip("/")
        self.location = masked_url(location)  # it is printed, and some drivers take a password in it
        self._guard = threading.RLock()

    def _full(self, path: str) -> str:
        return f"{self.root}/{path}"

    @override
    def read(self, path: str) -> bytes | None:
        with self.explained("read", path):
            try:
                content: bytes = self.fs.cat_file(self._full(path))
                return content
            except FileNotFoundError:
                return None

    @override
    def write(self, path: str, content: bytes) -> None:
        with self.explained("write", path):
            self._make_parent(path)
            self.fs.pipe_file(self._full(path), content)

    @override
    def upload(self, path: str, source: Path) -> None:
        with self.explained("write", path):
            self._make_parent(path)
            self.fs.put_file(str(source), self._full(path))

    @override
    def download(self, path: str, target: Path) -> None:
        self.fs.get_file(self._full(path), str(target))

    @override
    def size(self, path: str) -> int | None:
        with self.explained("read", path):
            self.fs.invalidate_cache()
            try:
                info = self.fs.info(self._full(path))
            except FileNotFoundError:
                return None
            return int(info["size"]) if info["type"] == "file" else None

    @override
    def children(self, folder: str) -> list[str]:
        with self.explained("list", folder):
            # Drivers keep listings for minutes, and other machines write here too.
            self.fs.invalidate_cache()
            try:
                paths = self.fs.ls(self._full(folder), detail=False)
            except FileNotFoundError:
                return []
            names = {str(path).rstrip("/").rsplit("/", 1)[-1] for path in paths}
            return sorted(name for name in names if not name.startswith("."))

    @override
    def remove(self, path: str) -> None:
        with self.explained("remove", path):
            self.fs.invalidate_cache()
            try:
                self.fs.rm(self._full(path), recursive=True)
            except FileNotFoundError:
                return

    @override
    def modified(self, path: str) -> datetime | None:
        with self.explained("read", path):
            self.fs.invalidate_cache()
            files = self.fs.find(self._full(path))
            moments = [self.fs.modified(file) for file in files]
            return max((_as_utc(moment) for moment in moments), default=None)

    @override
    def temporaries(self, folder: str) -> list[str]:
        return []

    @override
    @contextmanager
    def lock(self, folder: str, name: str) -> Iterator[None]:
        with self._guard:
            yield

    @override
    def update(self, path: str, change: Callable[[bytes | None], bytes | None]) -> None:
        with self._guard:
            content = change(self.read(path))
            if content is not None:
                self.write(path, content)

    def _make_parent(self, path: str) -> None:
        self.fs.makedirs(self._full(path).rsplit("/", 1)[0], exist_ok=True)


class S3Storage(RemoteStorage):
    """A bucket, or a part of one: written on condition, so that two processes do not overwrite each other's move.

    Needs a service that knows `If-Match` and `If-None-Match` on PUT (Amazon S3 since 2024, MinIO, Ceph, R2). One that
    takes the condition and does not heed it is as safe as any other remote file system: the last writer wins.
    """

    @override
    def update(self, path: str, change: Callable[[bytes | None], bytes | None]) -> None:
        deadline = time.monotonic() + LOCK_SECONDS
        wait = 0.01
        while True:
            content, mark = self._read_with_mark(path)
            changed = change(content)
            if changed is None or self._write_on(path, changed, mark):
                return
            if time.monotonic() > deadline:
                raise RegistryError(
                    f"{path} in the registry at {self.location} was changed by others again and again for "
                    f"{LOCK_SECONDS:.0f} s; try again."
                )
            time.sleep(random.uniform(0, wait))
            wait = min(_LONGEST_WAIT, 2 * wait)

    def _read_with_mark(self, path: str) -> tuple[bytes | None, str | None]:
        """The bytes of a file and the mark of exactly these bytes."""
        from s3fs.utils import FileExpired  # only who stores on S3 has it

        self.fs.invalidate_cache()
        while True:
            with self.explained("read", path), contextlib.suppress(FileExpired):
                try:
                    # Of an open file the driver reads only bytes of the mark that it had when it was opened.
                    with self.fs.open(self._full(path), "rb") as file:
                        return bytes(file.read()), str(file.details["ETag"])
                except FileNotFoundError:
                    return None, None

    def _write_on(self, path: str, content: bytes, mark: str | None) -> bool:
        """Write if the file still has this mark (None: does not exist); returns whether it was written."""
        condition = {"IfNoneMatch": "*"} if mark is None else {"IfMatch": mark}
        with self.explained("write", path):
            try:
                self.fs.pipe_file(self._full(path), content, **condition)
            except (OSError, FileExistsError) as error:
                # Gone since it was read, or of another mark.
                if not isinstance(error, (FileExistsError, FileNotFoundError)) and _code(error) not in _CONFLICTS:
                    raise
                if isinstance(error, FileNotFoundError) and mark is None:
                    raise  # the bucket itself is missing
                # The driver repeats a request whose answer was lost, and is then refused because of its own success.
                return self.read(path) == content
        return True

    @override
    def _make_parent(self, path: str) -> None:
        """There are no folders, and a missing bucket is a mistake that creating one would hide."""


def open_storage(location: str) -> Storage:
    """The storage behind a local path or an fsspec URL.

    Raises:
        RegistryError: the driver of the URL is not installed, or the location cannot be used.
    """
    try:
        fs, root = fsspec.url_to_fs(location)
    except ImportError as error:
        raise RegistryError(
            f"MODEL_DIR is {masked_url(location)!r}, whose driver is not installed ({error}); "
            "for S3: pip install 'al-backend[s3]'."
        ) from error
    except Exception as error:  # a wrong address, or one that the driver tried and gave up
        raise RegistryError(
            f"MODEL_DIR is {masked_url(location)!r}, which cannot be opened: {masked(str(error))}"
        ) from error
    if isinstance(fs, LocalFileSystem):
        return LocalStorage(Path(root))
    remote = S3Storage if "s3" in (fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,)) else RemoteStorage
    return remote(fs, root, location)


def _code(error: BaseException) -> str:
    """S3's own word for what is behind an error; empty without one."""
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def _as_utc(moment: Any) -> datetime:
    """Drivers give aware and naive times; the naive ones are in UTC."""
    if not isinstance(moment, datetime):
        return datetime.fromtimestamp(float(moment), timezone.utc)
    return moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment.astimezone(timezone.utc)
