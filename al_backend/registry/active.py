"""The pointer to the version that is in use, and how it moves."""

from __future__ import annotations

from collections.abc import Callable

from al_backend.errors import VersionNotFound
from al_backend.registry.records import ActivePointer, Version, utc_now
from al_backend.registry.shelf import MANIFEST, project_folder
from al_backend.registry.versions import Manifest, VersionShelf, require_weights

_HISTORY = 50


class ActiveShelf(VersionShelf):
    """`projects/<id>/active.json`, beside the versions."""

    def active(self, project: int) -> ActivePointer | None:
        """The active version; None before the first promotion."""
        return self._read_record(self._pointer(project), ActivePointer)

    def active_version(self, project: int) -> Version | None:
        """The record that the pointer points to; None before the first promotion.

        Raises:
            VersionNotFound: the pointer points to none that exists.
        """
        pointer = self.active(project)
        return None if pointer is None else self.version(project, pointer.version)

    def promote(self, project: int, name: str, *, reason: str) -> ActivePointer:
        """Make a version the active one; nothing happens when it is already.

        Raises:
            VersionNotFound: there is none of that name, its weights were removed, or it is that of the cold start and
                there are trained ones; the message lists those that can be promoted.
        """
        if not self._existing(project, name).version.is_trained and self.versions(project):
            raise VersionNotFound(
                f"{name} is for the time before the first training. {self._those_that_exist(project)}"
            )
        self._hold(project, name)

        def moved(current: ActivePointer | None) -> ActivePointer:
            if current is None:
                return _pointer(name, (), reason)
            if current.version == name:
                return current
            manifest = self._manifest(project, current.version)
            if manifest is not None and not manifest.version.is_trained:
                # Nobody wants to go back to before the first training.
                return _pointer(name, current.history, reason, current, leaves=True)
            return _pointer(name, (*current.history, current.version), reason, current)

        return self._move(project, moved)

    def rollback(self, project: int) -> ActivePointer:
        """Make the version active that was active before; a second rollback goes one further back.

        Raises:
            VersionNotFound: no earlier version was active, or its files are gone.
        """

        def moved(current: ActivePointer | None) -> ActivePointer:
            if current is None:
                raise VersionNotFound(f"Project {project} has no active version, so there is nothing to roll back.")
            history = list(current.history)
            while history:
                name = history.pop()
                if self._is_usable(project, name):
                    self._hold(project, name)
                    reason = f"rolled back from {current.version}"
                    return _pointer(name, tuple(history), reason, current, leaves=True)
            raise VersionNotFound(
                f"Project {project} has no version to go back to: {current.version} is the first that was active, or "
                f"those before it were removed. {self._those_that_exist(project)}"
            )

        return self._move(project, moved)

    def _hold(self, project: int, name: str) -> None:
        """Take the mark of leaving away.

        Raises:
            VersionNotFound: the weights are gone already.
        """

        def changed(manifest: Manifest | None) -> Manifest | None:
            if manifest is None:
                raise self._no_version(project, name)
            try:
                require_weights(manifest.version)
            except VersionNotFound as error:
                raise VersionNotFound(f"{error} {self._those_that_exist(project)}") from error
            if manifest.version.leaving_since is None:
                return None
            return manifest.model_copy(update={"version": manifest.version.model_copy(update={"leaving_since": None})})

        self._update_record(f"{self._version_folder(project, name)}/{MANIFEST}", Manifest, changed)

    def _move(self, project: int, moved: Callable[[ActivePointer | None], ActivePointer]) -> ActivePointer:
        result: list[ActivePointer] = []

        def changed(current: ActivePointer | None) -> ActivePointer | None:
            pointer = moved(current)
            result[:] = [pointer]
            return None if pointer is current else pointer

        self._update_record(self._pointer(project), ActivePointer, changed)
        return result[0]

    def _is_usable(self, project: int, name: str) -> bool:
        manifest = self._manifest(project, name)
        return manifest is not None and manifest.version.removed_at is None

    @staticmethod
    def _pointer(project: int) -> str:
        return f"{project_folder(project)}/active.json"


def _pointer(
    name: str, history: tuple[str, ...], reason: str, current: ActivePointer | None = None, *, leaves: bool = False
) -> ActivePointer:
    """The pointer after `current`; `leaves` when no rollback may go to that one's version."""
    kept = history[-_HISTORY:]
    previous = kept[-1] if kept else None
    left = () if current is None else (*current.left, *((current.version,) if leaves else ()))
    left = tuple(dict.fromkeys(each for each in left if each != name))[-_HISTORY:]
    return ActivePointer(version=name, previous=previous, history=kept, left=left, changed_at=utc_now(), reason=reason)
