"""What a training job hands to the detector: where it starts, which settings, which labels; with a real one, small."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from al_backend.jobs import training
from al_backend.jobs.context import Context
from al_backend.jobs.queues import Queues
from model.data.dataset import DetectionDataset
from model.data.reef import write_reef
from model.detectors.base import View
from model.detectors.factory import create, find_base, load
from model.images import load_image
from model.training.config import TrainingConfig
from model.training.loss_config import LossConfig
from tests.al_backend.jobs.test_autoencoder import CONFIG, PROJECT, training_context

pytestmark = pytest.mark.redis

SMALL = {"strategy": "uncertainty", "iterations": 1, "batch_size": 4, "image_size": 64, "seed": 3}
STEM = "model.0.conv.weight"


@dataclass
class Seen:
    """What the detectors of all trainings were given."""

    starts: list[dict[str, Tensor]] = field(default_factory=list)
    configs: list[TrainingConfig] = field(default_factory=list)
    data: list[tuple[DetectionDataset, DetectionDataset | None]] = field(default_factory=list)


@pytest.fixture(scope="module")
def reef(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    folder = tmp_path_factory.mktemp("reef")
    return write_reef(folder, 8, seed=3, size=(64, 64), species=("cod", "herring"), empty_share=0.0)


@pytest.fixture
def here(queues: Queues, tmp_path: Path, reef: DetectionDataset, monkeypatch: pytest.MonkeyPatch) -> Context:
    return training_context(queues, tmp_path, reef, monkeypatch, held_out=2)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    found, fit = Seen(), training.fit_on

    def looking(devices: Any, detector: Any, train: Any, validation: Any, config: Any, on_progress: Any) -> Any:
        found.starts.append({name: value.clone() for name, value in detector.tensors().items()})
        found.configs.append(config)
        found.data.append((train, validation))
        return fit(devices, detector, train, validation, config, on_progress)

    monkeypatch.setattr(training, "fit_on", looking)
    return found


def train(here: Context, from_scratch: bool, **overrides: Any) -> str:
    here.registry.register_project(PROJECT, label_config=CONFIG, overrides=SMALL | overrides)
    name = training.train(PROJECT, from_scratch)
    here.registry.promote(PROJECT, name, reason="by hand")
    return name


def weights(here: Context, version: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = load(  # type: ignore[attr-defined]
        here.registry.fetch_version(PROJECT, version), device="cpu"
    ).tensors()
    return tensors


def test_fine_tuning_starts_from_the_active_version_and_from_scratch_from_the_base(here: Context, seen: Seen) -> None:
    base = create("yolov5n", ("cod",), device="cpu", base=find_base("yolov5n", None)).tensors()  # type: ignore[attr-defined]
    one = train(here, False)
    two = train(here, False)
    assert here.registry.version(PROJECT, two).parent == one
    train(here, True)
    # Below 200 images the backbone stays, so the neck has to tell which weights these are.
    neck = next(name for name in base if name.startswith("model.13.") and name.endswith("conv.weight"))
    first, second, third = (start[neck] for start in seen.starts)
    assert torch.equal(first, base[neck])
    assert not torch.equal(second, base[neck])
    assert torch.equal(second, weights(here, one)[neck])
    assert torch.equal(third, base[neck])


def test_another_architecture_starts_from_its_own_base(here: Context, seen: Seen) -> None:
    train(here, False)
    name = train(here, False, detector="ssdlite320_mobilenet_v3_large")
    assert STEM in seen.starts[0]
    assert STEM not in seen.starts[1]
    assert here.registry.version(PROJECT, name).detector == "ssdlite320_mobilenet_v3_large"


def test_all_labels_and_the_settings_reach_the_detector(here: Context, seen: Seen) -> None:
    train(here, True, batch_size=3)
    labelled, held_out = seen.data[0]
    assert (len(labelled), 0 if held_out is None else len(held_out)) == (6, 2)
    config = seen.configs[0]
    # One step of three would leave half of the labels unseen.
    assert (config.iterations, config.batch_size, config.seed) == (2, 3, 3)
    assert config.losses == LossConfig()
    assert config.checkpoint is not None
    train(here, True, batch_size=3, iterations=3)
    assert seen.configs[1].iterations == 3


def test_huales_losses_reach_the_detector_and_its_version(here: Context, seen: Seen, reef: DetectionDataset) -> None:
    name = train(here, True, losses="huale", detector="ssdlite320_mobilenet_v3_large")
    assert seen.configs[0].losses == LossConfig.huale()
    detector = load(here.registry.fetch_version(PROJECT, name), device="cpu")
    found = detector.predict([load_image(reef.images[0].path)], min_score=0.0)[0][View.ORIGINAL]
    assert len(found) > 0
    assert found.side_std is not None
