from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from model.detectors import factory
from model.detectors.base import View
from model.detectors.weights import read_weights, write_weights
from model.detectors.yolo import YoloDetector
from model.detectors.yolo_network import PARAMETERS, build, check_size, network_description, set_classes
from model.errors import WeightsRefused

Make = Callable[..., YoloDetector]
Noise = Callable[..., NDArray[np.uint8]]


@pytest.fixture
def saved(lively: Make, tmp_path: Path) -> Path:
    lively(("cod", "eel")).save(tmp_path / "version")
    return tmp_path / "version"


def class_rows(detector: object) -> torch.Tensor:
    assert isinstance(detector, YoloDetector)
    return torch.stack([branch[-1].weight[:, :, 0, 0] for branch in detector._network.model[-1].cv3])


def test_a_loaded_detector_says_the_same(lively: Make, noise: Noise, saved: Path) -> None:
    image = noise(80, 96)
    before = lively(("cod", "eel")).predict([image])[0][View.ORIGINAL]
    loaded = factory.load(saved, device="cpu")
    after = loaded.predict([image])[0][View.ORIGINAL]
    assert loaded.classes == ("cod", "eel")
    assert (loaded.architecture, loaded.image_size) == ("yolov5n", 96)
    assert len(before) > 0
    np.testing.assert_array_equal(before.xyxy, after.xyxy)
    np.testing.assert_array_equal(before.probs, after.probs)


def test_description_is_readable(saved: Path) -> None:
    document = json.loads((saved / "detector.json").read_text())
    assert document["format"] == 1
    assert document["architecture"] == "yolov5n"
    assert document["classes"] == ["cod", "eel"]
    assert document["image_size"] == 96
    assert 2_400_000 < document["parameters"] < 2_700_000
    assert set(document["versions"]) == {"torch", "torchvision", "ultralytics"}
    assert sorted(p.name for p in saved.iterdir()) == ["detector.json", "weights.safetensors"]


def test_saving_twice_replaces(lively: Make, saved: Path) -> None:
    lively(("perch",), image_size=64).save(saved)
    loaded = factory.load(saved, device="cpu")
    assert (loaded.classes, loaded.image_size) == (("perch",), 64)


@pytest.mark.parametrize("damage", ["missing weights", "missing description", "truncated", "no json", "newer", "other"])
def test_damaged_folders_are_refused(saved: Path, damage: str) -> None:
    weights, description = saved / "weights.safetensors", saved / "detector.json"
    document = json.loads(description.read_text())
    match damage:
        case "missing weights":
            weights.unlink()
        case "missing description":
            description.unlink()
        case "truncated":
            weights.write_bytes(weights.read_bytes()[:100_000])
        case "no json":
            description.write_text("{")
        case "newer":
            description.write_text(json.dumps(document | {"format": 99}))
        case "other":
            description.write_text(json.dumps(document | {"family": "unknown"}))
    with pytest.raises(WeightsRefused):
        factory.load(saved, device="cpu")


def test_weights_of_another_network_are_refused(saved: Path) -> None:
    tensors, description = read_weights(saved / "weights.safetensors")
    tensors.pop("model.0.conv.weight")
    write_weights(saved / "weights.safetensors", tensors, description)
    with pytest.raises(WeightsRefused, match=r"missing model\.0\.conv\.weight"):
        factory.load(saved, device="cpu")


def test_a_base_keeps_the_rows_of_known_classes(saved: Path) -> None:
    base = saved / "weights.safetensors"
    old = class_rows(factory.load(saved, device="cpu"))
    new = class_rows(factory.create("yolov5n", ("perch", "eel", "cod", "ray"), image_size=96, device="cpu", base=base))
    torch.testing.assert_close(new[:, 1], old[:, 1])
    torch.testing.assert_close(new[:, 2], old[:, 0])
    assert new.shape[1] == 4
    assert not torch.allclose(new[:, 0], old[:, 0])


