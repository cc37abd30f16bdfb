from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from model.data.dataset import DetectionDataset, LabelledImage
from model.data.reef import SPECIES, write_reef
from model.data.yolo import DatasetUnreadable, read_yolo, write_yolo
from model.errors import ImageUnreadable, ModelError
from tests.model.data.sample_files import keys, put_image, put_text

YAML = "train: images/train\nval: images/val\nnames: [fish, crab]\n"
SOUND = "0 0.5 0.5 0.2 0.4"
"""In a picture of 100 x 50 pixels: a fish from (40, 15) to (60, 35)."""


@pytest.fixture(name="home")
def home_fixture(tmp_path: Path) -> Path:
    """Three pictures: two fish, none, none."""
    put_text(tmp_path / "data.yaml", YAML)
    put_image(tmp_path / "images/train/a.jpg")
    put_image(tmp_path / "images/train/deep/b.PNG")
    put_image(tmp_path / "images/train/c.jpg")
    put_text(tmp_path / "labels/train/a.txt", f"{SOUND}\n\n1 0.05 0.1 0.1 0.2\n")
    put_text(tmp_path / "labels/train/c.txt", "")
    put_image(tmp_path / "images/val/v.jpg")
    return tmp_path


class TestLayout:
    def test_a_folder(self, home: Path) -> None:
        dataset = read_yolo(home / "data.yaml", "train")
        assert dataset.classes == ("fish", "crab")
        assert dataset.problems == ()
        assert keys(dataset) == ["images/train/a.jpg", "images/train/c.jpg", "images/train/deep/b.PNG"]
        first = dataset.images[0]
        assert first.path == home / "images/train/a.jpg"
        assert first.xyxy.dtype == np.float32
        assert first.label.dtype == np.int64
        np.testing.assert_allclose(first.xyxy, [[40, 15, 60, 35], [0, 0, 10, 10]], atol=1e-4)
        assert first.label.tolist() == [0, 1]
        assert [len(image.label) for image in dataset.images] == [2, 0, 0]
        assert dataset.images[1].xyxy.shape == (0, 4)

    @pytest.mark.parametrize("key", ["val", "valid", "validation"])
    @pytest.mark.parametrize("asked", ["val", "valid", "validation"])
    def test_validation_by_any_name(self, home: Path, key: str, asked: str) -> None:
        data_yaml = put_text(home / "data.yaml", YAML.replace("val:", f"{key}:"))
        assert keys(read_yolo(data_yaml, asked)) == ["images/val/v.jpg"]

    @pytest.mark.parametrize("prefix", ["./", "", "images/train/../../"])
    def test_a_list_keeps_its_order(self, home: Path, prefix: str) -> None:
        names = ["images/train/c.jpg", "images/train/a.jpg", "images/train/gone.jpg", "", "images/train/c.jpg"]
        put_text(home / "train.txt", "".join(f"{prefix}{name}\n" if name else "\n" for name in names))
        dataset = read_yolo(put_text(home / "data.yaml", YAML.replace("images/train", "train.txt")), "train")
        assert keys(dataset) == ["images/train/c.jpg", "images/train/a.jpg"]
        assert len(dataset.problems) == 1
        assert "train.txt: line 3 names" in dataset.problems[0]
        assert "gone.jpg" in dataset.problems[0]

    def test_several_sources_give_each_image_once(self, home: Path) -> None:
        data_yaml = put_text(home / "data.yaml", "train: [images/train/deep, images/train]\nnames: [fish, crab]\n")
        assert keys(read_yolo(data_yaml, "train")) == [
            "images/train/deep/b.PNG",
            "images/train/a.jpg",
            "images/train/c.jpg",
        ]

    @pytest.mark.parametrize("path", ["..", "/nowhere/on/this/machine", "."])
    def test_the_path_is_tried_first_and_not_trusted(self, home: Path, path: str) -> None:
        data_yaml = put_text(home / "meta/data.yaml" if path == ".." else home / "data.yaml", f"path: {path}\n{YAML}")
        dataset = read_yolo(data_yaml, "train")
        assert len(dataset) == 3
        assert dataset.num_boxes == 2

    def test_a_roboflow_export(self, tmp_path: Path) -> None:
        put_image(tmp_path / "train/images/a.jpg")
        put_text(tmp_path / "train/labels/a.txt", SOUND)
        data_yaml = put_text(tmp_path / "data.yaml", "train: ../train/images\nnc: 1\nnames: ['fish']\n")
        dataset = read_yolo(data_yaml, "train")
        assert (keys(dataset), dataset.num_boxes, dataset.problems) == (["train/images/a.jpg"], 1, ())

    def test_labels_beside_the_images(self, tmp_path: Path) -> None:
        put_image(tmp_path / "images/set/a.jpg")
        put_text(tmp_path / "images/set/a.txt", SOUND)
        data_yaml = put_text(tmp_path / "data.yaml", "train: images/set\nnames: [fish]\n")
        assert read_yolo(data_yaml, "train").num_boxes == 1

    def test_only_the_last_images_folder_is_exchanged(self, tmp_path: Path) -> None:
        put_image(tmp_path / "images/images/a.jpg")
        put_text(tmp_path / "images/labels/a.txt", SOUND)
        put_text(tmp_path / "labels/labels/a.txt", f"{SOUND}\n1 0.5 0.5 1 1")
        data_yaml = put_text(tmp_path / "images/data.yaml", "train: images\nnames: [fish, crab]\n")
        assert read_yolo(data_yaml, "train").num_boxes == 1

    def test_hidden_files_are_no_images(self, home: Path) -> None:
        put_text(home / "images/train/._a.jpg", "of another system")
        put_text(home / "images/train/notes.md", "text")
        dataset = read_yolo(home / "data.yaml", "train")
        assert (len(dataset), dataset.problems) == (3, ())

    def test_sideways_pictures_are_measured_upright(self, home: Path) -> None:
        put_image(home / "images/train/a.jpg", orientation=6)
        box = read_yolo(home / "data.yaml", "train").images[0].xyxy[0]
        np.testing.assert_allclose(box, [20, 30, 30, 70], atol=1e-4)


