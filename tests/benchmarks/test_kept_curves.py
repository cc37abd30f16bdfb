"""An experiment that goes on from nothing but its committed numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks._kept_curves import keep_curves, restore_curves
from model.simulation.cell import Experiment
from model.simulation.results import collect
from model.simulation.runner import run_experiment
from tests.model.simulation.fake_experiment import Fakes, plan, sample


def test_kept_curves_are_not_drawn_again(tmp_path: Path) -> None:
    data, log = sample(tmp_path / "images"), tmp_path / "log"
    first = Experiment(plan("random"), data, Fakes(), tmp_path / "a" / "cells")
    run_experiment(first, device="cpu", parallel=1)
    # 4 cycles, one training on everything, the shared start and the manifest.
    assert keep_curves(tmp_path / "a", ("cells", "nothing"), tmp_path / "kept.jsonl") == 7
    assert restore_curves(tmp_path / "kept.jsonl", tmp_path / "b") == 7
    assert restore_curves(tmp_path / "kept.jsonl", tmp_path / "b") == 0

    more = Experiment(plan("random", "uncertainty"), data, Fakes(log=log), tmp_path / "b" / "cells")
    outcome = run_experiment(more, device="cpu", parallel=1)
    assert outcome.failures == []
    assert collect(more).curves[0] == collect(first).curves[0]
    assert collect(more).complete
    # Only the start, for its weights, and the three further trainings of the new strategy.
    assert len(log.read_text().splitlines()) == 4


def test_a_path_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kept.jsonl").write_text(json.dumps({"path": "../out.json", "document": {}}) + "\n")
    with pytest.raises(ValueError, match="outside of"):
        restore_curves(tmp_path / "kept.jsonl", tmp_path / "work")
    assert not (tmp_path / "out.json").exists()