def test_a_base_brings_everything_but_new_classes(saved: Path) -> None:
    created = factory.create("yolov5n", ("perch",), image_size=96, device="cpu", base=saved / "weights.safetensors")
    assert isinstance(created, YoloDetector)
    tensors, _ = read_weights(saved / "weights.safetensors")
    for name, value in created.tensors().items():
        if not name.startswith(tuple(f"model.24.cv3.{level}.2" for level in range(3))):
            torch.testing.assert_close(value, tensors[name], msg=name)


def test_many_classes_keep_the_width_of_the_base(saved: Path, noise: Noise) -> None:
    """Ultralytics widens the class branch with the number of classes, which would throw the base's branch away."""
    classes = tuple(f"c{i}" for i in range(80))
    created = factory.create("yolov5n", classes, image_size=96, device="cpu", base=saved / "weights.safetensors")
    assert class_rows(created).shape == (3, 80, 64)
    created.save(saved / "again")
    again = factory.load(saved / "again", device="cpu")
    assert again.predict([noise(50, 60)])[0][View.ORIGINAL].num_classes == 80


def test_a_base_from_a_wider_class_branch(tmp_path: Path, lively: Make) -> None:
    lively(tuple(f"c{i}" for i in range(80))).save(tmp_path)
    created = factory.create("yolov5n", ("c7",), device="cpu", base=tmp_path / "weights.safetensors")
    assert class_rows(created).shape == (3, 1, 80)


def test_a_half_precision_base_without_its_own_description_file(saved: Path, tmp_path: Path) -> None:
    tensors, description = read_weights(saved / "weights.safetensors")
    half = {name: v.half() if v.dtype.is_floating_point else v for name, v in tensors.items()}
    write_weights(tmp_path / "yolov5n.safetensors", half, description)
    created = factory.create("yolov5n", ("cod",), device="cpu", base=tmp_path / "yolov5n.safetensors")
    assert class_rows(created).dtype == torch.float32


def test_a_base_described_by_a_file_beside_it(saved: Path) -> None:
    tensors, _ = read_weights(saved / "weights.safetensors")
    save_file(tensors, saved / "yolov5n.safetensors")
    assert factory.create("yolov5n", ("cod",), device="cpu", base=saved / "yolov5n.safetensors").classes == ("cod",)


def test_a_base_of_another_architecture_is_refused(saved: Path) -> None:
    with pytest.raises(WeightsRefused, match="holds a yolov5n, expected a yolov5s"):
        factory.create("yolov5s", ("cod",), device="cpu", base=saved / "weights.safetensors")


def test_pickled_weights_need_permission(lively: Make, tmp_path: Path, noise: Noise) -> None:
    detector = lively(("cod", "eel"))
    detector._network.names = {0: "cod", 1: "eel"}
    path = tmp_path / "theirs.pt"
    torch.save({"model": detector._network}, path)
    for kwargs in ({"architecture": "yolov5n", "base": path}, {"architecture": str(path)}):
        with pytest.raises(WeightsRefused, match="pickled"):
            factory.create(classes=("eel",), device="cpu", **kwargs)
    allowed = factory.create("yolov5n", ("eel",), image_size=96, device="cpu", base=path, allow_pickle=True)
    torch.testing.assert_close(class_rows(allowed)[:, 0], class_rows(detector)[:, 1])
    by_path = factory.create(str(path), ("cod", "eel"), image_size=96, device="cpu", allow_pickle=True)
    image = noise(64, 96)
    np.testing.assert_array_equal(
        by_path.predict([image])[0][View.ORIGINAL].xyxy, detector.predict([image])[0][View.ORIGINAL].xyxy
    )
    by_path.save(tmp_path / "saved")
    assert factory.load(tmp_path / "saved", device="cpu").classes == ("cod", "eel")