class TestLabelFiles:
    def test_background_is_no_problem(self, home: Path) -> None:
        (home / "labels/train/c.txt").unlink()
        put_text(home / "labels/train/classes.txt", "fish\ncrab\n")
        put_image(home / "images/train/b.jpg")
        dataset = read_yolo(home / "data.yaml", "train")
        assert (len(dataset), dataset.problems) == (4, ())

    @pytest.mark.parametrize(("name", "image"), [("c.TXT", "c.jpg"), ("cc.txt", "c.jpg")])
    def test_files_that_belong_to_no_image_are_named(self, home: Path, name: str, image: str) -> None:
        put_text(home / "labels/train/c.txt", SOUND).rename(home / "labels/train" / name)
        (problem,) = read_yolo(home / "data.yaml", "train").problems
        assert problem.startswith(f"1 images without a label file count as background ({image})")
        assert f"no image is called as {name} in {home / 'labels/train'}" in problem

    def test_texts_beside_images_are_no_labels(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            put_image(tmp_path / "all" / f"{name}.jpg")
        put_text(tmp_path / "all/a.txt", SOUND)
        put_text(tmp_path / "all/train.txt", "a.jpg\nb.jpg\n")
        put_text(tmp_path / "all/README.txt", "Fish, mostly.\n")
        data_yaml = put_text(tmp_path / "data.yaml", "train: all\nnames: [fish, crab]\n")
        assert read_yolo(data_yaml, "train").problems == ()

    def test_no_label_file_at_all(self, home: Path) -> None:
        (home / "labels").rename(home / "Labels")
        (problem,) = read_yolo(home / "data.yaml", "train").problems
        assert problem == f"no image has a label file; looked for {home / 'labels/train/a.txt'} and the like."


class TestNames:
    @pytest.mark.parametrize(
        ("names", "expected"),
        [
            ("[no, 007, 'über, fish']", ("no", "007", "über, fish")),
            ("{1: b, 0: a}", ("a", "b")),
            ("\n  0: a\n  1: b", ("a", "b")),
        ],
    )
    def test_lists_and_mappings(self, home: Path, names: str, expected: tuple[str, ...]) -> None:
        data_yaml = put_text(home / "data.yaml", f"val: images/val\nnames: {names}\n")
        assert read_yolo(data_yaml, "val").classes == expected

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("train: images/train\nnc: 2\n", "names are None, expected a list"),
            ("names: []\n", r"names are \[\]"),
            ("names: fish\n", "names are 'fish'"),
            ("names: {0: a, 2: b}\n", "keys 0, 2, expected 0, 1, 2"),
            ("names: [[a], b]\n", "expected a list of class names"),
            ("names: [a, b, a]\n", "the class a is named more than once"),
            ("- a\n- b\n", "no mapping"),
            ("", "no mapping"),
            ("names: [a\n", "not YAML"),
            ("names: [fish]\n", r"says None for the split 'train'.*has: none"),
            ("names: [fish]\nval: images/val\ntest:\n", r"split 'train'.*has: val\.$"),
            ("names: [fish]\ntrain: {a: b}\n", "says {'a': 'b'}"),
            ("names: [fish]\ntrain: photos\n", r"'photos' does not exist; looked for .*photos"),
            ("names: [fish]\ntrain: images/train/a.jpg\n", "neither a folder nor a .txt"),
        ],
    )
    def test_what_cannot_be_read(self, home: Path, text: str, message: str) -> None:
        data_yaml = put_text(home / "data.yaml", text)
        with pytest.raises(DatasetUnreadable, match=message) as caught:
            read_yolo(data_yaml, "train")
        assert isinstance(caught.value, ModelError)

    def test_no_file_or_not_text(self, home: Path) -> None:
        with pytest.raises(DatasetUnreadable, match=r"gone\.yaml cannot be read: No such file"):
            read_yolo(home / "gone.yaml", "train")
        (home / "data.yaml").write_bytes(b"names: [\xff\xfe]")
        with pytest.raises(DatasetUnreadable, match="not YAML"):
            read_yolo(home / "data.yaml", "train")

    def test_another_nc_is_a_problem_not_the_end(self, home: Path) -> None:
        dataset = read_yolo(put_text(home / "data.yaml", f"{YAML}nc: 3\n"), "train")
        assert dataset.problems == ("data.yaml: nc is 3, but 2 names are given; the names count.",)


