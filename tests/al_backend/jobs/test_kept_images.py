"""Images of a training outlive the cache, and go with the training."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from al_backend.jobs.kept_images import KeptImages, gone, keeping_images
from al_backend.labelstudio.image_cache import ImageCache
from model.data.dataset import DetectionDataset, LabelledImage


def in_cache(folder: Path, address: str = "http://site/a.jpg", content: bytes = b"an image") -> Path:
    with ImageCache(folder, 1e9).writing(address) as (file, path):
        file.write(content)
    return path


def nobody(project_id: int) -> bool:
    return False


def test_a_kept_image_outlives_the_cache_and_ends_with_the_training(tmp_path: Path) -> None:
    path = in_cache(tmp_path / "images")
    with keeping_images(tmp_path, 7, nobody) as kept:
        file = kept.keep(5, path)
        assert file.samefile(path), "a copy would cost room"
        path.unlink()
        in_cache(tmp_path / "images", content=b"another")
        assert (file.read_bytes(), file.name) == (b"an image", "5.jpg")
    assert list((tmp_path / "trainings").iterdir()) == []


def test_where_no_links_can_be_made_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    path = in_cache(tmp_path / "images")
    file = KeptImages(tmp_path).keep(5, path)
    assert not file.samefile(path)
    assert file.read_bytes() == b"an image"


def test_an_image_that_is_gone_already_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        KeptImages(tmp_path).keep(5, tmp_path / "none.jpg")


def test_what_killed_trainings_have_left_goes_but_not_what_is_in_use(tmp_path: Path) -> None:
    folders = {project: tmp_path / "trainings" / f"{project}-images" for project in (6, 7, 8)}
    for folder in [*folders.values(), tmp_path / "trainings" / "6"]:
        folder.mkdir(parents=True)
        (folder / "left").write_bytes(b"x")
    with keeping_images(tmp_path, 7, lambda project: project == 8):
        assert list(folders[7].iterdir()) == []
        assert not folders[6].exists()
        assert (folders[8] / "left").exists()
    assert (tmp_path / "trainings" / "6" / "left").exists(), "the state of a training that may go on"


def test_files_that_cannot_be_opened_any_more_are_gone(tmp_path: Path) -> None:
    paths = [in_cache(tmp_path, f"http://site/{number}.jpg") for number in range(3)]
    empty = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    dataset = DetectionDataset(("cod",), [LabelledImage(str(n), path, *empty) for n, path in enumerate(paths)], ())
    assert gone(dataset) == []
    paths[1].unlink()
    paths[2].write_bytes(b"")
    assert [image.key for image in gone(dataset)] == ["1", "2"]
