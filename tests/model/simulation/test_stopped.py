"""An experiment in a process of its own, stopped in the middle."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from model.simulation.cell import Experiment
from model.simulation.results import collect
from model.simulation.runner import run_experiment
from tests.model.simulation.fake_experiment import Fakes, plan, sample

ROOT = Path(__file__).resolve().parents[3]


def start(folder: Path, parallel: int) -> subprocess.Popen[str]:
    arguments = [folder / "images", folder / "out", folder / "log", 0.6, parallel]
    command = [sys.executable, "-m", "tests.model.simulation.fake_experiment", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not what():
        assert process.poll() is None, "the experiment ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_killed_in_the_middle_it_goes_on_at_the_last_finished_cycle(tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    process = start(folder, parallel=1)
    cycles = folder / "out" / "cells" / "random-library-0"
    # The second cycle is kept and the third in training.
    wait_for(lambda: (cycles / "cycle-001.json").exists(), process)
    wait_for(lambda: len((folder / "log").read_text().splitlines()) >= 3, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = len((folder / "log").read_text().splitlines())
    assert done == 3

    data = sample(folder / "images")
    again = Experiment(plan(), data, Fakes(log=folder / "log"), folder / "out")
    assert not collect(again).complete
    run_experiment(again, device="cpu", parallel=1)
    undisturbed = Experiment(plan(), data, Fakes(), tmp_path / "undisturbed")
    run_experiment(undisturbed, device="cpu", parallel=1)
    # 4 + 3 cycles and full supervision, of which 3 had begun and 2 were kept.
    assert len((folder / "log").read_text().splitlines()) == done + 8 - 2
    found, expected = collect(again), collect(undisturbed)
    assert [[p.labelled for p in curve.points] for curve in found.curves] == [
        [p.labelled for p in curve.points] for curve in expected.curves
    ]
    assert [[p.metrics for p in curve.points] for curve in found.curves] == [
        [p.metrics for p in curve.points] for curve in expected.curves
    ]


def test_ctrl_c_ends_all_processes_and_keeps_their_cycles(tmp_path: Path) -> None:
    process = start(tmp_path, parallel=2)
    wait_for(lambda: len(list((tmp_path / "out").glob("cells/*/cycle-000.json"))) == 2, process)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert said == "ended early []\n"
    assert process.returncode == 0
    assert not psutil.wait_procs(children, timeout=30)[1]
    for path in (tmp_path / "out").glob("cells/*/cycle-*.json"):
        assert json.loads(path.read_text())["labels"] >= 3