class TestLines:
    def read(self, home: Path, text: str) -> DetectionDataset:
        put_text(home / "labels/train/a.txt", text)
        return read_yolo(home / "data.yaml", "train")

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            ("0 0.5 0.5 0.2", "4 values, expected 5"),
            ("0 0.5 0.5 0.2 0.4 0.9", "6 values"),
            ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "8 values"),
            ("fish 0.5 0.5 0.2 0.4", "is not all numbers"),
            ("0 0,5 0.5 0.2 0.4", "is not all numbers"),
            ("2 0.5 0.5 0.2 0.4", "class 2, expected 0 to 1"),
            ("-1 0.5 0.5 0.2 0.4", "class -1"),
            ("0.5 0.5 0.5 0.2 0.4", r"class 0\.5"),
            ("nan 0.5 0.5 0.2 0.4", "class nan"),
            ("0 50 25 20 20", "is not normalised"),
            ("0 nan 0.5 0.2 0.4", "is not normalised"),
            ("0 inf 0.5 0.2 0.4", "is not normalised"),
            ("0 0.5 -0.5 0.2 0.4", "is not normalised"),
            ("0 0.5 0.5 0 0.4", "a box without area"),
            ("0 1.005 0.5 0.004 0.4", "a box without area"),
        ],
    )
    def test_a_broken_line_is_named_and_skipped(self, home: Path, line: str, reason: str) -> None:
        dataset = self.read(home, f"{SOUND}\n{line}\n1 0.5 0.5 1 1\n")
        assert dataset.images[0].label.tolist() == [0, 1]
        assert len(dataset.problems) == 1
        assert dataset.problems[0].startswith("a.txt of images/train/a.jpg: 1 broken line skipped (line 2: ")
        assert re.search(reason, dataset.problems[0])

    def test_many_are_counted(self, home: Path) -> None:
        dataset = self.read(home, "\n".join([SOUND, *(f"{label} 0.5 0.5 0.2 0.4" for label in range(7, 12))]))
        (problem,) = dataset.problems
        assert "5 broken lines skipped (line 2: class 7" in problem
        assert problem.endswith("; and 2 more).")
        assert "class 10" not in problem

    def test_an_image_without_a_sound_line_is_no_background(self, home: Path) -> None:
        dataset = self.read(home, "9 0.5 0.5 0.2 0.4\n")
        assert "images/train/a.jpg" not in keys(dataset)
        assert len(dataset) == 2
        assert "the image left out, because no line is sound" in dataset.problems[0]

    def test_boxes_are_cut_at_the_edge(self, home: Path) -> None:
        dataset = self.read(home, "0 0.0 0.5 0.2 2e-1\n1.0 1.0 1.0 0.5 1.0000001\n")
        np.testing.assert_allclose(dataset.images[0].xyxy, [[0, 20, 10, 30], [75, 25, 100, 50]], atol=1e-4)
        assert dataset.images[0].label.tolist() == [0, 1]
        assert dataset.problems == ()

    def test_polygons_become_boxes(self, home: Path) -> None:
        dataset = self.read(home, "1 0.2 0.4 0.6 0.5 0.3 0.8\n")
        np.testing.assert_allclose(dataset.images[0].xyxy, [[20, 20, 60, 40]], atol=1e-4)

    def test_key_points_are_passed_over(self, home: Path) -> None:
        put_text(home / "data.yaml", f"{YAML}kpt_shape: [1, 3]\n")
        dataset = self.read(home, f"{SOUND} 0.9 0.9 2\n0 0.5 0.5 0.2\n")
        np.testing.assert_allclose(dataset.images[0].xyxy, [[40, 15, 60, 35]], atol=1e-4)
        assert "line 2: 4 values" in dataset.problems[0]

    def test_repeated_lines_count_once(self, home: Path) -> None:
        dataset = self.read(home, f"{SOUND}\n{SOUND}\n{SOUND}\n")
        assert dataset.num_boxes == 1
        assert dataset.problems == ("a.txt of images/train/a.jpg: 2 repeated lines skipped.",)

    def test_a_byte_order_mark_and_windows_lines(self, home: Path) -> None:
        dataset = self.read(home, f"\ufeff{SOUND}\r\n1 0.5 0.5 1 1\r\n")
        assert (dataset.num_boxes, dataset.problems) == (2, ())

    def test_labels_that_are_not_text(self, home: Path) -> None:
        (home / "labels/train/a.txt").write_bytes(b"\xff\xfe\x00")
        dataset = read_yolo(home / "data.yaml", "train")
        assert len(dataset) == 2
        assert "labels in a.txt cannot be read" in dataset.problems[0]

    def test_an_unreadable_image_is_named_and_left_out(self, home: Path) -> None:
        put_text(home / "images/train/a.jpg", "no image")
        dataset = read_yolo(home / "data.yaml", "train")
        assert len(dataset) == 2
        assert dataset.problems[0].startswith("images/train/a.jpg: left out. The file 'a.jpg' is")


