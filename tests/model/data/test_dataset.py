from __future__ import annotations

from collections.abc import Sequence
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest

from model.data.dataset import DetectionDataset, LabelledImage


def image(key: str, *labels: int) -> LabelledImage:
    """An image with a box of each label; its file does not exist, because a data set is no pixels."""
    boxes = np.array([[i, i, i + 10, i + 10] for i in range(len(labels))], np.float32).reshape(-1, 4)
    return LabelledImage(key, Path("nowhere") / f"{key}.png", boxes, np.array(labels, np.int64))


def keys(dataset: DetectionDataset) -> list[str]:
    return [one.key for one in dataset.images]


@pytest.fixture(name="dataset")
def dataset_fixture() -> DetectionDataset:
    images = [image("c", 0, 0, 2), image("a"), image("b", 2)]
    return DetectionDataset(("cod", "eel", "perch"), images, ("d.png: left out",))


def test_counts(dataset: DetectionDataset) -> None:
    assert (len(dataset), dataset.num_boxes) == (3, 4)
    counts = dataset.class_counts()
    assert counts.tolist() == [2, 0, 2]
    assert counts.dtype == np.int64


@pytest.mark.parametrize("images", [[], [image("a")], [image("a"), image("b")]])
def test_counts_without_boxes(images: Sequence[LabelledImage]) -> None:
    dataset = DetectionDataset(("cod", "eel"), images)
    assert (len(dataset), dataset.num_boxes, dataset.class_counts().tolist()) == (len(images), 0, [0, 0])
    assert dataset.problems == ()


def test_no_classes_and_no_images() -> None:
    dataset = DetectionDataset((), [])
    assert (len(dataset), dataset.num_boxes, dataset.class_counts().tolist()) == (0, 0, [])


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [(["b", "c"], ["c", "b"]), (["b", "unknown", "b"], ["b"]), ([], []), (["a", "b", "c"], ["c", "a", "b"])],
)
def test_subset_keeps_the_order_of_the_data_set(
    dataset: DetectionDataset, wanted: list[str], expected: list[str]
) -> None:
    part = dataset.subset(iter(wanted))
    assert keys(part) == expected
    assert part.classes == dataset.classes
    assert len(dataset) == 3


def test_the_digest_tells_data_sets_apart(dataset: DetectionDataset) -> None:
    images = dataset.images
    assert dataset.digest() == DetectionDataset(dataset.classes, list(images)).digest()
    moved = replace(images[2], xyxy=images[2].xyxy + 1)
    other_label = replace(images[2], label=images[2].label - 1)
    renamed = replace(images[2], key="x")
    others = [
        DetectionDataset(("cod", "eel", "bass"), images),
        DetectionDataset(dataset.classes, images[:2]),
        DetectionDataset(dataset.classes, [images[1], images[0], images[2]]),
        *(DetectionDataset(dataset.classes, [*images[:2], last]) for last in (moved, other_label, renamed)),
    ]
    assert len({dataset.digest(), *(other.digest() for other in others)}) == 7


def test_nothing_can_be_replaced(dataset: DetectionDataset) -> None:
    with pytest.raises(FrozenInstanceError):
        dataset.classes = ("cod",)  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        dataset.images[0].key = "other"  # type: ignore[misc]


def test_class_names_are_unique() -> None:
    with pytest.raises(ValueError, match=r"class names must be unique, found \('cod', 'eel', 'cod'\)"):
        DetectionDataset(("cod", "eel", "cod"), [])


@pytest.mark.parametrize("labels", [(3,), (-1,), (0, 3), (-1, 2)])
def test_labels_belong_to_the_classes(labels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^x: a label lies outside the 3 classes"):
        DetectionDataset(("cod", "eel", "perch"), [image("fine", 2), image("x", *labels)])


def test_a_label_without_classes() -> None:
    with pytest.raises(ValueError, match="outside the 0 classes"):
        DetectionDataset((), [image("x", 0)])


@pytest.mark.parametrize(
    ("shape", "labels"), [((2, 4), 1), ((0, 4), 1), ((1, 4), 0), ((1, 5), 1), ((4,), 1), ((0,), 0)]
)
def test_boxes_and_labels_go_together(shape: tuple[int, ...], labels: int) -> None:
    with pytest.raises(ValueError, match=rf"^x: boxes have shape .*, expected \({labels}, 4\)"):
        LabelledImage("x", Path("x.png"), np.zeros(shape, np.float32), np.zeros(labels, np.int64))