class Hostile:
    """Unpickling it makes a file."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, (f"touch {self._mark}",)


@pytest.mark.parametrize("allow_pickle", [True, False])
@pytest.mark.parametrize("content", ["hostile", b"", "missing"])
def test_permission_does_not_extend_to_foreign_code(tmp_path: Path, content: object, allow_pickle: bool) -> None:
    path, mark = tmp_path / "bad.pt", tmp_path / "mark"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "hostile":
        torch.save({"model": Hostile(mark)}, path)
    with pytest.raises(WeightsRefused, match=r"bad\.pt"):
        factory.create("yolov5n", ("eel",), device="cpu", base=path, allow_pickle=allow_pickle)
    assert not mark.exists()


def test_find_base_prefers_the_users_own(tmp_path: Path) -> None:
    shipped = factory.find_base("yolov5n", None)
    assert shipped is not None
    assert shipped.parent.name == "base"
    assert factory.find_base("yolov5n", tmp_path) == shipped
    (tmp_path / "yolov5n.pt").touch()
    assert factory.find_base("yolov5n", tmp_path) == tmp_path / "yolov5n.pt"
    (tmp_path / "yolov5n.safetensors").touch()
    assert factory.find_base("yolov5n", tmp_path) == tmp_path / "yolov5n.safetensors"
    assert factory.find_base("yolov5x", tmp_path / "missing") is None


def test_the_shipped_base_is_small_and_opens() -> None:
    shipped = factory.find_base("yolov5n", None)
    assert shipped is not None
    assert shipped.stat().st_size < 6_000_000
    assert factory.create("yolov5n", ("cod",), device="cpu", base=shipped).classes == ("cod",)


def test_no_base_is_a_warning_that_says_what_it_costs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        factory.create("yolov5n", ("cod",), device="cpu")
    assert "random weights" in caplog.text
    assert "rankings are noise" in caplog.text


@pytest.mark.parametrize("name", list(PARAMETERS))
def test_scale_is_what_the_name_says(name: str) -> None:
    network = build(network_description(name), 3)
    check_size(name, network)
    other = "yolov5s" if name == "yolov5n" else "yolov5n"
    with pytest.raises(RuntimeError, match=f"expected {PARAMETERS[other]:,}"):
        check_size(other, network)


def test_yaml_files(tmp_path: Path, noise: Noise) -> None:
    layers = network_description("yolov5n")
    layers.pop("scale")
    import yaml

    unnamed, named = tmp_path / "mine.yaml", tmp_path / "mine5s.yaml"
    for path in (unnamed, named):
        path.write_text(yaml.safe_dump(layers))
    with pytest.raises(ValueError, match="file name says none of them"):
        factory.create(str(unnamed), ("a",), device="cpu")
    with pytest.raises(ValueError, match="neither a known architecture"):
        factory.create(str(tmp_path / "none.yaml"), ("a",), device="cpu")


@pytest.mark.parametrize("name", ["yolov8n.yaml", "yolo11n.yaml", "yolo26n.yaml"])
def test_other_ultralytics_networks(name: str, noise: Noise, tmp_path: Path) -> None:
    detector = factory.create(name, ("a", "b"), image_size=64, device="cpu")
    found = detector.predict([noise(40, 64)], min_score=0.0)[0][View.ORIGINAL]
    assert found.num_classes == 2
    detector.save(tmp_path)
    again = factory.load(tmp_path, device="cpu").predict([noise(40, 64)], min_score=0.0)[0][View.ORIGINAL]
    np.testing.assert_array_equal(found.xyxy, again.xyxy)


def test_wrong_use() -> None:
    with pytest.raises(ValueError, match="unknown architecture 'yolov9000'"):
        factory.create("yolov9000", ("a",))
    with pytest.raises(ValueError, match="unique"):
        factory.create("yolov5n", ("a", "a"))
    with pytest.raises(ValueError, match="unknown device"):
        factory.resolve_device("gpu")
    assert factory.resolve_device("cpu") == "cpu"
    assert factory.resolve_device("auto") in {"cpu", "cuda"}
    assert set(PARAMETERS) <= set(factory.architectures())


def test_set_classes_names_the_fresh_ones(lively: Make) -> None:
    network = lively(("cod", "eel"))._network
    assert set_classes(network, ("cod", "eel"), ("ray", "cod")) == ["ray"]
    assert network.names == {0: "ray", 1: "cod"}
