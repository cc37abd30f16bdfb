"""Weights that nothing needs any more are removed; the records of their versions stay."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from al_backend.registry.active import ActiveShelf
from al_backend.registry.records import utc_now
from al_backend.registry.shelf import MANIFEST
from al_backend.registry.versions import Manifest


@dataclass(frozen=True, slots=True)
class Retained:
    """What a call of `retain` did: names of versions that were marked as leaving, and whose weights were removed."""

    leaving: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


class RetentionShelf(ActiveShelf):
    """Makes room among the versions of a project."""

    def retain(self, project: int, keep: Collection[str], *, grace: timedelta) -> Retained:
        """Remove the weights of versions that are not to be kept, in two steps, and what killed attempts left of it.

        A version is first marked as leaving. Its weights go in a call that comes `grace` later or after that, unless
        it is kept again by then: who has just chosen it, on whatever machine, has that time to say so. The record of a
        version stays for good. Killed at any moment, a call leaves whole versions and whole records.

        Args:
            project: Label Studio's project id.
            keep: names of the versions that something needs.
            grace: between the two steps; long enough for a promotion or for loading a detector.

        Returns:
            What was marked and what was removed by this call.
        """
        leaving: list[str] = []
        removed: list[str] = []
        for version in self.all_versions(project):
            name = version.name
            if version.removed_at is not None:
                self._remove_files(project, name)
            elif name in keep:
                if version.leaving_since is not None:
                    self._hold(project, name)
            elif version.leaving_since is None:
                self._change_version(project, name, {"leaving_since": utc_now()})
                leaving.append(name)
            elif utc_now() - version.leaving_since >= grace:
                gone = {"removed_at": utc_now(), "labels": {}, "labelled": version.images_labelled}
                # Whoever holds the version in this moment takes the mark away, and then it stays.
                if self._change_version(project, name, gone, only_if=version.leaving_since):
                    self._remove_files(project, name)
                    removed.append(name)
        return Retained(tuple(leaving), tuple(removed))

    def _lost_attempts(self, project: int) -> list[str]:
        """Folders of files that were uploaded for a version beside those that count."""
        found: list[str] = []
        for name in self._version_folders(project):
            manifest, folder = self._manifest(project, name), self._version_folder(project, name)
            if manifest is not None and manifest.folder:
                names = self._storage.children(folder)
                found += [f"{folder}/{child}" for child in names if child not in (MANIFEST, manifest.folder)]
        return found

    def _change_version(
        self, project: int, name: str, fields: dict[str, Any], *, only_if: datetime | None = None
    ) -> bool:
        """Change the record of a version that is marked as leaving since `only_if` (None: not marked)."""
        done: list[bool] = []

        def changed(manifest: Manifest | None) -> Manifest | None:
            done[:] = [manifest is not None and manifest.version.leaving_since == only_if]
            if manifest is None or not done[0]:
                return None
            return manifest.model_copy(update={"version": manifest.version.model_copy(update=fields)})

        self._update_record(f"{self._version_folder(project, name)}/{MANIFEST}", Manifest, changed)
        return done[0]

    def _remove_files(self, project: int, name: str) -> None:
        """All but the manifest, which says since before that the others are gone."""
        folder = self._version_folder(project, name)
        for child in self._storage.children(folder):
            if child != MANIFEST:
                self._storage.remove(f"{folder}/{child}")
