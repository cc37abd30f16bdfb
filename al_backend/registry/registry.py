"""The door to the registry: projects, documents and upkeep here, versions and rankings from their own modules."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from al_backend.errors import RegistryError
from al_backend.registry.copies import Copies
from al_backend.registry.rankings import RankingShelf
from al_backend.registry.records import ProjectRecord, utc_now
from al_backend.registry.remote import open_storage
from al_backend.registry.retention import RetentionShelf
from al_backend.registry.shelf import MANIFEST, plain_name, project_folder
from al_backend.registry.storage import LocalStorage

FORMAT = 1
_RESERVED = ("project", "active")


class Registry(RetentionShelf, RankingShelf):
    """Everything that has to outlive Redis, on one fsspec location.

    Any process may be killed at any moment: single files are replaced as a whole, and what consists of several files
    counts only once its manifest, written last, exists. On a local disk and on S3 two processes may move the same
    pointer and no move is lost; on other remote file systems the last writer wins.

    Args:
        location: a local path, created if missing, or an fsspec URL such as `s3://bucket/models`.
        cache_folder: where versions of a remote registry are kept; `~/.cache/al-backend/<location>` by default.
        cache_mb: size of that cache; the least recently used versions go first.

    Raises:
        RegistryError: the location cannot be written, or holds a newer format than this release knows.
    """

    def __init__(self, location: str, *, cache_folder: Path | None = None, cache_mb: float = 2048.0) -> None:
        storage = open_storage(location)
        digest = hashlib.sha256(storage.location.encode()).hexdigest()[:12]
        folder = (cache_folder or Path.home() / ".cache" / "al-backend") / digest
        super().__init__(storage, Copies(folder, cache_mb * 1_000_000))
        self._check_format()

    def __repr__(self) -> str:
        return f"Registry({self.location!r})"

    @property
    def base_folder(self) -> Path | None:
        """Local folder for base checkpoints; of a remote registry a copy of `base/`, None when it has none.

        Raises:
            RegistryError: a remote checkpoint cannot be downloaded.
        """
        if isinstance(self._storage, LocalStorage):
            folder = self._storage.root / "base"
            folder.mkdir(exist_ok=True)
            return folder
        names = self._storage.children("base")
        sizes = {name: size for name in names if (size := self._storage.size(f"base/{name}")) is not None}
        if not sizes:
            return None
        copies = LocalStorage(self._copies.folder / "base")
        for name, size in sizes.items():
            if copies.size(name) == size:
                continue
            with self._storage.explained("download", f"base/{name}"):
                temporary = copies.root / f".download-{name}"
                self._storage.download(f"base/{name}", temporary)
                copies.upload(name, temporary)
                temporary.unlink()
        return copies.root

    def share_base(self, path: Path) -> None:
        """Store a base checkpoint for all machines; one in `base_folder` of a local registry is there already."""
        if not isinstance(self._storage, LocalStorage):
            self._storage.upload(f"base/{path.name}", path)

    def register_project(self, project: int, *, label_config: str, overrides: Mapping[str, Any]) -> ProjectRecord:
        """Remember a project; written only when something changed."""
        result: list[ProjectRecord] = []

        def changed(known: ProjectRecord | None) -> ProjectRecord | None:
            same = known and known.label_config == label_config and known.overrides == dict(overrides)
            record = ProjectRecord(
                id=project,
                label_config=label_config,
                overrides=dict(overrides),
                registered_at=known.registered_at if known else utc_now(),
            )
            result[:] = [known if known and same else record]
            return None if same else record

        self._update_record(f"{project_folder(project)}/project.json", ProjectRecord, changed)
        return result[0]

    def project(self, project: int) -> ProjectRecord | None:
        """What is remembered of a project; None when it is not registered."""
        return self._read_record(f"{project_folder(project)}/project.json", ProjectRecord)

    def projects(self) -> list[int]:
        """Ids of the registered projects, ascending."""
        ids = [int(name) for name in self._storage.children("projects") if name.isdigit()]
        return sorted(i for i in ids if self._storage.size(f"{project_folder(i)}/project.json") is not None)

    def forget_project(self, project: int) -> None:
        """Stop serving a project. Its versions, rankings and documents stay."""
        self._storage.remove(f"{project_folder(project)}/project.json")

    def delete_project(self, project: int) -> None:
        """Remove a project with its versions, rankings and documents, for good; nobody may be working on it."""
        self.forget_project(project)  # first, so that nobody begins while the rest goes
        self._storage.remove(project_folder(project))

    def read_document(self, project: int, name: str) -> dict[str, Any] | None:
        """A small JSON document of a project; None when there is none of that name."""
        path = self._document(project, name)
        value = self._read_json(path)
        if value is not None and not isinstance(value, dict):
            raise self._damaged(path, f"expected an object, found {type(value).__name__}")
        return value

    def write_document(self, project: int, name: str, value: Mapping[str, Any]) -> None:
        """Replace a document as a whole; numbers that JSON cannot carry (NaN, infinity) become null."""
        self._write_json(self._document(project, name), dict(value))

    def delete_document(self, project: int, name: str) -> None:
        """Remove a document; nothing happens when there is none."""
        self._storage.remove(self._document(project, name))

    def cleanup(self, project: int, *, older_than: timedelta = timedelta(hours=1)) -> list[str]:
        """Remove what killed processes left half-written.

        Args:
            project: Label Studio's project id.
            older_than: younger leftovers stay, because somebody may be writing them.

        Returns:
            The paths that were removed, relative to the registry.
        """
        root = project_folder(project)
        suspects = self._storage.temporaries(root)
        for kind in ("versions", "rankings"):
            folders = [f"{root}/{kind}/{name}" for name in self._storage.children(f"{root}/{kind}")]
            suspects += [folder for folder in folders if self._storage.size(f"{folder}/{MANIFEST}") is None]
        suspects += self._lost_attempts(project)
        limit = utc_now() - older_than
        removed = []
        with self._storage.lock(root, "versions"):
            for path in suspects:
                changed = self._storage.modified(path)
                # What lies beside a manifest may have got one meanwhile.
                finished = self._storage.size(f"{path}/{MANIFEST}") is not None
                if changed is not None and changed <= limit and not finished:
                    self._storage.remove(path)
                    removed.append(path)
        return removed

    @staticmethod
    def _document(project: int, name: str) -> str:
        if name in _RESERVED:
            raise RegistryError(f"A document cannot be called {name!r}: {name}.json has a meaning of its own.")
        return f"{project_folder(project)}/{plain_name(name, 'document')}.json"

    def _check_format(self) -> None:
        found = self._read_json("FORMAT")
        if found is None:
            self._write_json("FORMAT", {"format": FORMAT})
            return
        number = found.get("format") if isinstance(found, dict) else None
        if not isinstance(number, int):
            raise self._damaged("FORMAT", f'expected {{"format": {FORMAT}}}, found {found!r}')
        if number > FORMAT:
            raise RegistryError(
                f"The registry at {self.location} has format {number}, this release knows up to {FORMAT}. "
                "Install the newer release that wrote it, or set MODEL_DIR to another place."
            )
