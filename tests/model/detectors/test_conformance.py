"""What every detector must do, whatever its architecture: one suite for all adapters."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from model.data.dataset import DetectionDataset, LabelledImage
from model.detections import Detections
from model.detectors import factory
from model.detectors.base import Detector, View
from model.errors import NotEnoughLabels, TrainingCancelled
from model.images import load_image
from model.training.config import Progress, TrainingConfig

Noise = Callable[..., NDArray[np.uint8]]
Make = Callable[..., Detector]

ARCHITECTURES = [
    "yolov5n",
    pytest.param("ssd300_vgg16", marks=pytest.mark.slow),
    "ssdlite320_mobilenet_v3_large",
    pytest.param("fasterrcnn_resnet50_fpn_v2", marks=pytest.mark.slow),
    "fasterrcnn_mobilenet_v3_large_fpn",
]
SHORT = TrainingConfig(iterations=2, batch_size=2, workers=0, mixed_precision=False)
BOTH = (View.ORIGINAL, View.HFLIP)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def make(architecture: str, lively: Make, lively_torchvision: Make) -> Make:
    """Makes an untrained detector that nevertheless finds boxes; every class list once, so leave it as it is."""

    @cache
    def cached(classes: tuple[str, ...] = ("cod", "eel", "wrasse")) -> Detector:
        if architecture == "yolov5n":
            return lively(classes, image_size=64)
        return lively_torchvision(architecture, classes, image_size=64)

    return cached


def first(detector: Detector, image: NDArray[np.uint8], min_score: float = 0.05) -> Detections:
    return detector.predict([image], min_score=min_score)[0][View.ORIGINAL]


def assert_same(a: Detections, b: Detections, atol: float = 5e-3) -> None:
    """The same boxes up to rounding, in any order.

    An untrained network magnifies the last bit, so of hundreds of boxes on top of each other 2 % may lose a
    comparison that another run wins; with fewer than 50 boxes all have to agree.
    """
    assert (a.height, a.width) == (b.height, b.width)
    assert abs(len(a) - len(b)) <= len(a) // 50
    fields = ("xyxy", "score", "probs", "side_std", "embedding")
    pairs = [(getattr(a, name), getattr(b, name)) for name in fields]
    assert all((one is None) == (other is None) for one, other in pairs)
    free = np.ones(len(b), np.bool_)
    for index in range(len(a)):
        same = free & (b.label == a.label[index])
        for one, other in pairs:
            if one is not None and other is not None:
                wide = other.reshape(len(b), -1)
                same &= np.isclose(wide, one[index].reshape(1, -1), atol=atol, rtol=1e-3).all(axis=1)
        if same.any():
            free[same.argmax()] = False
    assert free.sum() <= len(a) // 50
    assert a.image_embedding is not None
    np.testing.assert_allclose(a.image_embedding, b.image_embedding, atol=atol, rtol=1e-3)  # type: ignore[arg-type]


def mirrored(found: Detections) -> NDArray[np.float32]:
    return np.stack(
        [found.width - found.xyxy[:, 2], found.xyxy[:, 1], found.width - found.xyxy[:, 0], found.xyxy[:, 3]], axis=1
    )


@pytest.mark.parametrize("shape", [(64, 64), (50, 90), (90, 50), (200, 130), (20, 300)])
def test_every_field_of_images_of_any_shape(make: Make, noise: Noise, shape: tuple[int, int]) -> None:
    found = first(make(), noise(*shape))
    n = len(found)
    assert n > 0
    assert (found.height, found.width) == shape
    assert found.probs.shape == (n, 4)
    np.testing.assert_allclose(found.probs.sum(axis=1), 1, atol=1e-5)
    assert (found.probs >= 0).all()
    np.testing.assert_array_equal(found.probs[:, :-1].argmax(axis=1), found.label)
    assert ((found.score >= 0.05) & (found.score <= 1)).all()
    assert (np.diff(found.score) <= 0).all()
    assert (found.xyxy[:, 2:] > found.xyxy[:, :2]).all()
    assert (found.xyxy >= 0).all()
    assert (found.xyxy <= [shape[1], shape[0]] * 2).all()
    # Boxes use the whole image, not the network's canvas.
    assert found.xyxy[:, 2].max() > 0.6 * shape[1]
    assert found.xyxy[:, 3].max() > 0.6 * shape[0]
    assert found.embedding is not None
    assert found.embedding.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found.embedding, axis=1), 1, atol=1e-4)
    assert found.image_embedding is not None
    assert found.image_embedding.ndim == 1
    assert np.isfinite(found.image_embedding).all()


def test_no_box_comes_twice(make: Make, noise: Noise) -> None:
    """A proposal or anchor that survives under several classes would be counted several times by every score."""
    found = first(make(), noise(72, 96), 0.01)
    rows = np.concatenate([found.xyxy, found.probs], axis=1)
    assert len(np.unique(rows, axis=0)) == len(found) > 1


def test_embeddings_say_where_a_box_is(make: Make, noise: Noise) -> None:
    embedding = first(make(), noise(64, 64)).embedding
    assert embedding is not None
    assert len(np.unique(embedding.round(4), axis=0)) > 1


def test_exif_rotation_comes_back_in_upright_coordinates(make: Make, noise: Noise, tmp_path: Path) -> None:
    upright = noise(40, 64)
    stored = Image.fromarray(np.rot90(upright, 1).copy())  # orientation 6: turn by 90 degrees clockwise to view
    exif = stored.getexif()
    exif[0x0112] = 6
    stored.save(tmp_path / "turned.png", exif=exif)
    loaded = load_image(tmp_path / "turned.png")
    assert loaded.shape == (40, 64, 3)
    assert_same(first(make(), loaded), first(make(), upright))


def test_nothing_to_predict(make: Make, noise: Noise) -> None:
    assert make().predict([]) == []
    with pytest.raises(ValueError, match="at least one view"):
        make().predict([noise(10, 10)], ())


def test_an_image_in_which_nothing_is_found(make: Make, noise: Noise) -> None:
    found = first(make(), noise(40, 64), 1.0)
    assert found.xyxy.shape == (0, 4)
    assert found.probs.shape == (0, 4)
    assert found.image_embedding is not None
    full = first(make(), noise(40, 64))
    assert found.embedding is not None
    assert full.embedding is not None
    assert found.embedding.shape == (0, full.embedding.shape[1])


@pytest.mark.parametrize("shape", [(1, 1), (1, 200), (200, 1)])
def test_very_small_images(make: Make, shape: tuple[int, int]) -> None:
    found = first(make(), np.full((*shape, 3), 90, np.uint8))
    assert (found.height, found.width) == shape
    assert np.isfinite(found.xyxy).all()


@pytest.mark.parametrize("count", [1, 80])
def test_one_and_many_classes(make: Make, noise: Noise, count: int) -> None:
    found = first(make(tuple(f"c{i}" for i in range(count))), noise(50, 64), 0.01)
    assert len(found) > 0
    assert found.probs.shape == (len(found), count + 1)
    np.testing.assert_allclose(found.probs.sum(axis=1), 1, atol=1e-5)


def test_a_detector_without_classes_finds_nothing(architecture: str, noise: Noise) -> None:
    detector = factory.create(architecture, (), image_size=64, device="cpu")
    views = detector.predict([noise(50, 60)], BOTH)[0]
    assert [len(views[view]) for view in BOTH] == [0, 0]


def test_a_batch_equals_one_by_one(make: Make, noise: Noise) -> None:
    images = [noise(48, 64, 1), noise(64, 48, 2), noise(48, 64, 3), noise(100, 150, 4), noise(31, 90, 5)]
    images.append(np.full((48, 64, 3), 114, np.uint8))
    together = make().predict(images, min_score=0.1)
    assert len(together) == len(images)
    for image, views in zip(images, together, strict=True):
        assert_same(views[View.ORIGINAL], first(make(), image, 0.1))


def test_the_flipped_view_is_mapped_back(make: Make, noise: Noise) -> None:
    """64 x 64 needs neither resizing nor padding in YOLO, where flipping before or after padding is not the same."""
    image = noise(64, 64)
    views = make().predict([image], BOTH)[0]
    assert_same(views[View.ORIGINAL], first(make(), image))
    flipped = first(make(), image[:, ::-1].copy())
    assert len(flipped) > 0
    found = views[View.HFLIP]
    assert_same(found, replace(flipped, xyxy=mirrored(flipped), side_std=swapped(flipped)))


def swapped(found: Detections) -> NDArray[np.float32] | None:
    return None if found.side_std is None else found.side_std[:, [2, 1, 0, 3]]


def test_a_symmetric_image_gives_mirrored_views(make: Make, noise: Noise) -> None:
    half = noise(70, 45)
    image = np.concatenate([half, half[:, ::-1]], axis=1)
    views = make().predict([image], (View.HFLIP, View.ORIGINAL), min_score=0.1)[0]
    assert list(views) == [View.HFLIP, View.ORIGINAL]
    original, flip = views[View.ORIGINAL], views[View.HFLIP]
    assert len(original) == len(flip) > 0
    assert original.width == flip.width == 90
    np.testing.assert_allclose(np.sort(original.xyxy, axis=0), np.sort(mirrored(flip), axis=0), atol=0.5)


def test_copies_of_images_of_different_shapes_come_together_as_one_by_one(make: Make, noise: Noise) -> None:
    images = [noise(64, 64), noise(40, 80), noise(64, 64)]
    together = make().predict(images, tuple(View))
    for image, views in zip(images, together, strict=True):
        assert list(views) == list(View)
        alone = make().predict([image], tuple(View))[0]
        for view in (View.HFLIP, View.SMALLER, View.TURNED):
            assert_same(views[view], alone[view])
            assert len(views[view]) > 0
            assert (views[view].height, views[view].width) == image.shape[:2]


def test_all_views_and_fields_come_from_one_pass(make: Make, noise: Noise) -> None:
    detector: Any = make()
    yolo = detector.architecture == "yolov5n"
    passes: list[int] = []
    first_part = detector._inference_network().model[0] if yolo else detector.network.backbone
    hook = first_part.register_forward_hook(lambda module, inputs, output: passes.append(len(inputs[0])))
    try:
        both = detector.predict([noise(64, 64, 1), noise(64, 64, 2)], BOTH)
    finally:
        hook.remove()
    assert passes == [4]
    found = [views[view] for views in both for view in BOTH]
    assert all(len(one) and one.embedding is not None and one.image_embedding is not None for one in found)


FRESH_PROCESS = """
import sys
from pathlib import Path
import numpy as np
from model.detectors import factory
from model.detectors.base import View
folder = Path(sys.argv[1])
detector = factory.load(folder, device="cpu")
found = detector.predict([np.load(folder / "image.npy")])[0][View.ORIGINAL]
names = ["xyxy", "score", "label", "probs", "embedding", "image_embedding", "side_std"]
np.savez(folder / "found.npz", **{n: getattr(found, n) for n in names if getattr(found, n) is not None})
"""


def test_saved_and_loaded_in_a_fresh_process(make: Make, architecture: str, noise: Noise, tmp_path: Path) -> None:
    detector, image = make(), noise(50, 90)
    detector.save(tmp_path)
    np.save(tmp_path / "image.npy", image)
    assert {p.name for p in tmp_path.iterdir()} == {"weights.safetensors", "detector.json", "image.npy"}
    document = json.loads((tmp_path / "detector.json").read_text())
    assert (document["architecture"], document["classes"]) == (architecture, ["cod", "eel", "wrasse"])
    assert document["image_size"] == detector.image_size
    subprocess.run([sys.executable, "-c", FRESH_PROCESS, str(tmp_path)], check=True, timeout=120)
    found = first(detector, image)
    assert len(found) > 0
    with np.load(tmp_path / "found.npz") as there:
        assert ("side_std" in there) == (found.side_std is not None)
        for name in there:
            np.testing.assert_allclose(there[name], getattr(found, name), atol=1e-3, rtol=1e-4, err_msg=name)


# ------------------------------------------------------------------ training


Squares = Callable[..., DetectionDataset]


@pytest.fixture(name="squares")
def squares_fixture(tmp_path: Path) -> Squares:
    def squares(classes: tuple[str, ...] = ("red", "blue"), count: int = 4, shape: tuple[int, int] = (48, 80)) -> Any:
        """One coloured square in each image, except in the last."""
        rng = np.random.default_rng(0)
        images = []
        for index in range(count):
            pixels = rng.integers(90, 130, (*shape, 3)).astype(np.uint8)
            x, y = int(rng.integers(0, shape[1] - 24)), int(rng.integers(0, shape[0] - 24))
            pixels[y : y + 24, x : x + 24] = ((220, 40, 40), (40, 60, 220))[index % 2]
            path = tmp_path / f"{index}.png"
            Image.fromarray(pixels).save(path)
            boxes = np.array([[x, y, x + 24, y + 24]] if index < count - 1 else [], np.float32).reshape(-1, 4)
            label = np.full(len(boxes), index % 2 % len(classes), np.int64)
            images.append(LabelledImage(str(index), path, boxes, label))
        return DetectionDataset(classes, images)

    return squares


def known(architecture: str, folder: Path, make: Make) -> Detector:
    """A detector of its own that may be changed."""
    make().save(folder / "known")
    return factory.load(folder / "known", device="cpu")


def tensors(detector: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in detector.tensors().items()}


def class_rows(detector: Any) -> torch.Tensor:
    """Weights of the class layers by class, shape (C, anything), without background."""
    if detector.architecture == "yolov5n":
        return torch.cat([branch[-1].weight.flatten(1) for branch in detector._network.model[-1].cv3], dim=1)
    count, columns = len(detector.classes) + 1, []
    for layer in detector._family.class_layers(detector.network):
        # SSD has a row for every anchor and class, Faster R-CNN one or four for every class.
        groups = -1 if detector._family.name == "ssd" else 1
        by_class = layer.weight.reshape(groups, count, *([-1] if groups == 1 else layer.weight.shape[1:]))
        columns.append(by_class.transpose(0, 1).flatten(1))
    return torch.cat([column[1:] for column in columns], dim=1)


def test_two_steps_of_training(make: Make, architecture: str, squares: Squares, tmp_path: Path, noise: Noise) -> None:
    detector = known(architecture, tmp_path, make)
    seen: list[Progress] = []
    report = detector.fit(squares(), None, SHORT, seen.append)
    assert [p.iteration for p in seen] == [1, 2]
    assert report.iterations == 2
    assert np.isfinite(report.first_loss)
    assert report.first_loss > 0
    assert detector.classes == ("red", "blue")
    found = first(detector, noise(40, 64), 0.0)
    assert found.num_classes == 2
    assert np.isfinite(found.probs).all()


def test_the_best_weights_on_the_validation_images_are_kept(
    make: Make, architecture: str, squares: Squares, tmp_path: Path
) -> None:
    detector = known(architecture, tmp_path, make)
    report = detector.fit(squares(), squares(), replace(SHORT, evaluate_every=1))
    assert [step for step, _ in report.evaluations] == [1, 2]
    best = max(quality for _, quality in report.evaluations if quality is not None)
    assert report.kept_iteration is not None
    assert dict(report.evaluations)[report.kept_iteration] == best


def test_kept_classes_keep_their_weights(make: Make, architecture: str, squares: Squares, tmp_path: Path) -> None:
    detector = known(architecture, tmp_path, make)
    before = class_rows(detector).detach().clone()
    still = replace(SHORT, iterations=1, learning_rate=0.0)
    detector.fit(squares(("wrasse", "ray", "cod")), None, still)
    after = class_rows(detector)
    assert after.shape == before.shape
    torch.testing.assert_close(after[0], before[2])
    torch.testing.assert_close(after[2], before[0])
    assert not torch.allclose(after[1], before[1])


def test_frozen_blocks_stay_as_they_were(make: Make, architecture: str, squares: Squares, tmp_path: Path) -> None:
    detector = known(architecture, tmp_path, make)
    before = tensors(detector)
    report = detector.fit(squares(("cod", "eel", "wrasse")), None, replace(SHORT, freeze=2))
    assert report.frozen_blocks == 2
    changed = {name for name, value in tensors(detector).items() if not torch.equal(value, before[name])}
    assert changed
    leading = {
        "yolov5n": ("model.0.", "model.1."),
        "ssd300_vgg16": tuple(f"backbone.features.{layer}." for layer in range(10)),
        "ssdlite320_mobilenet_v3_large": ("backbone.features.0.0.", "backbone.features.0.1."),
        "fasterrcnn_resnet50_fpn_v2": ("backbone.body.conv1.", "backbone.body.bn1.", "backbone.body.layer1."),
        "fasterrcnn_mobilenet_v3_large_fpn": ("backbone.body.0.", "backbone.body.1."),
    }[architecture]
    assert not [name for name in changed if name.startswith(leading)]
    assert any(name.startswith(("backbone.", "model.2.")) for name in changed)


def test_same_seed_same_weights(make: Make, architecture: str, squares: Squares, tmp_path: Path) -> None:
    data = squares()
    one, again = (known(architecture, tmp_path, make) for _ in range(2))
    one.fit(data, None, SHORT)
    again.fit(data, None, SHORT)
    other = tensors(again)
    for name, value in tensors(one).items():
        assert torch.equal(value, other[name]), name


def test_a_cancelled_training_leaves_the_detector_as_it_was(
    make: Make, architecture: str, squares: Squares, tmp_path: Path
) -> None:
    detector = known(architecture, tmp_path, make)
    before = tensors(detector)

    def stop(progress: Progress) -> None:
        raise TrainingCancelled("asked to stop")

    with pytest.raises(TrainingCancelled):
        detector.fit(squares(), None, SHORT, stop)
    assert detector.classes == ("cod", "eel", "wrasse")
    for name, value in tensors(detector).items():
        assert torch.equal(value, before[name]), name


def test_no_box_is_not_enough(make: Make, squares: Squares) -> None:
    data = squares(count=1)
    assert data.num_boxes == 0
    with pytest.raises(NotEnoughLabels, match="1 training images with no box"):
        make().fit(data, None, SHORT)
