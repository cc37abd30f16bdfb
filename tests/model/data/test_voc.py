from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.data.dataset import DetectionDataset, LabelledImage
from model.data.reef import SPECIES, write_reef
from model.data.voc import Difficult, read_voc, voc_splits, write_voc
from model.errors import DatasetUnreadable, ImageUnreadable
from model.images import load_image
from tests.model.data.sample_files import keys, put_image, put_text

Corners = tuple[object, object, object, object]
FISH = ("fish", (41, 16, 60, 35))
"""In VOC's counting; the pixels 41 to 60 and 16 to 35 reach from (40, 15) to (60, 35)."""
SIZE = "<size><width>100</width><height>50</height><depth>3</depth></size>"


def thing(name: str, corners: Corners, extra: str = "") -> str:
    box = "".join(f"<{t}>{v}</{t}>" for t, v in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
    return f"<object><name>{name}</name>{extra}<bndbox>{box}</bndbox></object>"


def document(*objects: str, size: str = SIZE, filename: str = "") -> str:
    return f"<annotation><filename>{filename}</filename>{size}{''.join(objects)}</annotation>"


def boxes(dataset: DetectionDataset, index: int = 0) -> list[list[float]]:
    return dataset.images[index].xyxy.tolist()


@pytest.fixture(name="home")
def home_fixture(tmp_path: Path) -> Path:
    """VOC's own layout: a with a fish, b with a crab and a fish, c with nothing; d is not annotated."""
    for name in ("a.jpg", "b.PNG", "c.jpg", "d.jpg"):
        put_image(tmp_path / "JPEGImages" / name)
    put_text(tmp_path / "Annotations/a.xml", document(thing(*FISH)))
    put_text(tmp_path / "Annotations/b.xml", document(thing("crab", (1, 1, 100, 50)), thing(*FISH)))
    put_text(tmp_path / "Annotations/c.xml", document())
    put_text(tmp_path / "ImageSets/Main/train.txt", "b\na\n")
    put_text(tmp_path / "ImageSets/Main/val.txt", "c\n")
    return tmp_path


def read_one(home: Path, text: str, *, classes: Sequence[str] = ("fish", "crab")) -> tuple[DetectionDataset, str]:
    """The data set with another a.xml, and what its problems say about a."""
    put_text(home / "Annotations/a.xml", text)
    dataset = read_voc(home, classes=classes)
    return dataset, " ".join(problem for problem in dataset.problems if "a.xml" in problem or "a.jpg" in problem)


class TestLayout:
    def test_everything(self, home: Path) -> None:
        dataset = read_voc(home)
        assert dataset.classes == ("crab", "fish")
        assert keys(dataset) == ["JPEGImages/a.jpg", "JPEGImages/b.PNG", "JPEGImages/c.jpg"]
        assert boxes(dataset) == [[40, 15, 60, 35]]
        assert boxes(dataset, 1) == [[0, 0, 100, 50], [40, 15, 60, 35]]
        assert [image.label.tolist() for image in dataset.images] == [[1], [0, 1], []]
        assert dataset.images[2].xyxy.shape == (0, 4)
        assert dataset.images[0].xyxy.dtype == np.float32
        assert dataset.images[0].label.dtype == np.int64
        assert dataset.problems == ("1 images have no annotation and are left out (JPEGImages/d.jpg).",)

    def test_splits_keep_their_order_and_share_the_class_list(self, home: Path) -> None:
        train, val = read_voc(home, "train"), read_voc(home, "validation")
        assert keys(train) == ["JPEGImages/b.PNG", "JPEGImages/a.jpg"]
        assert (keys(val), val.classes) == (["JPEGImages/c.jpg"], train.classes)
        assert voc_splits(home) == ("train", "val")

    def test_a_list_with_flags_endings_and_strangers(self, home: Path) -> None:
        put_text(home / "ImageSets/Main/crab_train.txt", "a -1\nb  1\nc.jpg\ngone 1\n\nb\n")
        dataset = read_voc(home, "crab_train")
        assert keys(dataset) == ["JPEGImages/a.jpg", "JPEGImages/b.PNG", "JPEGImages/c.jpg"]
        assert dataset.problems[0] == "crab_train.txt: line 4 names 'gone 1', which has no annotation; left out."
        assert voc_splits(home) == ("train", "val")

    def test_annotations_beside_images_in_a_folder_per_split(self, tmp_path: Path) -> None:
        for split in ("train", "valid"):
            put_image(tmp_path / split / "a.jpg")
            put_text(tmp_path / split / "a.xml", document(thing(*FISH), filename="a.jpg"))
        put_text(tmp_path / ".idea/workspace.xml", "<project/>")
        dataset = read_voc(tmp_path, "val")
        assert (keys(dataset), boxes(dataset), dataset.problems) == (["valid/a.jpg"], [[40, 15, 60, 35]], ())
        assert voc_splits(tmp_path) == ("train", "valid")
        assert keys(read_voc(tmp_path)) == ["train/a.jpg", "valid/a.jpg"]

    def test_no_such_split(self, home: Path) -> None:
        with pytest.raises(DatasetUnreadable, match=r"no split 'test'.*splits that it has: train, val"):
            read_voc(home, "test")

    def test_no_annotation(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetUnreadable, match=r"holds no \.xml file"):
            read_voc(tmp_path)


class TestImages:
    def test_names_beyond_ascii_in_either_spelling(self, tmp_path: Path) -> None:
        put_image(tmp_path / "images" / f"{unicodedata.normalize('NFD', 'müräne 魚')}.jpg")
        put_text(
            tmp_path / "Annotations" / f"{unicodedata.normalize('NFC', 'müräne 魚')}.xml",
            document(thing("魚", FISH[1])),
        )
        dataset = read_voc(tmp_path)
        assert (dataset.classes, dataset.num_boxes, dataset.problems) == (("魚",), 1, ())

    def test_the_filename_helps_where_names_differ(self, home: Path) -> None:
        put_text(home / "Annotations/other.xml", document(thing(*FISH), filename="C:\\photos\\d.jpg"))
        dataset = read_voc(home)
        assert keys(dataset)[-1] == "JPEGImages/d.jpg"
        assert dataset.problems == ()

    def test_the_filename_does_not_outrank_the_own_name(self, home: Path) -> None:
        dataset, problem = read_one(home, document(thing(*FISH), filename="d.jpg"))
        assert keys(dataset)[0] == "JPEGImages/a.jpg"
        assert "names the image 'd.jpg', but 'a.jpg' bears its own name and is taken" in problem

    def test_two_images_of_one_name(self, home: Path) -> None:
        put_image(home / "JPEGImages/a.png")
        dataset, problem = read_one(home, document(thing(*FISH)))
        assert keys(dataset)[0] == "JPEGImages/b.PNG"
        assert "a.xml: left out, because its image could be any of a.jpg, a.png." in problem
        dataset, _ = read_one(home, document(thing(*FISH), filename="a.png"))
        assert keys(dataset)[0] == "JPEGImages/a.png"

    def test_a_missing_image(self, home: Path) -> None:
        (home / "JPEGImages/a.jpg").unlink()
        dataset = read_voc(home)
        assert len(dataset) == 2
        assert "Annotations/a.xml: left out, because its image 'a' is missing." in dataset.problems

    def test_an_unreadable_image(self, home: Path) -> None:
        put_text(home / "JPEGImages/a.jpg", "no image")
        dataset = read_voc(home)
        assert len(dataset) == 2
        assert dataset.problems[0].startswith("JPEGImages/a.jpg: left out. The file 'a.jpg' is")

    @pytest.mark.parametrize(("corners", "count"), [((41, 16, 60, 35), 1), ((41, 16, 60, 36), 0)])
    def test_two_annotations_of_one_image(self, home: Path, corners: Corners, count: int) -> None:
        put_text(home / "Annotations/z.xml", document(thing("fish", corners), filename="a.jpg"))
        dataset = read_voc(home)
        assert keys(dataset).count("JPEGImages/a.jpg") == count
        told = [problem for problem in dataset.problems if "2 annotations for one image file" in problem]
        assert len(told) == 1
        assert ("taken once" in told[0]) == bool(count)


class TestBroken:
    @pytest.mark.parametrize(
        ("objects", "reason"),
        [
            (thing("whale", FISH[1]), "class 'whale', expected one of fish, crab"),
            (thing("", FISH[1]), "no class name"),
            ("<object><name>fish</name></object>", "no bndbox"),
            ("<object><name>fish</name><bndbox><xmin>1</xmin></bndbox></object>", "no ymin"),
            (thing("fish", ("one", 1, 2, 3)), "xmin is 'one', expected a number"),
            (thing("fish", ("nan", 1, 2, 3)), "is not finite"),
            (thing("fish", (1, 1, "inf", 3)), "is not finite"),
            (thing("fish", (60, 16, 41, 35)), r"the box \(59, 15\) to \(41, 35\) has no area"),
            (thing("fish", (41, 16, 60, 15)), "has no area"),
            (thing("fish", (101, 16, 120, 35)), r"\(100, 15\) to \(120, 35\) lies outside the image of 100 x 50"),
            (thing("fish", (-20, 16, 0, 35)), "lies outside the image"),
        ],
    )
    def test_a_broken_box_is_named_and_skipped(self, home: Path, objects: str, reason: str) -> None:
        dataset, problem = read_one(home, document(thing(*FISH), objects, thing("crab", (1, 1, 2, 2))))
        assert boxes(dataset) == [[40, 15, 60, 35], [0, 0, 2, 2]]
        assert "Annotations/a.xml of JPEGImages/a.jpg: 1 broken box skipped (object 2: " in problem
        assert re.search(reason, problem)

    def test_an_image_without_a_sound_box_is_no_background(self, home: Path) -> None:
        dataset, problem = read_one(home, document(thing("whale", FISH[1]), thing("shark", FISH[1])))
        assert "JPEGImages/a.jpg" not in keys(dataset)
        assert "2 broken boxes skipped and the image left out, because no box is left" in problem

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("", "not well-formed XML"),
            ("<annotation>", "not well-formed XML"),
            ("<annotation><object></annotation>", "not well-formed XML"),
            ("<annotation>&undeclared;</annotation>", "not well-formed XML"),
            ("<html></html>", "its root is <html>, expected <annotation>"),
            ("<?xml version='1.0' encoding='klingon'?><annotation/>", "encoding"),
            ("<annotation>" + "<a>" * 60 + "</a>" * 60 + "</annotation>", "more than 50 deep"),
        ],
    )
    def test_broken_xml(self, home: Path, text: str, reason: str) -> None:
        dataset, problem = read_one(home, text)
        assert len(dataset) == 2
        assert problem.startswith("Annotations/a.xml: left out, because ")
        assert reason in problem

    def test_entities_are_not_expanded(self, home: Path) -> None:
        secret = put_text(home / "secret.txt", "fish")
        levels = "".join(f"<!ENTITY e{n} '" + f"&e{n - 1};" * 10 + "'>" for n in range(1, 12))
        for declared in (f'<!ENTITY e0 "lol">{levels}', f'<!ENTITY e11 SYSTEM "{secret.as_uri()}">'):
            dataset, problem = read_one(home, f"<!DOCTYPE annotation [{declared}]><annotation>&e11;</annotation>")
            assert len(dataset) == 2
            assert "declares a document type (annotation)" in problem

    def test_repeated_boxes_count_once(self, home: Path) -> None:
        dataset, problem = read_one(home, document(*[thing(*FISH)] * 3))
        assert boxes(dataset) == [[40, 15, 60, 35]]
        assert "2 repeated boxes skipped" in problem

    def test_parts_are_no_objects(self, home: Path) -> None:
        part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part>"
        dataset, problem = read_one(home, document(thing(*FISH, extra=part)))
        assert (boxes(dataset), problem) == ([[40, 15, 60, 35]], "")

    def test_fractions_and_one_pixel(self, home: Path) -> None:
        dataset, _ = read_one(
            home, document(thing("fish", ("10.5", "20.25", " 30.75 ", "40")), thing("fish", (7, 8, 7, 8)))
        )
        assert boxes(dataset) == [[9.5, 19.25, 30.75, 40], [6, 7, 7, 8]]

    @pytest.mark.parametrize(("right", "named"), [(101, False), (102, False), (110, True)])
    def test_boxes_are_cut_at_the_edge_and_named_if_far_out(self, home: Path, right: int, named: bool) -> None:
        dataset, problem = read_one(home, document(thing("fish", (41, 16, right, 35))))
        assert boxes(dataset) == [[40, 15, 100, 35]]
        assert ("reach beyond the image of 100 x 50 and are cut: object 1 (40, 15) to (110, 35)" in problem) == named
        assert bool(problem) == named


