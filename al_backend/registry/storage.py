"""The few file operations that the registry needs, each atomic: on a local disk, and on any fsspec file system.

Paths are relative to the registry's location, with forward slashes. Names that begin with a dot are the storage's own.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from filelock import FileLock, Timeout
from typing_extensions import override

from al_backend.errors import RegistryError
from al_backend.masking import masked

LOCK_SECONDS = 60.0
TEMPORARY = ".tmp-"


class Storage(ABC):
    """Whole files under one location."""

    location: str

    locks_everybody = False
    """Whether `lock` keeps every other process out, and not only the threads of this one."""

    @abstractmethod
    def read(self, path: str) -> bytes | None:
        """The bytes of a file; None when it does not exist."""

    @abstractmethod
    def write(self, path: str, content: bytes) -> None:
        """Replace a file as a whole: a reader sees the old bytes or the new ones, never a part."""

    @abstractmethod
    def upload(self, path: str, source: Path) -> None:
        """Like `write`, with the bytes of a local file."""

    @abstractmethod
    def download(self, path: str, target: Path) -> None:
        """Copy a file to a local path, not atomic; FileNotFoundError when it does not exist."""

    @abstractmethod
    def size(self, path: str) -> int | None:
        """Bytes of a file; None when there is no such file."""

    @abstractmethod
    def children(self, folder: str) -> list[str]:
        """Names in a folder, sorted, hidden ones left out; empty when the folder does not exist."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove a file or a folder with all that is in it; nothing happens when it does not exist."""

    @abstractmethod
    def modified(self, path: str) -> datetime | None:
        """When a file, or anything below a folder, last changed (UTC); None when it does not exist."""

    @abstractmethod
    def temporaries(self, folder: str) -> list[str]:
        """Paths of half-written files anywhere below a folder."""

    @abstractmethod
    @contextmanager
    def lock(self, folder: str, name: str) -> Iterator[None]:
        """Hold the only right to change what `name` stands for: among all processes locally, else in this one."""
        yield

    @abstractmethod
    def update(self, path: str, change: Callable[[bytes | None], bytes | None]) -> None:
        """Read a file, change it and write it, as one step among all that use this method.

        Args:
            path: of the file.
            change: gets the bytes, None where there is no file, and gives the new ones, None to leave it. It may be
                called several times, when others write in between; what it raises ends the attempt.
        """

    @contextmanager
    def explained(self, action: str, path: str) -> Iterator[None]:
        """Turn whatever a file system raises into one sentence."""
        try:
            yield
        except RegistryError:
            raise
        except Exception as error:  # each fsspec driver raises errors of its own, not only OSError
            reason = masked(getattr(error, "strerror", None) or str(error) or type(error).__name__)
            raise RegistryError(
                f"Cannot {action} {path or 'anything'} in the registry at {self.location}: {reason}. "
                "Check that MODEL_DIR names a place that this process may read and write, and that it is not full."
            ) from error


class LocalStorage(Storage):
    """A folder on a local or network disk."""

    locks_everybody = True

    def __init__(self, root: Path) -> None:
        self.root = root
        self.location = str(root)
        with self.explained("write", ""):
            root.mkdir(parents=True, exist_ok=True)
            # A trial, because permission bits say nothing about read-only mounts and full disks.
            with tempfile.TemporaryFile(dir=root) as probe:
                probe.write(b"probe")

    @override
    def read(self, path: str) -> bytes | None:
        with self.explained("read", path):
            try:
                return (self.root / path).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    @override
    def write(self, path: str, content: bytes) -> None:
        with self.explained("write", path), self._replacing(path) as temporary:
            temporary.write_bytes(content)

    @override
    def upload(self, path: str, source: Path) -> None:
        with self.explained("write", path), self._replacing(path) as temporary:
            shutil.copyfile(source, temporary)

    @override
    def download(self, path: str, target: Path) -> None:
        shutil.copyfile(self.root / path, target)

    @override
    def size(self, path: str) -> int | None:
        with self.explained("read", path):
            target = self.root / path
            return target.stat().st_size if target.is_file() else None

    @override
    def children(self, folder: str) -> list[str]:
        with self.explained("list", folder):
            try:
                return sorted(name for name in os.listdir(self.root / folder) if not name.startswith("."))
            except (FileNotFoundError, NotADirectoryError):
                return []

    @override
    def remove(self, path: str) -> None:
        with self.explained("remove", path):
            target = self.root / path
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)

    @override
    def modified(self, path: str) -> datetime | None:
        with self.explained("read", path):
            target = self.root / path
            if not target.exists():
                return None
            newest = max(item.stat().st_mtime for item in [target, *target.rglob("*")])
            return datetime.fromtimestamp(newest, timezone.utc)

    @override
    def temporaries(self, folder: str) -> list[str]:
        with self.explained("list", folder):
            found = (self.root / folder).rglob(f"{TEMPORARY}*")
            return sorted(item.relative_to(self.root).as_posix() for item in found)

    @override
    @contextmanager
    def lock(self, folder: str, name: str) -> Iterator[None]:
        with self.explained("lock", folder):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.root / folder / f".{name}.lock", timeout=LOCK_SECONDS)
            try:
                lock.acquire()
            except Timeout as error:
                raise RegistryError(
                    f"Another process has held {lock.lock_file} for {LOCK_SECONDS:.0f} s; stop it and try again."
                ) from error
        try:
            yield
        finally:
            lock.release()

    @override
    def update(self, path: str, change: Callable[[bytes | None], bytes | None]) -> None:
        folder, _, name = path.rpartition("/")
        with self.lock(folder, name.partition(".")[0]):
            content = change(self.read(path))
            if content is not None:
                self.write(path, content)

    @contextmanager
    def _replacing(self, path: str) -> Iterator[Path]:
        """A temporary file that takes the place of `path` once its bytes have reached the disk."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=TEMPORARY, dir=target.parent)
        temporary = Path(name)
        try:
            os.fchmod(handle, 0o644)
            yield temporary
            os.fsync(handle)
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)
        # Without this the name itself can be lost in a power cut, and with it the order "manifest last".
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