class TestWrite:
    def test_there_and_back(self, tmp_path: Path) -> None:
        reef = write_reef(tmp_path / "reef", 6, seed=1, size=(60, 80))
        again = read_yolo(write_yolo(reef, tmp_path / "out"), "train")
        assert (again.classes, again.problems) == (SPECIES, ())
        assert keys(again) == [f"images/train/{image.key}.jpg" for image in reef.images]
        assert again.num_boxes == reef.num_boxes > 0
        for one, other in zip(reef.images, again.images, strict=True):
            np.testing.assert_allclose(other.xyxy, one.xyxy, atol=1e-4)
            np.testing.assert_array_equal(other.label, one.label)
            assert other.path.read_bytes() == one.path.read_bytes()

    def test_splits_side_by_side_and_written_twice(self, tmp_path: Path) -> None:
        reef = write_reef(tmp_path / "reef", 6, seed=1, size=(60, 80))
        train, val = (DetectionDataset(SPECIES, reef.images[part]) for part in (slice(0, 4), slice(4, 6)))
        write_yolo(train, tmp_path / "out")
        write_yolo(val, tmp_path / "out", split="val")
        data_yaml = write_yolo(DetectionDataset(SPECIES, reef.images[:2]), tmp_path / "out")
        assert [len(read_yolo(data_yaml, split)) for split in ("train", "val")] == [2, 2]

    def test_keys_of_any_kind(self, tmp_path: Path) -> None:
        path = put_image(tmp_path / "x.png")
        box, label = np.array([[40, 15, 60, 35]], np.float32), np.array([0])
        names = ["s3://b/a b.png", "s3://b/a_b", "..", "12", "S3_B_A_B", "übergröße"]
        dataset = DetectionDataset(("no",), [LabelledImage(name, path, box, label) for name in names])
        again = read_yolo(write_yolo(dataset, tmp_path / "out"), "train")
        assert (len(again), again.num_boxes, again.classes) == (6, 6, ("no",))
        assert all(image.path.parent == tmp_path / "out/images/train" for image in again.images)

    def test_sideways_pictures_keep_their_boxes(self, tmp_path: Path) -> None:
        path = put_image(tmp_path / "x.jpg", orientation=8)
        image = LabelledImage("1", path, np.array([[10, 60, 50, 100]], np.float32), np.array([0]))
        again = read_yolo(write_yolo(DetectionDataset(("a",), [image]), tmp_path / "out"), "train")
        np.testing.assert_allclose(again.images[0].xyxy, image.xyxy, atol=1e-4)

    def test_nothing(self, tmp_path: Path) -> None:
        again = read_yolo(write_yolo(DetectionDataset(("a",), []), tmp_path / "out"), "train")
        assert (len(again), again.classes) == (0, ("a",))

    def test_other_classes_are_refused(self, tmp_path: Path) -> None:
        write_yolo(DetectionDataset(("a",), []), tmp_path)
        with pytest.raises(DatasetUnreadable, match="describes other classes than b"):
            write_yolo(DetectionDataset(("b",), []), tmp_path, split="val")

    def test_a_missing_image_leaves_no_description(self, tmp_path: Path) -> None:
        image = LabelledImage("1", tmp_path / "gone.jpg", np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
        with pytest.raises(ImageUnreadable, match=r"gone\.jpg"):
            write_yolo(DetectionDataset(("a",), [image]), tmp_path / "out")
        assert not (tmp_path / "out" / "data.yaml").exists()