class TestSize:
    @pytest.mark.parametrize(
        "size",
        ["", "<size/>", "<size><width>0</width><height>0</height></size>", SIZE.replace("100", "wide")],
    )
    def test_an_unknown_size_is_looked_up_in_the_image(self, home: Path, size: str) -> None:
        dataset, problem = read_one(home, document(thing(*FISH), size=size))
        assert (boxes(dataset), problem) == ([[40, 15, 60, 35]], "")

    def test_boxes_of_another_size_are_not_trusted(self, home: Path) -> None:
        dataset, problem = read_one(home, document(thing(*FISH), size=SIZE.replace("100", "200")))
        assert len(dataset) == 2
        assert "a.xml describes an image of 200 x 50 pixels and the file has 100 x 50" in problem

    @pytest.mark.parametrize("orientation", [5, 6, 7, 8])
    def test_boxes_drawn_before_turning_are_turned(self, home: Path, orientation: int) -> None:
        pixels = np.zeros((64, 96, 3), np.uint8)
        pixels[8:24, 16:72] = 255
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(pixels).save(home / "JPEGImages/a.png", exif=exif)
        (home / "JPEGImages/a.jpg").unlink()
        size = "<size><width>96</width><height>64</height></size>"
        put_text(home / "Annotations/a.xml", document(thing("fish", (17, 9, 72, 24)), size=size))
        dataset = read_voc(home)
        seen = load_image(dataset.images[0].path)[..., 0] == 255
        rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
        assert seen.shape == (96, 64)
        assert boxes(dataset) == [[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]]
        assert not any("a.png" in problem for problem in dataset.problems)

    def test_boxes_drawn_after_turning_stay(self, home: Path) -> None:
        put_image(home / "JPEGImages/a.jpg", orientation=6)
        size = "<size><width>50</width><height>100</height></size>"
        dataset, problem = read_one(home, document(thing("fish", (1, 51, 50, 100)), size=size))
        assert (boxes(dataset), problem) == ([[0, 50, 50, 100]], "")

    @pytest.mark.parametrize(("orientation", "size"), [(6, ""), (3, SIZE), (2, "")])
    def test_what_cannot_be_told_is_said(self, home: Path, orientation: int, size: str) -> None:
        put_image(home / "JPEGImages/a.jpg", orientation=orientation)
        dataset, problem = read_one(home, document(thing("fish", (1, 1, 20, 30)), size=size))
        assert boxes(dataset) == [[0, 0, 20, 30]]
        assert f"(EXIF orientation {orientation})" in problem
        assert "taken as after" in problem


