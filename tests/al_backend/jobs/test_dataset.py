"""Labels of a project as a data set, with real image files."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from al_backend.cycle import is_validation
from al_backend.errors import ImageUnavailable
from al_backend.jobs.dataset import ProjectLabels, read_labels
from al_backend.jobs.kept_images import KeptImages
from al_backend.labelstudio.codec import label_digest
from al_backend.labelstudio.images import ImageSource
from al_backend.labelstudio.labeling_config import LabelingConfig
from al_backend.labelstudio.records import LabelledTask
from al_backend.settings import load_settings
from model.data.dataset import LabelledImage

CONFIG = LabelingConfig("label", "image", "photo", ("cod", "eel"))


@pytest.fixture
def images(tmp_path: Path) -> Iterator[ImageSource]:
    source = ImageSource(None, load_settings(data_dir=tmp_path), tmp_path / "images")
    yield source
    source.close()


def picture(width: int = 40, height: int = 20, *, orientation: int = 1) -> str:
    """An image as a task may carry it itself."""
    buffer = io.BytesIO()
    image = Image.new("RGB", (width, height))
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(buffer, "JPEG", exif=exif)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def region(label: str, x: float, y: float, width: float, height: float) -> dict[str, Any]:
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": 0, "rectanglelabels": [label]}
    return {"type": "rectanglelabels", "from_name": "label", "to_name": "image", "value": value}


def annotation(*regions: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"id": 1, "result": list(regions), "updated_at": "2026-01-01T00:00:00Z", **fields}


def task(number: int, *annotations: dict[str, Any], **data: Any) -> LabelledTask:
    return LabelledTask(number, data or {"photo": picture()}, annotations)


def read(images: ImageSource, *tasks: LabelledTask, share: float = 0.2) -> ProjectLabels:
    return read_labels(tasks, CONFIG, images, validation_share=share, seed=0)


def every(labels: ProjectLabels) -> dict[str, LabelledImage]:
    return {image.key: image for image in (*labels.train.images, *labels.validation.images)}


def problems(labels: ProjectLabels) -> list[str]:
    return [*labels.train.problems, *labels.validation.problems]


def test_no_tasks_are_no_labels(images: ImageSource) -> None:
    labels = read(images)
    assert (dict(labels.digests), len(labels.train), len(labels.validation)) == ({}, 0, 0)
    assert labels.train.classes == labels.validation.classes == ("cod", "eel")


def test_regions_become_boxes_in_pixels_and_labels_in_the_configs_order(images: ImageSource) -> None:
    first = annotation(region("eel", 0, 0, 50, 50), region("cod", 25, 10, 25, 40))
    labels = read(images, task(5, first))
    image = every(labels)["5"]
    np.testing.assert_allclose(image.xyxy, [[0, 0, 20, 10], [10, 2, 20, 10]], atol=1e-4)
    assert image.xyxy.dtype == np.float32
    assert image.label.tolist() == [1, 0]
    assert Image.open(image.path).size == (40, 20)
    assert labels.digests == {5: label_digest(first)}
    assert problems(labels) == []


def test_boxes_are_those_of_the_upright_image(images: ImageSource) -> None:
    """Orientation 6 shows a file of 40 x 20 pixels as one of 20 x 40, and annotators draw on what they see."""
    turned = task(5, annotation(region("cod", 50, 50, 50, 50)), photo=picture(40, 20, orientation=6))
    np.testing.assert_allclose(every(read(images, turned))["5"].xyxy, [[10, 20, 20, 40]], atol=1e-4)


def test_a_submitted_annotation_without_boxes_is_an_image_without_objects(images: ImageSource) -> None:
    labels = read(images, task(5, annotation()))
    assert every(labels)["5"].xyxy.shape == (0, 4)
    assert labels.digests == {5: label_digest(annotation())}


def test_a_skipped_task_is_no_label(images: ImageSource) -> None:
    labels = read(images, task(5, annotation(was_cancelled=True)))
    assert (every(labels), dict(labels.digests)) == ({}, {})


def test_the_ground_truth_then_the_newest_annotation_counts(images: ImageSource) -> None:
    old = annotation(region("cod", 0, 0, 50, 50), id=1)
    new = annotation(region("eel", 0, 0, 50, 50), id=2, updated_at="2026-01-02T00:00:00Z")
    assert every(read(images, task(5, new, old)))["5"].label.tolist() == [1]
    assert every(read(images, task(5, new, old | {"ground_truth": True})))["5"].label.tolist() == [0]


def test_a_label_that_the_config_lacks_is_left_out_and_named(images: ImageSource) -> None:
    labels = read(images, task(5, annotation(region("shark", 0, 0, 50, 50), region("cod", 0, 0, 50, 50))))
    assert every(labels)["5"].label.tolist() == [0]
    (problem,) = problems(labels)
    assert problem.startswith("Task 5: ")
    assert "'shark'" in problem


def test_an_image_whose_boxes_are_all_broken_is_no_background(images: ImageSource) -> None:
    broken = region("cod", 0, 0, float("nan"), 50)
    turned = region("eel", 0, 0, 50, 50) | {"image_rotation": 90}
    labels = read(
        images,
        task(5, annotation(broken, turned)),
        task(6, annotation(broken, region("eel", 0, 0, 50, 50))),
        # Of a class that is no longer asked for: without objects of those that are.
        task(7, annotation(region("shark", 0, 0, 50, 50))),
        share=0.0,
    )
    assert {key: len(image.label) for key, image in every(labels).items()} == {"6": 1, "7": 0}
    assert 5 in labels.digests
    sentences = [problem for problem in problems(labels) if problem.startswith("Task 5: ")]
    assert len(sentences) == 3
    assert sentences[-1] == "Task 5: left out, because none of its 2 boxes can be used."


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"photo": "data:image/png;base64," + base64.b64encode(b"no image").decode()}, "an image"),
        ({"photo": "http://127.0.0.1:9/a.jpg"}, "AL_IMAGE_HOSTS"),
        ({"picture": "a.jpg"}, "its data names no image under 'photo'"),
        ({"photo": ""}, "its data names no image under 'photo'"),
        ({"photo": ["a.jpg", "b.jpg"]}, "its data names no image under 'photo'"),
    ],
)
def test_an_image_that_cannot_be_had_is_left_out_and_named_and_still_a_label_that_was_seen(
    images: ImageSource, data: dict[str, Any], reason: str
) -> None:
    """Otherwise its label would count as new for ever, and start one training after the other."""
    bad, good = annotation(region("cod", 0, 0, 50, 50)), annotation(region("eel", 0, 0, 50, 50))
    labels = read(images, task(5, bad, **data), task(6, good))
    assert every(labels).keys() == {"6"}
    assert labels.digests == {5: label_digest(bad), 6: label_digest(good)}
    (problem,) = problems(labels)
    assert problem.startswith("Task 5: ")
    assert reason in problem


def test_tasks_are_held_out_by_their_id_with_their_problems(images: ImageSource) -> None:
    shark = annotation(region("shark", 0, 0, 50, 50))
    labels = read(images, *(task(number, shark) for number in range(1, 41)), share=0.3)
    held_out = {str(number) for number in range(1, 41) if is_validation(number, 0.3, 0)}
    assert {image.key for image in labels.validation.images} == held_out
    assert {image.key for image in labels.train.images} == {str(number) for number in range(1, 41)} - held_out
    assert len(labels.validation.problems) == len(held_out)
    assert len(labels.train.problems) == 40 - len(held_out)
    again = read(images, *(task(number, shark) for number in range(1, 31)), share=0.3)
    assert {image.key for image in again.validation.images} == {key for key in held_out if int(key) <= 30}


def test_progress_reaches_the_number_of_tasks(images: ImageSource) -> None:
    seen: list[tuple[int, int]] = []
    tasks = [task(number, annotation(), photo="") for number in range(1, 71)]
    read_labels(
        tasks,
        CONFIG,
        images,
        validation_share=0.2,
        seed=0,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(64, 70), (70, 70)]


def test_images_stay_where_they_are_kept_when_the_cache_drops_them(images: ImageSource, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    labels = read_labels(
        [task(5, annotation(region("cod", 0, 0, 50, 50)))],
        CONFIG,
        images,
        validation_share=0,
        seed=0,
        kept=KeptImages(folder),
    )
    shutil.rmtree(tmp_path / "images")
    (image,) = labels.train.images
    assert image.path == folder / f"5{image.path.suffix}"
    assert Image.open(image.path).size == (40, 20)


class CacheWithoutRoom:
    """An image source whose files vanish before they can be used."""

    def fetch_many(self, items: Any) -> dict[int, Path]:
        return {number: Path("/nonexistent/a.png") for number, _ in items}


def test_a_label_whose_image_left_the_cache_before_it_was_kept_stays_to_be_used(tmp_path: Path) -> None:
    source: Any = CacheWithoutRoom()
    kept = KeptImages(tmp_path)
    labels = read_labels([task(5, annotation())], CONFIG, source, validation_share=0.2, seed=0, kept=kept)
    assert labels.used == {}
    assert problems(labels) == ["Task 5: The cache had no room for its image (AL_CACHE_MB)."]


class ServerAway:
    """An image source whose server may be away for good or for a moment."""

    def __init__(self, *, passing: bool) -> None:
        self._passing = passing

    def fetch_many(self, items: Any) -> dict[int, ImageUnavailable]:
        return {number: ImageUnavailable("answered 500.", passing=self._passing) for number, _ in items}


@pytest.mark.parametrize("passing", [True, False])
def test_a_label_whose_image_is_away_for_a_moment_stays_to_be_used(passing: bool) -> None:
    source: Any = ServerAway(passing=passing)
    labels = read_labels([task(5, annotation())], CONFIG, source, validation_share=0.2, seed=0)
    assert set(labels.digests) == {5}
    assert set(labels.used) == (set() if passing else {5})
    assert problems(labels) == ["Task 5: answered 500."]
