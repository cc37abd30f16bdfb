"""`al-backend simulate` from outside: one small experiment with a real network, and what it refuses."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from al_backend.cli import app
from al_backend.cli.simulate import Asked, make_plan
from al_backend.settings import load_settings
from model.data.reef import write_reef
from model.data.yolo import write_yolo
from model.detectors.factory import find_base
from model.simulation.data import reef_data
from model.simulation.detectors import FactoryDetectors
from model.simulation.results import Results
from model.simulation.store import Store


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("AL_") and name != "AL_TEST_NO_SKIP"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MODEL_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("AL_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("AL_BATCH_SIZE", "4")
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = handlers, level


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["simulate", *map(str, arguments)])


@pytest.mark.slow
def test_a_real_experiment_from_end_to_end(tmp_path: Path) -> None:
    folder = tmp_path / "reef"
    write_yolo(write_reef(tmp_path / "a", 12, seed=1, size=(96, 96)), folder, split="train")
    write_yolo(write_reef(tmp_path / "b", 6, seed=2, size=(96, 96)), folder, split="val")
    out = tmp_path / "out"
    arguments = [folder, "--out", out, "--detector", "yolov5n", "--strategies", "random,huale", "--seeds", 1]
    arguments += ["--initial", 4, "--budget", 3, "--cycles", 2, "--iterations", 2, "--image-size", 96]
    arguments += ["--device", "cpu", "--parallel", 1, "--json"]
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["complete"]
    assert [item["strategy"] for item in document["strategies"]] == ["random", "huale"]
    assert "One seed cannot show" in document["strategies"][1]["verdict"]
    results = Results.from_dict(json.loads(Path(document["results"]).read_text()))
    assert [[point.labels for point in curve.points] for curve in results.curves] == [[4, 7, 10]] * 2
    random, huale = results.curves
    assert random.points[0].metrics == huale.points[0].metrics
    assert random.points[1].training["iterations"] == 2
    assert results.full[0].point.labels == 12
    assert results.hardware["processor"]
    assert results.versions["torch"]
    assert "<!DOCTYPE html>" in Path(document["report"]).read_text()
    assert Path(document["picture"]).stat().st_size > 1000

    # Again: nothing is left to do, and people get a table.
    again = run(*arguments[:-1])
    assert again.exit_code == 0
    assert "gain per image" in again.stdout
    assert str(out / "report.html") in again.stdout
    # With another budget the folder is refused.
    other = run(*[5 if value == 3 else value for value in arguments])
    assert other.exit_code == 1
    assert "budget: 3 there, 5 here" in json.loads(other.stdout)["error"]


@pytest.mark.slow
def test_ctrl_c_ends_with_a_report_of_what_is_there(tmp_path: Path) -> None:
    """As a person does it: the whole command, on generated scenes, interrupted after the first training."""
    out = tmp_path / "out"
    arguments = [
        "reef:8",
        "--out",
        out,
        "--detector",
        "yolov5n",
        "--strategies",
        "random",
        "--seeds",
        1,
        "--parallel",
        1,
    ]
    arguments += ["--initial", 4, "--budget", 2, "--cycles", 2, "--iterations", 12, "--image-size", 64, "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "al_backend.cli", "simulate", *map(str, arguments)],
        # Whoever runs the tests in the background of a shell has Ctrl-C ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    while not list(out.glob("cells/*/cycle-000.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 1, stderr
    document = json.loads(stdout)
    assert (document["ended_early"], document["complete"]) == (True, False), (document["notes"], stderr)
    assert "This experiment was stopped early" in document["notes"][0]
    results = Results.from_dict(json.loads((out / "results.json").read_text()))
    assert [point.labels for point in results.curves[0].points] == [4]
    assert (results.data["name"], results.data["pool_images"]) == ("reef:8", 8)
    assert "<!DOCTYPE html>" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "sentence", "code"),
    [
        (["nowhere"], "nowhere is neither a file nor a folder", 1),
        (["reef:40", "--strategies", "random,magic"], "strategy is 'magic', expected one of", 2),
        (["reef:40", "--strategies", "random,huale+diversty"], "what follows a name can only be +diversity", 2),
        (["reef:40", "--strategies", "random,random"], "named once", 2),
        (["reef:40", "--detector", "own.yaml"], "detector is 'own.yaml': no such file, looked for /", 2),
        (["reef:40", "--detector", "own.pt"], "detector is 'own.pt': no such file, looked for /", 2),
        (["reef:40", "--detector", "/nowhere/own.yaml"], "detector is '/nowhere/own.yaml': no such file", 2),
        (["reef:40", "--detector", "yolov8.yaml"], "has the scales n, s, m, l, x, and its file name says none", 2),
        (["reef:40", "--detector", "yolo5n"], "detector is 'yolo5n', expected one of: yolov5n", 2),
        (["reef:40", "--losses", "huale,own"], "losses are own", 2),
        (["reef:40", "--split", "train"], "Only data sets on disk have splits", 2),
    ],
)
def test_what_it_refuses(tmp_path: Path, arguments: list[str], sentence: str, code: int) -> None:
    result = run(*arguments, "--out", tmp_path / "out", "--json")
    assert result.exit_code == code
    assert sentence in json.loads(result.stdout)["error"]
    if code == 1:
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["own.pt", "yolov5n-own.yaml"])
def test_the_command_line_may_name_a_detector_file(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(resources.files("ultralytics").joinpath("cfg/models/v5/yolov5.yaml").read_bytes())
    result = run("reef:40", "--detector", file, "--losses", "own", "--out", tmp_path / "out", "--json")
    assert "losses are own" in json.loads(result.stdout)["error"], "which is looked at later"


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_folder_that_cannot_be_one(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    result = run("reef:40", "--out", tmp_path / "file" / below, "--json")
    assert result.exit_code == 2
    assert f"--out {tmp_path / 'file' / below}: " in json.loads(result.stdout)["error"]
    assert "expected a folder that can be written to" in json.loads(result.stdout)["error"]


def test_ctrl_c_while_the_data_are_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("al_backend.cli.simulate.reef_data", pressed)
    result = run("reef:40", "--out", tmp_path / "out", "--json")
    assert result.exit_code == 1
    assert "Stopped before the first training" in json.loads(result.stdout)["error"]


def test_a_refused_call_leaves_the_pictures_alone(tmp_path: Path) -> None:
    """They would be another size, while a run beside it, or one that goes on later, keeps the boxes of the old."""
    out = tmp_path / "out"
    arguments = ["--out", out, "--detector", "yolov5n", "--iterations", 1, "--device", "cpu", "--no-full"]
    arguments += ["--strategies", "random", "--seeds", 1, "--cycles", 1, "--initial", 4, "--parallel", 1]
    start = ["reef:8", *arguments, "--image-size", 64]
    data = reef_data(out / "reef", 8, size=64)
    settings = load_settings().learning.overridden({"detector": "yolov5n", "image_size": 64})
    plan = make_plan(
        settings,
        Asked("reef:8", out, strategies="random", seeds=1, cycles=1, full=False, initial=4, iterations=1),
    )
    store = Store(out)
    store.prepare(plan, data, FactoryDetectors("yolov5n", 64, find_base("yolov5n", None)))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.jpg")}
    assert before
    # While another one works, nothing is touched at all.
    with store.alone():
        busy = run(*start[:-1], 96)
        assert (busy.exit_code, "Another simulation is writing" in busy.stderr) == (1, True)
    store.write_cycle(plan.cells()[0], {"cycle": 0})
    size = "detector.image_size: 64 there, 96 here"
    for other, told in (([*start[:-1], 96], size), (["reef:9", *start[1:]], "data.name: reef:8 there, reef:9 here")):
        refused = run(*other)
        assert refused.exit_code == 1
        assert told in refused.stderr
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.jpg")} == before


@pytest.mark.slow
def test_more_strategies_later_and_what_could_not_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "reef"
    write_yolo(write_reef(tmp_path / "a", 12, seed=1, size=(64, 64)), folder, split="train")
    write_yolo(write_reef(tmp_path / "b", 6, seed=2, size=(64, 64)), folder, split="val")
    sorted((folder / "labels" / "train").glob("*.txt"))[0].write_text("fisch 0.5 0.5 0.1 0.1\n")
    arguments = [folder, "--out", tmp_path / "out", "--detector", "yolov5n", "--seeds", 1, "--device", "cpu"]
    arguments += ["--initial", 4, "--budget", 3, "--cycles", 1, "--iterations", 2, "--image-size", 64, "--parallel", 1]
    first = run(*arguments, "--strategies", "random,uncertainty")
    assert first.exit_code == 0, first.output
    told = "Not everything in the data could be used"
    assert told in first.stderr, "before hours of training"
    assert told in first.stdout
    second = run(*arguments, "--strategies", "core_set", "--json")
    document = json.loads(second.stdout)
    assert [item["strategy"] for item in document["strategies"]] == ["random", "uncertainty", "core_set"]
    assert document["complete"]
    results = Results.from_dict(json.loads(Path(document["results"]).read_text()))
    assert "fisch" in results.problems[0]
    assert results.held_out == "split val"


@pytest.mark.parametrize(
    "arguments",
    [["reef"], ["reef", "--out", "x", "--seeds", "0"], ["--out", "x"], ["reef", "--out", "x", "--project", "1"]],
)
def test_wrong_use(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_a_folder_without_a_data_set_says_what_is_expected(tmp_path: Path) -> None:
    result = run(tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "data.yaml (YOLO)" in result.stderr


def test_settings_apply_as_in_a_project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AL_STRATEGY", "uncertainty")
    monkeypatch.setenv("AL_UNCERTAINTY", "margin")
    monkeypatch.setenv("AL_BUDGET", "7")
    plan = make_plan(load_settings().learning, Asked("reef", tmp_path, losses="library, huale", seeds=2, initial=9))
    assert [label for label, _ in plan.strategies] == ["random", "uncertainty"]
    assert plan.strategy("uncertainty").uncertainty == "margin"
    assert [label for label, _ in plan.losses] == ["library", "huale"]
    assert (plan.initial, plan.budget, plan.seeds, plan.training.batch_size) == (9, 7, (0, 1), 4)
    monkeypatch.setenv("AL_DIVERSITY", "true")
    diverse = make_plan(load_settings().learning, Asked("reef", tmp_path))
    assert [label for label, _ in diverse.strategies] == ["random", "uncertainty+diversity"]
    assert plan.min_score == 0.1
    monkeypatch.setenv("AL_DETECTOR", "ssdlite320_mobilenet_v3_large")
    assert make_plan(load_settings().learning, Asked("reef", tmp_path)).min_score == 0.2
    monkeypatch.setenv("AL_MEASURE_THRESHOLD", "0.05")
    assert make_plan(load_settings().learning, Asked("reef", tmp_path)).min_score == 0.05