class TestChoices:
    @pytest.fixture(name="marked")
    def marked_fixture(self, home: Path) -> Path:
        hard = "<difficult>1</difficult>"
        put_text(home / "Annotations/a.xml", document(thing(*FISH, extra=hard)))
        put_text(home / "Annotations/b.xml", document(thing(*FISH), thing("crab", (1, 1, 9, 9), hard)))
        return home

    def test_difficult_boxes_are_kept(self, marked: Path) -> None:
        assert read_voc(marked).num_boxes == 3

    def test_difficult_boxes_are_passed_over_and_leave_no_false_background(self, marked: Path) -> None:
        dataset = read_voc(marked, difficult=Difficult.SKIP)
        assert keys(dataset) == ["JPEGImages/b.PNG", "JPEGImages/c.jpg"]
        assert boxes(dataset) == [[40, 15, 60, 35]]
        assert dataset.problems[:2] == (
            "JPEGImages/a.jpg: left out, because all its boxes (1) are of the kind that is passed over.",
            "2 difficult boxes passed over in 2 images (JPEGImages/a.jpg, JPEGImages/b.PNG).",
        )

    def test_counting_from_zero(self, home: Path) -> None:
        put_text(home / "Annotations/a.xml", document(thing("fish", (0, 15, 60, 35))))
        assert boxes(read_voc(home, first_pixel=0)) == [[0, 15, 60, 35]]
        dataset = read_voc(home)
        assert boxes(dataset) == [[0, 14, 60, 35]]
        assert any(problem.startswith("1 boxes begin at pixel 0") for problem in dataset.problems)

    def test_a_first_pixel_of_two(self, home: Path) -> None:
        with pytest.raises(ValueError, match="expected 0 or 1"):
            read_voc(home, first_pixel=2)


