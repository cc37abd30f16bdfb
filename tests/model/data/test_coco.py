from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.data.coco import is_coco, read_coco, write_coco
from model.data.dataset import DetectionDataset
from model.data.reef import SPECIES, write_reef
from model.errors import DatasetUnreadable
from tests.model.data.sample_files import keys, put_image

FISH = [40, 15, 20, 20]
"""Left, top, width, height; corners (40, 15) and (60, 35)."""
CATEGORIES = [{"id": 7, "name": "crab"}, {"id": 3, "name": "fish"}]


def put_json(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document, ensure_ascii=False), "utf-8")
    return path


def image(number: Any, name: Any, **more: Any) -> dict[str, Any]:
    return {"id": number, "file_name": name, "width": 100, "height": 50, **more}


def box(number: Any, bbox: Any = FISH, category: Any = 3, **more: Any) -> dict[str, Any]:
    return {"image_id": number, "category_id": category, "bbox": bbox, **more}


def document(*annotations: dict[str, Any], images: Any = None, categories: Any = CATEGORIES) -> dict[str, Any]:
    images = [image(1, "a.jpg"), image(2, "b.jpg")] if images is None else images
    numbered = [{"id": 100 + n, **annotation} for n, annotation in enumerate(annotations)]
    return {"images": images, "annotations": numbered, "categories": categories}


@pytest.fixture(name="home")
def home_fixture(tmp_path: Path) -> Path:
    put_image(tmp_path / "a.jpg")
    put_image(tmp_path / "b.jpg")
    return tmp_path


def read(home: Path, *annotations: dict[str, Any], **parts: Any) -> DetectionDataset:
    return read_coco(put_json(home / "set.json", document(*annotations, **parts)))


class TestBoxes:
    def test_corners_classes_and_background(self, home: Path) -> None:
        dataset = read(home, box(1), box(1, [0, 0, 100, 50], 7), images=[image(2, "b.jpg"), image(1, "a.jpg")])
        assert dataset.classes == ("fish", "crab")
        assert (keys(dataset), dataset.problems) == (["b.jpg", "a.jpg"], ())
        assert dataset.images[1].xyxy.tolist() == [[40, 15, 60, 35], [0, 0, 100, 50]]
        assert dataset.images[1].label.tolist() == [0, 1]
        assert dataset.images[0].xyxy.shape == (0, 4)
        assert dataset.images[0].xyxy.dtype == np.float32
        assert dataset.images[0].label.dtype == np.int64

    @pytest.mark.parametrize(
        ("broken", "reason"),
        [
            (box(1, category=9), "category 9, expected one of 7, 3"),
            (box(1, category=None), "category None"),
            (box(1, category=[3]), r"category \[3\]"),
            ({"image_id": 1, "category_id": 3}, "bbox is None, expected left, top, width and height"),
            (box(1, []), r"bbox is \[\]"),
            (box(1, [1, 2, 3]), "bbox is"),
            (box(1, ["1", 2, 3, 4]), "bbox is"),
            (box(1, [1, 2, 10**400, 4]), "bbox is"),
            (box(1, [float("nan"), 2, 3, 4]), "is not finite"),
            (box(1, [1, 2, float("inf"), 4]), "is not finite"),
            (box(1, [40, 15, 0, 20]), r"\(40, 15\) to \(40, 35\) has no area"),
            (box(1, [40, 15, 20, -20]), "has no area"),
            (box(1, [100, 15, 20, 20]), "lies outside the image of 100 x 50"),
            (box(1, [-30, 15, 20, 20]), "lies outside the image"),
        ],
    )
    def test_a_broken_box_is_named_and_skipped(self, home: Path, broken: dict[str, Any], reason: str) -> None:
        dataset = read(home, box(1), broken, box(1, [0, 0, 2, 2], 7))
        assert dataset.images[0].xyxy.tolist() == [[40, 15, 60, 35], [0, 0, 2, 2]]
        assert len(dataset.problems) == 1
        assert dataset.problems[0].startswith("image 1 of a.jpg: 1 broken box skipped (annotation 101: ")
        assert re.search(reason, dataset.problems[0])
        alone = read(home, broken)
        assert keys(alone) == ["b.jpg"]
        assert "skipped and the image left out, because no box is left" in alone.problems[0]

    def test_cut_at_the_edge_and_repeated(self, home: Path) -> None:
        dataset = read(home, box(1, [90, 40, 11, 30]), box(2), box(2))
        assert dataset.images[0].xyxy.tolist() == [[90, 40, 100, 50]]
        assert dataset.num_boxes == 2
        assert "are cut: annotation 100 (90, 40) to (101, 70)" in dataset.problems[0]
        assert dataset.problems[1] == "image 2 of b.jpg: 1 repeated boxes skipped."

    def test_crowds_are_passed_over_and_leave_no_false_background(self, home: Path) -> None:
        crowd = {"iscrowd": 1, "segmentation": {"counts": [1, 2], "size": [50, 100]}}
        dataset = read(home, box(1, **crowd), box(2, **crowd), box(2))
        assert (keys(dataset), dataset.num_boxes) == (["b.jpg"], 1)
        assert dataset.problems == (
            "2 crowd regions passed over in 2 images (a.jpg, b.jpg).",
            "a.jpg: left out, because all its boxes (1) are of the kind that is passed over.",
        )

    def test_a_class_list_from_outside(self, home: Path) -> None:
        path = put_json(home / "set.json", document(box(1), box(1, [0, 0, 2, 2], 7)))
        dataset = read_coco(path, classes=["eel", "fish"])
        assert (dataset.classes, dataset.images[0].label.tolist()) == (("eel", "fish"), [1])
        assert "annotation 101: class 'crab', expected one of eel, fish" in dataset.problems[0]

    def test_turned_images(self, home: Path) -> None:
        put_image(home / "a.jpg", orientation=6)
        dataset = read(home, box(1))
        # Turned clockwise: 50 x 100, and what was 15 to 35 from the top is as far from the right.
        assert dataset.images[0].xyxy.tolist() == [[15, 40, 35, 60]]
        upright = read(home, box(1, [0, 80, 50, 20]), images=[image(1, "a.jpg", width=50, height=100)])
        assert upright.images[0].xyxy.tolist() == [[0, 80, 50, 100]]


