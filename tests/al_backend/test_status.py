"""What `al-backend status` says of a project's learning curve, from versions in a real registry."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from al_backend.jobs.context import Context
from al_backend.jobs.queues import Queues
from al_backend.status import project_status
from tests.al_backend.jobs.made_up_studio import Studio
from tests.al_backend.jobs.test_candidates import CONFIG, PROJECT, MadeUpInference, made_up_context, weights
from tests.al_backend.test_learning_curve import version

pytestmark = pytest.mark.redis


@pytest.fixture
def here(queues: Queues, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    made = made_up_context(queues, tmp_path, monkeypatch, MadeUpInference())
    vars(made)["label_studio"] = Studio(range(1, 31))
    return made


def status(here: Context, folder: Path, *qualities: float) -> dict[str, Any]:
    """With a version every 100 labels that measured like this, after the first of the fixture."""
    for number, quality in enumerate(qualities, 2):
        made = version(number, 100 * number, quality, name=f"v{number}", project=PROJECT)
        here.registry.add_version(made, weights(folder))
    return project_status(here.settings, here.registry, here.label_studio, here.queues, PROJECT)


def test_labels_that_buy_nothing_any_more_are_named(here: Context, tmp_path: Path) -> None:
    found = status(here, tmp_path, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5)
    assert found["worth_of_labels"] == pytest.approx(0.0, abs=1e-9)
    [note] = [note for note in found["notes"] if "mAP50 per 100 labels" in note]
    assert "more of the same labels will hardly help" in note


@pytest.mark.parametrize("qualities", [(0.3, 0.4, 0.5, 0.6, 0.7), (0.5, 0.5)])
def test_nothing_is_said_while_they_help_or_while_that_is_not_known(
    here: Context, tmp_path: Path, qualities: tuple[float, ...]
) -> None:
    found = status(here, tmp_path, *qualities)
    assert [note for note in found["notes"] if "mAP50 per 100 labels" in note] == []
    assert (found["worth_of_labels"] is None) == (len(qualities) < 4)


def test_a_project_that_is_left_out_says_so(here: Context, tmp_path: Path) -> None:
    sentence = "The labelling config has `model_skip`: this backend neither trains nor predicts here."
    assert sentence not in status(here, tmp_path)["notes"]
    config = CONFIG.replace("<RectangleLabels ", '<RectangleLabels model_skip="true" ')
    vars(here.label_studio)["project"] = lambda number: SimpleNamespace(id=number, title="", label_config=config)
    assert sentence in status(here, tmp_path)["notes"]
