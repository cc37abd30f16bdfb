"""Whether the disks have room for another version, asked before a training and not after it."""

from __future__ import annotations

import shutil
from pathlib import Path

from al_backend.errors import BackendError
from al_backend.registry import Registry, Version

LEAST_FREE = 32_000_000
"""Bytes that a training needs beside the weights, for rankings, logs and what else grows meanwhile."""

_COPIES = 4  # the version itself, and twice its weights with the optimizer's state in a checkpoint


def require_room(registry: Registry, project_id: int, data_dir: Path, parent: Version | None) -> None:
    """Refuse to begin a training whose result could not be stored.

    Args:
        registry: one that is not on a disk of this machine is not asked.
        project_id: the project.
        data_dir: where checkpoints are kept.
        parent: a version that tells how large the next one will be; None reckons with nothing but `LEAST_FREE`.

    Raises:
        BackendError: a disk is too full; says how full, and what to do.
    """
    places = [("AL_DATA_DIR", data_dir)]
    needed = LEAST_FREE
    if "://" not in registry.location:
        places.append(("MODEL_DIR", Path(registry.location) / "projects" / str(project_id)))
        if parent is not None:
            folder = registry.fetch_version(project_id, parent.name)
            needed += _COPIES * sum(item.stat().st_size for item in folder.rglob("*") if item.is_file())
    for name, folder in places:
        free = shutil.disk_usage(_existing(folder)).free
        if free < needed:
            raise BackendError(
                f"{free / 1e6:.0f} MB are free at {folder} ({name}), a training needs about {needed / 1e6:.0f} MB. "
                f"Free some space there, or set {name} to another disk; then it starts by itself."
            )


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder
