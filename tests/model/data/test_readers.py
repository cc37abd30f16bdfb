from __future__ import annotations

import json
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.data.coco import write_coco
from model.data.dataset import DetectionDataset, LabelledImage
from model.data.readers import Format, read_dataset, recognise
from model.data.reef import SPECIES, write_reef
from model.data.voc import write_voc
from model.data.yolo import write_yolo
from model.errors import DatasetUnreadable

Write = Callable[..., Path]
WRITERS: dict[Format, Write] = {Format.YOLO: write_yolo, Format.VOC: write_voc, Format.COCO: write_coco}


@pytest.fixture(name="reef")
def reef_fixture(tmp_path: Path) -> DetectionDataset:
    return write_reef(tmp_path / "reef", 5, seed=4, size=(60, 80))


@pytest.fixture(name="homes")
def homes_fixture(reef: DetectionDataset, tmp_path: Path) -> dict[Format, Path]:
    """One folder per layout, each with four images to train on and one to validate with."""
    for kind, write in WRITERS.items():
        write(DetectionDataset(SPECIES, reef.images[:4]), tmp_path / kind.value)
        write(DetectionDataset(SPECIES, reef.images[4:]), tmp_path / kind.value, split="val")
    return {kind: tmp_path / kind.value for kind in WRITERS}


def assert_same(one: DetectionDataset, other: DetectionDataset) -> None:
    assert one.classes == other.classes
    assert one.problems == other.problems == ()
    assert len(one) == len(other) > 0
    for left, right in zip(one.images, other.images, strict=True):
        np.testing.assert_allclose(left.xyxy, right.xyxy, atol=1e-3)
        np.testing.assert_array_equal(left.label, right.label)
        assert left.path.read_bytes() == right.path.read_bytes()


@pytest.mark.parametrize("kind", list(Format))
def test_every_layout_is_recognised_and_gives_the_same(
    kind: Format, homes: dict[Format, Path], reef: DetectionDataset
) -> None:
    found = recognise(homes[kind])
    assert (found.format, found.splits) == (kind, ("train", "val"))
    classes = SPECIES if kind is Format.VOC else None  # the layout has no order of its own
    train = DetectionDataset(SPECIES, reef.images[:4])
    assert_same(read_dataset(homes[kind], classes=classes), train)
    assert_same(read_dataset(homes[kind], kind.value, split="train", classes=SPECIES), train)
    assert_same(read_dataset(homes[kind], split="valid", classes=classes), DetectionDataset(SPECIES, reef.images[4:]))


@pytest.mark.parametrize("kind", list(Format))
def test_no_pixel_is_decoded_into_memory(kind: Format, tmp_path: Path) -> None:
    decoded = 1500 * 1000 * 3
    path = tmp_path / "large.jpg"
    Image.new("RGB", (1500, 1000)).save(path)
    box, label = np.array([[10, 10, 500, 400]], np.float32), np.array([1])
    WRITERS[kind](DetectionDataset(SPECIES, [LabelledImage("large", path, box, label)]), tmp_path / "set")
    read_dataset(tmp_path / "set", classes=SPECIES)  # what is imported on first use does not count
    tracemalloc.start()
    try:
        data = read_dataset(tmp_path / "set", classes=SPECIES)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert data.num_boxes == 1
    assert peak < decoded / 4


def test_from_layout_to_layout(homes: dict[Format, Path], reef: DetectionDataset, tmp_path: Path) -> None:
    dataset = read_dataset(homes[Format.COCO])
    for number, kind in enumerate((Format.VOC, Format.YOLO, Format.COCO)):
        home = tmp_path / f"step-{number}"
        WRITERS[kind](dataset, home)
        dataset = read_dataset(home, kind, classes=SPECIES)
    assert_same(dataset, DetectionDataset(SPECIES, reef.images[:4]))


def test_files_instead_of_folders(homes: dict[Format, Path]) -> None:
    assert len(read_dataset(homes[Format.YOLO] / "data.yaml", split="val")) == 1
    document = homes[Format.COCO] / "annotations/instances_val.json"
    assert recognise(document).splits == ()
    assert len(read_dataset(document)) == 1
    with pytest.raises(DatasetUnreadable, match=r"has no split 'train'\. Splits that it has: none"):
        read_dataset(document, split="train")


def test_one_folder_per_split(reef: DetectionDataset, tmp_path: Path) -> None:
    for split, images in (("train", reef.images[:4]), ("valid", reef.images[4:])):
        path = write_coco(DetectionDataset(SPECIES, images), tmp_path / "made", split=split)
        home = tmp_path / "export" / split
        shutil.copytree(tmp_path / "made/images" / split, home)
        shutil.move(path, home / "_annotations.coco.json")
    assert recognise(tmp_path / "export").splits == ("train", "valid")
    assert len(read_dataset(tmp_path / "export", split="val")) == 1


