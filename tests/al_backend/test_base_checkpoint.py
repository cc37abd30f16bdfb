"""Weights to start from: fetched once for all machines, and named by the doctor."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
from typer.testing import CliRunner

from al_backend.base_checkpoint import describe_checkpoint, fetch_checkpoint, may_be_pickled
from al_backend.cli import app
from al_backend.errors import BackendError
from al_backend.registry import Registry
from model.detectors.base_files import TORCHVISION_FILES
from model.detectors.factory import create, find_base
from model.detectors.torchvision_weights import COCO
from model.detectors.weights import WEIGHTS_NAME

SSDLITE = "ssdlite320_mobilenet_v3_large"


def checkpoint(folder: Path) -> Path:
    """A checkpoint with two classes, as if it had been fetched."""
    create("yolov5n", ("person", "fish"), image_size=64, device="cpu").save(folder / "made")
    return (folder / "made" / WEIGHTS_NAME).replace(folder / "yolov5n.safetensors")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(str(tmp_path / "registry"))


def test_what_is_there_stays_and_is_told(registry: Registry, tmp_path: Path) -> None:
    folder = registry.base_folder
    assert folder is not None
    file = checkpoint(folder)
    environment = {"MODEL_DIR": registry.location, "AL_DATA_DIR": str(tmp_path / "data")}
    shown = CliRunner().invoke(app, ["fetch-weights", "yolov5n", "--json"], env=environment)
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout) == {"detector": "yolov5n", "file": str(file), "classes": 2}


def test_a_damaged_file_is_refused_with_what_to_do(registry: Registry, tmp_path: Path) -> None:
    folder = registry.base_folder
    assert folder is not None
    (folder / "yolov5nu.pt").write_bytes(b"no weights at all")
    with pytest.raises(BackendError, match=f"put it into {folder} as it is"):
        fetch_checkpoint(registry, "yolov5n", tmp_path)
    assert [item.name for item in folder.iterdir()] == ["yolov5nu.pt"]


def test_nothing_is_published_for_a_network_of_ones_own(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="there are some for yolov5n, "):
        fetch_checkpoint(registry, "own.yaml", tmp_path)


def test_a_registry_elsewhere_shares_it_with_all_machines(tmp_path: Path) -> None:
    location = f"memory://{uuid.uuid4().hex}"
    registry = Registry(location, cache_folder=tmp_path / "here")
    checkpoint(tmp_path / "scratch" / "base")
    assert registry.base_folder is None
    fetch_checkpoint(registry, "yolov5n", tmp_path / "scratch")
    there = Registry(location, cache_folder=tmp_path / "there")
    assert there.base_folder is not None
    assert find_base("yolov5n", there.base_folder) == there.base_folder / "yolov5n.safetensors"


def test_the_names_of_torchvisions_files() -> None:
    assert {name: url.rsplit("/", 1)[1] for name, url in COCO.items()} == TORCHVISION_FILES


def test_the_doctor_says_what_trainings_start_from(registry: Registry) -> None:
    assert describe_checkpoint(registry, "yolov5n") == (
        True,
        "First trainings start from the small checkpoint that comes with the project, made from drawn underwater "
        "scenes; for photographs `al-backend fetch-weights yolov5n` gets a better one.",
    )
    trained, sentence = describe_checkpoint(registry, SSDLITE)
    assert not trained
    assert "begins from random ones" in sentence
    assert describe_checkpoint(registry, "/models/own.yaml")[1].startswith("/models/own.yaml is a network of your own")
    folder = registry.base_folder
    assert folder is not None
    (folder / f"{SSDLITE}_coco-a79551df.pth").write_bytes(b"")
    trained, sentence = describe_checkpoint(registry, SSDLITE)
    assert trained
    assert f"{SSDLITE}_coco-a79551df.pth" in sentence


def test_the_doctor_says_what_becomes_of_pickled_files(registry: Registry, tmp_path: Path) -> None:
    named = tmp_path / "mine.pt"
    assert describe_checkpoint(registry, str(named)) == (
        False,
        f"There is no file {named} here, so no training can start.",
    )
    named.write_bytes(b"")
    assert describe_checkpoint(registry, str(named)) == (True, "First trainings start from mine.pt.")
    folder = registry.base_folder
    assert folder is not None
    (folder / "yolov5s.pt").write_bytes(b"")
    trained, sentence = describe_checkpoint(registry, "yolov5s")
    assert not trained
    assert "yolov5s.pt is pickled, so trainings refuse it" in sentence
    assert [may_be_pickled(detector) for detector in (str(named), "yolov5s", "own.yaml")] == [True, False, False]
