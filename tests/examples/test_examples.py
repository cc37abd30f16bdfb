"""The scripts in examples/, run as a user runs them, on a handful of drawn scenes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from examples import compare_strategies, rank_folder
from model.acquisition.strategy import StrategyConfig, strategy_names
from model.data.coco import write_coco
from model.data.reef import write_reef
from model.detectors.factory import create, find_base
from model.training.config import TrainingConfig

ROOT = Path(__file__).resolve().parents[2]
SIZE = (96, 96)
IMAGE_SIZE = 96


@pytest.fixture(scope="module")
def detector_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector that was trained for three steps: what it knows does not matter, that it was trained does."""
    folder = tmp_path_factory.mktemp("detector")
    scenes = write_reef(folder / "scenes", 8, seed=3, size=SIZE)
    detector = create(
        "yolov5n", scenes.classes, image_size=IMAGE_SIZE, device="cpu", base=find_base("yolov5n", None), seed=0
    )
    detector.fit(scenes, None, TrainingConfig(iterations=3, batch_size=4, workers=0))
    detector.save(folder / "trained")
    return folder / "trained"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven scenes, one of them in a folder of its own, a file that is no image, and one that only says that it is."""
    folder = tmp_path_factory.mktemp("images")
    write_reef(folder, 6, seed=4, size=SIZE)
    write_reef(folder / "deeper", 1, seed=5, size=SIZE)
    (folder / "broken.jpg").write_text("no image")
    (folder / "notes.txt").write_text("not looked at")
    return folder


def ranked(images: Path, detector_folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    assert rank_folder.main([str(images), str(detector_folder), "--device", "cpu", "--json", *options]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_a_folder_is_ranked_and_nothing_is_lost(
    images: Path, detector_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = ranked(images, detector_folder, capsys)
    files = [row["file"] for row in found["images"]]
    assert set(files) == {*(f"reef-{index:06d}.jpg" for index in range(6)), "deeper/reef-000000.jpg", "broken.jpg"}
    assert [row["rank"] for row in found["images"]] == list(range(1, 9))
    values = [row["informativeness"] for row in found["images"]]
    assert (files[-1], values[-1]) == ("broken.jpg", None)
    assert values[:-1] == sorted(values[:-1], reverse=True)
    assert len(found["unreadable"]) == 1
    assert "broken.jpg" in found["unreadable"][0]
    assert ranked(images, detector_folder, capsys) == found, "same inputs, same ranking"


@pytest.mark.slow
def test_run_as_a_script_it_prints_a_table_that_says_the_same(
    images: Path, detector_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = ranked(images, detector_folder, capsys)
    command = [sys.executable, "examples/rank_folder.py", str(images), str(detector_folder), "--device", "cpu"]
    # Not from the path of the tests: whoever runs it has the package installed, or the repository on the path.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    lines = result.stdout.splitlines()[1:]
    assert [line.split()[-1] for line in lines] == [row["file"] for row in found["images"]]
    assert "unreadable" in lines[-1]


@pytest.mark.slow
def test_every_strategy_ranks_a_folder_of_which_nothing_is_labelled(images: Path, detector_folder: Path) -> None:
    for name in strategy_names():
        for diversity in (False, True):
            # Without an autoencoder there is no novelty, so al_vae has to do with the other half.
            config = StrategyConfig(name, diversity=diversity, vae_alpha=0.0)
            found = rank_folder.rank_folder(images, detector_folder, config, device="cpu")
            assert len(found["images"]) == 8, (name, diversity)


def test_a_folder_without_a_detector_is_said_to_be_one(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rank_folder.main([str(images), str(images), "--device", "cpu"]) == 1
    assert "detector.json" in capsys.readouterr().err


def test_an_unknown_strategy_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        rank_folder.main([".", ".", "--strategy", "clever"])
    assert "clever" in capsys.readouterr().err


def test_an_empty_folder_is_said_to_be_empty(
    tmp_path: Path, detector_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rank_folder.main([str(tmp_path), str(detector_folder), "--device", "cpu"]) == 1
    assert "holds no image" in capsys.readouterr().err


@pytest.mark.slow
def test_two_strategies_are_compared_on_a_coco_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations = write_coco(write_reef(tmp_path / "scenes", 20, seed=6, size=SIZE), tmp_path / "coco")
    options: dict[str, object] = {
        "seeds": 1,
        "initial": 5,
        "budget": 3,
        "cycles": 1,
        "image-size": IMAGE_SIZE,
        "iterations": 2,
        "batch-size": 2,
        "parallel": 1,
        "device": "cpu",
        "out": tmp_path / "run",
    }
    arguments = [str(annotations), "--strategies", "random", "uncertainty+diversity", "--json"]
    arguments += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    assert compare_strategies.main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["complete"]
    by_name = {item["strategy"]: item for item in found["strategies"]}
    assert set(by_name) == {"random", "uncertainty+diversity"}
    assert {item["last"][0] for item in by_name.values()} == {8}
    assert "One seed cannot show" in by_name["uncertainty+diversity"]["verdict"]
    assert Path(found["report"]).read_text(encoding="utf-8").startswith("<!")


def test_a_file_that_is_no_coco_is_refused_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.json").write_text("{}")
    assert compare_strategies.main([str(tmp_path / "other.json"), "--out", str(tmp_path / "run")]) == 1
    assert "other.json" in capsys.readouterr().err


def test_the_examples_use_the_learning_side_alone() -> None:
    for path in sorted((ROOT / "examples").glob("*.py")):
        assert "al_backend" not in path.read_text(encoding="utf-8"), path.name