def test_a_document_without_split(homes: dict[Format, Path], tmp_path: Path) -> None:
    (homes[Format.COCO] / "annotations/instances_val.json").unlink()
    shutil.move(homes[Format.COCO] / "annotations/instances_train.json", homes[Format.COCO] / "result.json")
    shutil.move(homes[Format.COCO] / "images/train", tmp_path / "moved")
    shutil.rmtree(homes[Format.COCO] / "images")
    shutil.move(tmp_path / "moved", homes[Format.COCO] / "images")
    assert recognise(homes[Format.COCO]).splits == ()
    assert len(read_dataset(homes[Format.COCO])) == 4


def test_voc_without_lists_is_one_set(homes: dict[Format, Path]) -> None:
    shutil.rmtree(homes[Format.VOC] / "ImageSets")
    for split in ("train", "val"):
        for kind in ("Annotations", "JPEGImages"):
            for file in (homes[Format.VOC] / kind / split).iterdir():
                shutil.move(file, homes[Format.VOC] / kind)
    assert len(read_dataset(homes[Format.VOC])) == 5
    with pytest.raises(DatasetUnreadable, match="has no split 'val'"):
        read_dataset(homes[Format.VOC], split="val")


@pytest.mark.parametrize("kind", list(Format))
def test_no_such_split(kind: Format, homes: dict[Format, Path]) -> None:
    with pytest.raises(DatasetUnreadable, match=r"has no split 'test'. Splits that it has: train, val"):
        read_dataset(homes[kind], split="test")


def test_no_train_split_takes_the_only_one_or_asks(reef: DetectionDataset, tmp_path: Path) -> None:
    write_yolo(reef, tmp_path / "out", split="test")
    assert len(read_dataset(tmp_path / "out")) == 5
    write_yolo(reef, tmp_path / "out", split="val")
    with pytest.raises(DatasetUnreadable, match="no split called train; say which one is meant"):
        read_dataset(tmp_path / "out")


def test_several_layouts_at_once(homes: dict[Format, Path]) -> None:
    home = homes[Format.YOLO]
    shutil.copytree(homes[Format.COCO] / "annotations", home / "annotations")
    with pytest.raises(DatasetUnreadable, match=r"several layouts: yolo \(data.yaml\), coco .* with `format`"):
        read_dataset(home)
    assert len(read_dataset(home, "coco")) == len(read_dataset(home, Format.YOLO)) == 4


def test_two_documents_of_one_split(homes: dict[Format, Path]) -> None:
    folder = homes[Format.COCO] / "annotations"
    shutil.copy(folder / "instances_train.json", folder / "instances_train2017.json")
    with pytest.raises(DatasetUnreadable, match="several COCO documents of one split"):
        read_dataset(homes[Format.COCO])


def test_other_classes_than_asked(homes: dict[Format, Path]) -> None:
    with pytest.raises(DatasetUnreadable, match=r"has the classes .*, expected eel"):
        read_dataset(homes[Format.YOLO], classes=["eel"])


class TestNothingKnown:
    def test_an_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetUnreadable, match=r"found an empty folder; expected a data\.yaml \(YOLO\), a folder"):
            read_dataset(tmp_path)

    def test_other_files(self, tmp_path: Path) -> None:
        (tmp_path / ".idea").mkdir()
        (tmp_path / ".idea/modules.xml").write_text("<annotation/>")
        (tmp_path / "pom.xml").write_text("<project/>")
        (tmp_path / "broken.xml").write_text("<")
        (tmp_path / "labelme.json").write_text(json.dumps({"shapes": [], "imagePath": "a.jpg"}))
        (tmp_path / "images").mkdir()
        with pytest.raises(DatasetUnreadable, match=r"found .idea/, broken\.xml, images/, and 2 more; expected"):
            read_dataset(tmp_path)

    def test_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("x")
        with pytest.raises(DatasetUnreadable, match=r"found a file notes\.txt"):
            read_dataset(tmp_path / "notes.txt")

    def test_nothing_at_all(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetUnreadable, match="does not exist"):
            read_dataset(tmp_path / "gone")

    def test_another_layout_than_asked(self, homes: dict[Format, Path]) -> None:
        with pytest.raises(DatasetUnreadable, match=r"is no VOC data set that can be read: found data\.yaml, images/"):
            read_dataset(homes[Format.YOLO], "voc")

    def test_an_unknown_layout(self, homes: dict[Format, Path]) -> None:
        with pytest.raises(ValueError, match="'csv' is not a valid Format"):
            read_dataset(homes[Format.YOLO], "csv")
