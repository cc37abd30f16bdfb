"""Trained detectors with their files."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, field_validator

from al_backend.errors import RegistryError, VersionNotFound
from al_backend.registry.copies import Copies
from al_backend.registry.records import Version
from al_backend.registry.shelf import MANIFEST, PLAIN_NAME, Shelf, plain_name, project_folder
from al_backend.registry.storage import LocalStorage, Storage

_ATTEMPT = "files-"


class _File(BaseModel):
    size: int
    sha256: str


class Manifest(BaseModel):
    """The last file that is written of a version: where it exists, all the others are whole.

    `folder` is where they lie, below the version's own folder: where no lock keeps a second writer out, each attempt
    has a folder of its own, and the manifest of the first to end says which one counts.
    """

    version: Version
    files: dict[str, _File]
    folder: str = ""

    @field_validator("files")
    @classmethod
    def _inside(cls, files: dict[str, _File]) -> dict[str, _File]:
        """Who may write a bucket must not be able to write elsewhere on the machines that read it."""
        for name in files:
            path = PurePosixPath(name)
            if not name or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
                raise ValueError(f"{name!r} is no path inside the version's folder")
        return files


class VersionShelf(Shelf):
    """`projects/<id>/versions/<name>/`."""

    def __init__(self, storage: Storage, copies: Copies) -> None:
        super().__init__(storage)
        self._copies = copies

    def versions(self, project: int) -> list[Version]:
        """The whole versions of a project that were trained, by number."""
        return [version for version in self.all_versions(project) if version.is_trained]

    def all_versions(self, project: int) -> list[Version]:
        """The same with the one of the cold start, whose weights nothing was trained for, if there is one."""
        manifests = (self._manifest(project, name) for name in self._version_folders(project))
        found = [manifest.version for manifest in manifests if manifest is not None]
        return sorted(found, key=lambda version: (version.number, version.name))

    def version_stamps(self, project: int) -> dict[str, int]:
        """A number for each whole version, by name: as long as it stays the same, so does the version.

        Versions are not read for it: it is the size of what is kept of them beside their files, which changes when a
        version begins to leave and when its weights are removed, the only changes that there are.
        """
        sizes = {
            name: self._storage.size(f"{self._version_folder(project, name)}/{MANIFEST}")
            for name in self._version_folders(project)
        }
        return {name: size for name, size in sizes.items() if size is not None}

    def version_size(self, project: int, name: str) -> int:
        """Bytes of all files of a version.

        Raises:
            VersionNotFound: there is none of that name.
        """
        return sum(file.size for file in self._existing(project, name).files.values())

    def version(self, project: int, name: str) -> Version:
        """One version.

        Raises:
            VersionNotFound: there is none of that name; the message lists those that exist.
        """
        return self._existing(project, name).version

    def next_version_name(self, project: int, detector: str, digest: str) -> tuple[str, int]:
        """Name and number for the next trained version; the same until a version is added.

        Args:
            project: Label Studio's project id.
            detector: architecture name.
            digest: of everything that the training depends on, at least six characters.
        """
        numbers = [
            int(match.group(1))
            for name in self._version_folders(project)
            if (match := re.search(r"-v(\d+)-[^-]*$", name)) and self._is_whole(project, name)
        ]
        number = max(numbers, default=0) + 1
        return _name(detector, number, digest), number

    def cold_start_name(self, detector: str, digest: str) -> str:
        """Name of a version that nothing was trained for; its number is 0.

        Args:
            detector: architecture name.
            digest: of everything that it depends on, at least six characters.
        """
        return _name(detector, 0, digest)

    def add_version(self, version: Version, folder: Path) -> None:
        """Store a version with the files of a local folder; nothing happens when it exists already.

        The manifest is written last, so a version is there as a whole or not at all. What a killed attempt left
        behind is overwritten.

        Raises:
            RegistryError: the folder holds no file, or the registry cannot be written.
        """
        target = self._version_folder(version.project, version.name)
        sources = {item.relative_to(folder).as_posix(): item for item in sorted(folder.rglob("*")) if item.is_file()}
        if not sources:
            raise RegistryError(f"Version {version.name} has no files: {folder} is empty or missing.")
        if MANIFEST in sources:
            raise RegistryError(f"{folder / MANIFEST} is a name that the registry needs for itself; rename that file.")
        with self._storage.lock(project_folder(version.project), "versions"):
            if self._is_whole(version.project, version.name):
                return
            folder_name = "" if self._storage.locks_everybody else f"{_ATTEMPT}{uuid.uuid4().hex[:12]}"
            if self._storage.locks_everybody:
                self._storage.remove(target)
            for name, source in sources.items():
                self._storage.upload("/".join(filter(None, (target, folder_name, name))), source)
            files = {name: _fingerprint(source) for name, source in sources.items()}
            manifest = Manifest(version=version, files=files, folder=folder_name)
            self._update_record(f"{target}/{MANIFEST}", Manifest, lambda found: manifest if found is None else None)

    def fetch_version(self, project: int, name: str) -> Path:
        """A local folder that holds the files of a version; read only, do not write there.

        Raises:
            VersionNotFound: there is none of that name, or its weights were removed.
            RegistryError: a file is missing or has changed since it was stored.
        """
        manifest = self._existing(project, name)
        require_weights(manifest.version)
        source = "/".join(filter(None, (self._version_folder(project, name), manifest.folder)))
        if isinstance(self._storage, LocalStorage):
            for file, stored in manifest.files.items():
                found = self._storage.size(f"{source}/{file}")
                if found != stored.size:
                    raise self._changed(f"{source}/{file}", f"{found} bytes, expected {stored.size}")
            return self._storage.root / source
        # The name alone does not tell two registries apart whose content was replaced at the same address.
        content = json.dumps({file: stored.sha256 for file, stored in sorted(manifest.files.items())})
        identity = hashlib.sha256(f"{source} {content}".encode()).hexdigest()[:12]
        target = self._copies.folder / self._version_folder(project, name) / identity
        if target.is_dir():
            self._copies.used(target)
        else:
            self._download(source, manifest.files, target)
            self._copies.shrink(keep=target)
        return target

    def _existing(self, project: int, name: str) -> Manifest:
        manifest = self._manifest(project, name)
        if manifest is None:
            raise self._no_version(project, name)
        return manifest

    def _no_version(self, project: int, name: str) -> VersionNotFound:
        return VersionNotFound(f"Project {project} has no version {name!r}. {self._those_that_exist(project)}")

    def _those_that_exist(self, project: int) -> str:
        names = [version.name for version in self.versions(project) if version.removed_at is None]
        return f"It has: {', '.join(names)}." if names else "It has none yet."

    def _manifest(self, project: int, name: str) -> Manifest | None:
        return self._read_record(f"{self._version_folder(project, name)}/{MANIFEST}", Manifest)

    def _is_whole(self, project: int, name: str) -> bool:
        return self._storage.size(f"{self._version_folder(project, name)}/{MANIFEST}") is not None

    def _version_folders(self, project: int) -> list[str]:
        names = self._storage.children(f"{project_folder(project)}/versions")
        return [name for name in names if PLAIN_NAME.fullmatch(name)]

    @staticmethod
    def _version_folder(project: int, name: str) -> str:
        return f"{project_folder(project)}/versions/{plain_name(name, 'version')}"

    def _download(self, source: str, files: Mapping[str, _File], target: Path) -> None:
        """Fill `target` as a whole: two processes may do so at once, and either may be killed."""
        with self._storage.explained("download", source):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=".tmp-", dir=target.parent))
            try:
                for name, stored in files.items():
                    copy = temporary / name
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    self._storage.download(f"{source}/{name}", copy)
                    found = _fingerprint(copy)
                    if found != stored:
                        raise self._changed(f"{source}/{name}", f"{found.size} bytes, expected {stored.size}")
                try:
                    temporary.rename(target)
                except OSError:
                    # Somebody else was first, with the same verified bytes; anything else is an error.
                    if not target.is_dir():
                        raise
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

    def _changed(self, path: str, what: str) -> RegistryError:
        return self._damaged(path, f"other content than was stored: {what}")


def _name(detector: str, number: int, digest: str) -> str:
    stem = re.sub(r"[^A-Za-z0-9._+-]+", "-", Path(detector).name).lstrip("._+-") or "detector"
    return plain_name(f"{stem}-v{number}-{digest[:6]}", "version")


def require_weights(version: Version) -> None:
    """Refuse a version of which only the record is left.

    Raises:
        VersionNotFound: it is one.
    """
    if version.removed_at is not None:
        raise VersionNotFound(
            f"The weights of {version.name} were removed on {version.removed_at:%Y-%m-%d} to save room "
            "(AL_KEEP_VERSIONS); only its record is left."
        )


def _fingerprint(path: Path) -> _File:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        # Not hashlib.file_digest: Python 3.10 does not have it.
        while block := file.read(1 << 20):
            digest.update(block)
    return _File(size=path.stat().st_size, sha256=digest.hexdigest())