class TestEntries:
    def test_ids_may_be_text(self, home: Path) -> None:
        dataset = read(home, box("x"), images=[image("x", "a.jpg")])
        assert dataset.num_boxes == 1

    def test_annotations_of_no_image(self, home: Path) -> None:
        dataset = read(home, box(1), box(5), box(5), {"category_id": 3, "bbox": FISH})
        assert dataset.num_boxes == 1
        assert dataset.problems == (
            "set.json: 1 broken entries skipped (number 4 names no image).",
            "set.json: 2 annotations skipped, because they belong to images that the document lacks (ids 5).",
        )

    def test_one_id_for_two_files(self, home: Path) -> None:
        put_image(home / "c.jpg")
        dataset = read(
            home, box(1), images=[image(1, "a.jpg"), image(1, "b.jpg"), image(2, "c.jpg"), image(2, "c.jpg")]
        )
        assert keys(dataset) == ["c.jpg"]
        assert dataset.problems == ("image 1: left out, because several files have this id (a.jpg, b.jpg).",)

    @pytest.mark.parametrize(("second", "kept"), [(FISH, ["a.jpg"]), ([0, 0, 5, 5], []), ([0, 0, 0, 5], [])])
    def test_two_ids_for_one_file(self, home: Path, second: list[int], kept: list[str]) -> None:
        dataset = read(home, box(1), box(2, second), images=[image(1, "a.jpg"), image(2, "./a.jpg")])
        assert keys(dataset) == kept
        assert "2 annotations for one image file (image 1, image 2)" in dataset.problems[0]

    def test_missing_and_unreadable_files(self, home: Path) -> None:
        put_json(home / "b.jpg", "no image")
        strangers = [image(3, "gone.jpg"), image(4, None), {"file_name": "a.jpg"}, "text"]
        dataset = read(home, box(3), images=[image(1, "a.jpg"), image(2, "b.jpg"), *strangers])
        assert keys(dataset) == ["a.jpg"]
        assert dataset.problems[0].startswith("set.json: 2 broken entries skipped ({'file_name': 'a.jpg'} among images")
        assert dataset.problems[1:3] == (
            "gone.jpg: left out, because there is no such file.",
            "image 4: left out, because its file_name is None, expected a name.",
        )
        assert dataset.problems[3].startswith("b.jpg: left out. The file 'b.jpg' is")

    def test_boxes_of_another_size_are_not_trusted(self, home: Path) -> None:
        dataset = read(home, box(1), images=[image(1, "a.jpg", width=200, height=100), image(2, "b.jpg", width=None)])
        assert keys(dataset) == ["b.jpg"]
        assert "describes an image of 200 x 100 pixels and the file has 100 x 50" in dataset.problems[0]

    def test_two_ids_of_one_name_are_one_class(self, home: Path) -> None:
        categories = [{"id": 0, "name": "fish"}, {"id": 1, "name": "fish"}, {"id": 2, "name": "crab"}]
        dataset = read(home, box(1, category=0), box(2, category=1), categories=categories)
        assert (dataset.classes, dataset.class_counts().tolist()) == (("fish", "crab"), [2, 0])
        assert dataset.problems == ("set.json: several category ids are called fish; each name is one class.",)

    @pytest.mark.parametrize(
        ("categories", "reason"),
        [
            ([{"id": 1, "name": "a"}, {"id": 1, "name": "b"}], "the category id 1 means 'a' and 'b'"),
            ([{"id": 1}], "is named None"),
            ([], "is no COCO document: expected images, annotations and categories, found members: images"),
        ],
    )
    def test_categories_that_make_no_sense(self, home: Path, categories: Any, reason: str) -> None:
        with pytest.raises(DatasetUnreadable, match=reason):
            read(home, categories=categories)


class TestFiles:
    @pytest.mark.parametrize(
        ("json_path", "image_path", "name"),
        [
            ("annotations/instances_train2017.json", "train2017/a.jpg", "a.jpg"),
            ("annotations/instances_val.json", "images/val/a.jpg", "a.jpg"),
            ("annotations/set.json", "images/deep/a.jpg", "deep/a.jpg"),
            ("result.json", "images/a.jpg", "images\\a.jpg"),
            ("result.json", "images/a.jpg", "/data/upload/3/a.jpg"),
            ("result.json", "images/a.jpg", "C:\\work\\a.jpg"),
            ("train/_annotations.coco.json", "train/a.jpg", "a.jpg"),
        ],
    )
    def test_where_images_are_found(self, tmp_path: Path, json_path: str, image_path: str, name: str) -> None:
        put_image(tmp_path / image_path)
        dataset = read_coco(put_json(tmp_path / json_path, document(box(1), images=[image(1, name)])))
        assert dataset.images[0].path.resolve() == (tmp_path / image_path).resolve()
        assert dataset.num_boxes == 1

    def test_another_folder(self, home: Path, tmp_path: Path) -> None:
        path = put_json(tmp_path / "elsewhere/set.json", document(box(1)))
        assert keys(read_coco(path, home)) == ["a.jpg", "b.jpg"]
        with pytest.raises(
            DatasetUnreadable, match=r"not one of its 2 images exists, the first is 'a\.jpg'; looked in"
        ):
            read_coco(path)

    def test_names_do_not_lead_out(self, tmp_path: Path) -> None:
        put_image(tmp_path / "secret.jpg")
        put_image(tmp_path / "home/a.jpg")
        names = [image(1, "a.jpg"), image(2, "../secret.jpg"), image(3, str(tmp_path / "secret.jpg"))]
        dataset = read_coco(put_json(tmp_path / "home/set.json", document(images=names)))
        assert keys(dataset) == ["a.jpg"]
        assert len(dataset.problems) == 2

    def test_names_beyond_ascii_in_either_spelling(self, tmp_path: Path) -> None:
        put_image(tmp_path / f"{unicodedata.normalize('NFD', 'müräne 魚')}.jpg")
        name = f"{unicodedata.normalize('NFC', 'müräne 魚')}.jpg"
        dataset = read_coco(put_json(tmp_path / "set.json", document(box(1), images=[image(1, name)])))
        assert (dataset.num_boxes, dataset.problems) == (1, ())

    @pytest.mark.parametrize(
        "text", ["", "[]", "{", '{"images": [{"id": 1}, ', "{]", '{"images": []} x', "\x00", "[" * 99999]
    )
    def test_no_json(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(DatasetUnreadable, match="cannot be read as a COCO document: "):
            read_coco(put_json(tmp_path / "set.json", text))

    def test_not_utf8_and_not_there(self, tmp_path: Path) -> None:
        (tmp_path / "set.json").write_bytes(b'{"images": ["\xff"]}')
        for name in ("set.json", "gone.json"):
            with pytest.raises(DatasetUnreadable, match="cannot be read as a COCO document"):
                read_coco(tmp_path / name)

    def test_what_counts_as_coco(self, home: Path) -> None:
        assert is_coco(put_json(home / "a.json", {"info": {}, **document(box(1))}))
        for other in ({"images": 3}, {"categories": ["fish"]}, [1], {"version": "5.0", "shapes": []}, "{", {}):
            assert not is_coco(put_json(home / "b.json", other))


class TestWrite:
    def test_there_and_back(self, tmp_path: Path) -> None:
        reef = write_reef(tmp_path / "reef", 6, seed=1, size=(60, 80))
        again = read_coco(write_coco(reef, tmp_path / "out"))
        assert (again.classes, again.problems) == (SPECIES, ())
        assert keys(again) == [f"images/train/{one.key}.jpg" for one in reef.images]
        assert again.num_boxes == reef.num_boxes > 0
        for one, other in zip(reef.images, again.images, strict=True):
            np.testing.assert_allclose(other.xyxy, one.xyxy, atol=1e-4)
            np.testing.assert_array_equal(other.label, one.label)
            assert other.path.read_bytes() == one.path.read_bytes()

    def test_nothing(self, tmp_path: Path) -> None:
        again = read_coco(write_coco(DetectionDataset(("a",), []), tmp_path))
        assert (len(again), again.classes, again.problems) == (0, ("a",), ())