class TestWrite:
    def test_there_and_back(self, tmp_path: Path) -> None:
        reef = write_reef(tmp_path / "reef", 6, seed=1, size=(60, 80))
        again = read_voc(write_voc(reef, tmp_path / "out", split="val"), "val", classes=SPECIES)
        assert (again.classes, again.problems) == (SPECIES, ())
        assert keys(again) == [f"JPEGImages/val/{image.key}.jpg" for image in reef.images]
        assert again.num_boxes == reef.num_boxes > 0
        for one, other in zip(reef.images, again.images, strict=True):
            np.testing.assert_allclose(other.xyxy, one.xyxy, atol=1e-4)
            np.testing.assert_array_equal(other.label, one.label)
            assert other.path.read_bytes() == one.path.read_bytes()

    def test_the_file_counts_from_one(self, tmp_path: Path) -> None:
        path = put_image(tmp_path / "x.png")
        image = LabelledImage("1", path, np.array([[40, 15, 60.5, 35]], np.float32), np.array([0]))
        text = (write_voc(DetectionDataset(("a<b",), [image]), tmp_path) / "Annotations/train/1.xml").read_text()
        found = re.findall(r"<(xmin|ymin|xmax|ymax|width|height|name)>(.*?)<", text)
        assert dict(found) == {
            "width": "100",
            "height": "50",
            "name": "a&lt;b",
            "xmin": "41",
            "ymin": "16",
            "xmax": "60.5",
            "ymax": "35",
        }

    def test_two_splits_side_by_side(self, tmp_path: Path) -> None:
        reef = write_reef(tmp_path / "reef", 3, seed=1, size=(60, 80))
        write_voc(reef, tmp_path / "out")
        write_voc(DetectionDataset(SPECIES, reef.images[:1]), tmp_path / "out", split="val")
        assert [len(read_voc(tmp_path / "out", split)) for split in ("train", "val")] == [3, 1]

    def test_a_name_that_xml_cannot_hold(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="characters that XML cannot hold"):
            write_voc(DetectionDataset(("a\x00",), []), tmp_path)

    def test_a_missing_image(self, tmp_path: Path) -> None:
        image = LabelledImage("1", tmp_path / "gone.jpg", np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
        with pytest.raises(ImageUnreadable, match=r"gone\.jpg"):
            write_voc(DetectionDataset(("a",), [image]), tmp_path / "out")
