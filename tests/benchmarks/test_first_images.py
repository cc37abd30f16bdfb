"""The first images by a strategy, beside the random ones that all curves share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks._first_images import first_rows, measure_first
from model.simulation.cell import Experiment
from model.simulation.runner import run_experiment
from tests.model.simulation.fake_experiment import Fakes, plan, sample


def test_the_same_number_of_images_trained_with_the_same_seeds(tmp_path: Path) -> None:
    data, log = sample(tmp_path / "images"), tmp_path / "log"
    settings = plan("random", "typical", "core_set", seeds=2, cycles=0, full=False)
    experiment = Experiment(settings, data, Fakes(log=log), tmp_path / "out")
    assert first_rows(experiment, ("typical",)) == []
    run_experiment(experiment, device="cpu", parallel=1)
    measure_first(experiment, ("typical", "core_set"), "cpu")
    trainings = [json.loads(line) for line in log.read_text().splitlines()]
    random, chosen = trainings[:2], trainings[2:]
    assert [len(training["keys"]) for training in trainings] == [3] * 6
    assert [training["seed"] for training in chosen] == [random[0]["seed"]] * 2 + [random[1]["seed"]] * 2

    rows = first_rows(experiment, ("typical", "core_set"))
    assert [row["strategy"] for row in rows] == ["random", "typical", "core_set"]
    kept = [json.loads((tmp_path / "out" / "first" / f"typical-{seed}.json").read_text()) for seed in (0, 1)]
    assert rows[1]["map50"] == pytest.approx(sum(one["map50"] for one in kept) / 2, abs=1e-4)
    assert rows[1]["against_random"].mean == pytest.approx(rows[1]["map50"] - rows[0]["map50"], abs=2e-4)
    measure_first(experiment, ("typical", "core_set"), "cpu")
    assert len(log.read_text().splitlines()) == 6
