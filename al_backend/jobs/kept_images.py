"""The images of a training, kept for as long as it runs: the cache, which all share, may need their room meanwhile."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from model.data.dataset import DetectionDataset, LabelledImage

_SUFFIX = "-images"


class KeptImages:
    """A folder with a second name for each file, which costs no room beside the first, or with copies.

    Args:
        folder: has to exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, task_id: int, path: Path) -> Path:
        """Where the file of a task stays, whatever becomes of `path`.

        Raises:
            FileNotFoundError: it is gone already.
            OSError: it can neither be linked nor copied.
        """
        kept = self._folder / f"{task_id}{path.suffix}"
        kept.unlink(missing_ok=True)
        try:
            os.link(path, kept)
        except FileNotFoundError:
            raise
        except OSError:  # another file system, or one without links
            shutil.copyfile(path, kept)
        return kept


@contextmanager
def keeping_images(data_dir: Path, project_id: int, is_training: Callable[[int], bool]) -> Iterator[KeptImages]:
    """A folder of this training alone, removed at its end; those that killed trainings have left go first.

    Args:
        data_dir: of this machine; on the file system of the cache, so that links can be made.
        project_id: whose training this is.
        is_training: whether a training of another project is in work.
    """
    trainings = data_dir / "trainings"
    for left in trainings.glob(f"*{_SUFFIX}"):
        owner = left.name.removesuffix(_SUFFIX)
        if owner.isdigit() and int(owner) != project_id and not is_training(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    folder = trainings / f"{project_id}{_SUFFIX}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield KeptImages(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def gone(dataset: DetectionDataset) -> list[LabelledImage]:
    """Images whose file was there when the labels were read, and cannot be opened any more."""
    return [image for image in dataset.images if not _opens(image.path)]


def _opens(path: Path) -> bool:
    with contextlib.suppress(OSError), path.open("rb") as file:
        return bool(file.read(1))
    return False
