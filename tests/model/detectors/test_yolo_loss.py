"""The exchangeable YOLO loss: parity with Ultralytics when off, each switch by its effect when on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.detectors.yolo_loss import (
    TwoBranchLoss,
    YoloLoss,
    distribution_log_variance,
    distribution_loss,
    switched_loss,
)
from model.detectors.yolo_network import YoloTrainable, _as_float, build, network_description
from model.training.losses import EIoUMode, LossConfig
from model.training.targets import Target

NOW = LossConfig(warm_up=0)
SWITCHES = {
    "emphasis": replace(NOW, emphasis=True),
    "safe": replace(NOW, eiou=EIoUMode.SAFE),
    "literal": replace(NOW, eiou=EIoUMode.LITERAL),
    "stop gradient": replace(NOW, eiou=EIoUMode.STOP_GRADIENT),
    "uncertainty": replace(NOW, uncertainty=True),
    "mix without variance": replace(NOW, eiou=EIoUMode.SAFE, synchronic=True),
    "everything": replace(LossConfig.huale(), warm_up=2),
}


def network(architecture: str = "yolov5n", classes: int = 3) -> Any:
    return build(network_description(architecture), classes, seed=0).train()


def boxes(*rows: tuple[float, float, float, float, int]) -> Target:
    table = torch.tensor(rows, dtype=torch.float32).view(-1, 5)
    return Target(table[:, :4].contiguous(), table[:, 4].long())


BATCHES: dict[str, Sequence[Target]] = {
    "boxes": [boxes((4, 6, 40, 50, 0), (30, 10, 60, 30, 2)), boxes((0, 0, 63, 63, 1))],
    "one image empty": [boxes(), boxes((10, 10, 30, 44, 1))],
    "a tiny box": [boxes((10, 10, 10.5, 10.5, 1)), boxes((20, 20, 21, 60, 0))],
    "nothing": [boxes(), boxes()],
}


def predictions(model: Any, seed: int = 0) -> Any:
    with torch.no_grad():
        return _as_float(model(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed))))


def library_loss(library: Any, raw: Any, targets: Sequence[Target]) -> Tensor:
    xyxy, counts = torch.cat([t.xyxy for t in targets]), torch.tensor([len(t.label) for t in targets])
    batch = {
        "batch_idx": torch.arange(len(targets)).repeat_interleave(counts).float(),
        "cls": torch.cat([t.label for t in targets]).float().view(-1, 1),
        "bboxes": torch.cat([(xyxy[:, :2] + xyxy[:, 2:]) / 2, xyxy[:, 2:] - xyxy[:, :2]], 1) / 64,
    }
    return library(raw, batch)[0].sum() / len(targets)


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("architecture", ["yolov5n", "yolov8n.yaml", "yolo26n.yaml"])
def test_off_is_the_library_loss(architecture: str, name: str) -> None:
    model = network(architecture)
    library, targets, raw = model.init_criterion(), BATCHES[name], predictions(model)
    ours = switched_loss(library, LossConfig())
    assert isinstance(ours, TwoBranchLoss if "26" in architecture else YoloLoss)
    torch.testing.assert_close(ours(raw, targets), library_loss(library, raw, targets))


def test_off_has_the_library_gradients() -> None:
    model = network()
    library, raw = model.init_criterion(), predictions(model)
    leaves = [raw[key].requires_grad_(True) for key in ("boxes", "scores")]
    expected = torch.autograd.grad(library_loss(library, raw, BATCHES["boxes"]), leaves)
    found = torch.autograd.grad(switched_loss(library, LossConfig())(raw, BATCHES["boxes"]), leaves)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("switch", SWITCHES)
def test_every_switch_is_finite_on_every_batch(switch: str, name: str) -> None:
    model = network()
    loss, raw = switched_loss(model.init_criterion(), SWITCHES[switch]), predictions(model)
    leaves = [raw[key].requires_grad_(True) for key in ("boxes", "scores")]
    for _ in range(3):
        value = loss(raw, BATCHES[name])
        assert value.isfinite()
        gradients = torch.autograd.grad(value, leaves, allow_unused=name == "nothing")
        assert all(gradient.isfinite().all() for gradient in gradients if gradient is not None)


def test_emphasis_raises_all_terms_of_a_hopeless_class() -> None:
    """With every positive of one class at factor 0.5, only the part of the background stays as it was."""
    model = network(classes=1)
    library, raw, targets = model.init_criterion(), predictions(model), [boxes((4, 6, 40, 50, 0)), boxes()]
    loss = switched_loss(library, SWITCHES["emphasis"])
    assert isinstance(loss, YoloLoss)
    raw["scores"].fill_(-14)  # background costs nearly nothing
    plain = library_loss(library, raw, targets)
    loss.losses.box_emphasis.observe(torch.tensor([0]), torch.tensor([0.0]))
    loss.losses.class_emphasis.observe(torch.tensor([0]), torch.tensor([0.0]))
    assert plain > 1
    torch.testing.assert_close(loss(raw, targets), 1.5 * plain, rtol=1e-3, atol=0)


def test_quality_is_seen_per_class() -> None:
    model = network()
    loss = switched_loss(model.init_criterion(), SWITCHES["emphasis"])
    assert isinstance(loss, YoloLoss)
    raw = predictions(model)
    raw["scores"][:, 1] = 3.0
    loss(raw, [boxes((4, 6, 40, 50, 1)), boxes((10, 10, 40, 40, 2))])
    quality = loss.losses.class_emphasis.quality
    assert quality[0] == 1
    assert quality[1].item() == pytest.approx(torch.tensor(3.0).sigmoid().item())
    assert quality[2] < 0.1
    assert loss.losses.box_emphasis.updates.tolist() == [0, 1, 1]


def test_distributions_by_hand() -> None:
    even = torch.zeros(1, 4, 16)
    assert distribution_loss(even, torch.full((1, 4), 3.4)).item() == pytest.approx(math.log(16))
    # Bins 0 to 15 with equal weight have variance (16^2 - 1) / 12.
    assert distribution_log_variance(even).tolist() == [pytest.approx([math.log(21.25)] * 4, abs=1e-4)]
    two = torch.full((1, 4, 16), -1e4)
    two[..., 2] = two[..., 6] = 0.0
    assert distribution_log_variance(two)[0, 0].item() == pytest.approx(math.log(4), abs=1e-3)
    sharp = torch.full((1, 4, 16), -1e4)
    sharp[..., 5] = 0.0
    assert distribution_log_variance(sharp)[0, 0].item() == pytest.approx(-7)
    # All weight on bin 5, of which 3/4 are right.
    logits = torch.full((1, 4, 16), -1e4)
    logits[..., 5], logits[..., 6] = math.log(0.9), math.log(0.1)
    expected = -0.75 * math.log(0.9) - 0.25 * math.log(0.1)
    assert distribution_loss(logits, torch.full((1, 4), 5.25)).item() == pytest.approx(expected, abs=1e-5)


def test_uncertainty_adds_the_attenuated_distance() -> None:
    """Even distributions: every distance is 7.5 cells with variance 21.25, whatever the truth is."""
    model = network(classes=1)
    library, raw = model.init_criterion(), predictions(model)
    raw["boxes"] = torch.zeros_like(raw["boxes"])

    def assign_one_cell(scores: Tensor, boxes: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
        label, target, positive = torch.zeros(2, 84), torch.zeros_like(boxes), torch.zeros(2, 84, dtype=torch.bool)
        positive[0, 0] = True
        target[0, 0] = torch.tensor([2.0, 2.0, 6.0, 6.0])  # around the first centre, (4, 4) at stride 8
        return label, target, positive[..., None].float(), positive, label

    library.assigner = assign_one_cell
    plain, aware = (
        switched_loss(library, config)(raw, BATCHES["nothing"]) for config in (NOW, SWITCHES["uncertainty"])
    )
    # 0.25 cells would be right: 7.25 too far on every side, weighted by the gain 1.5.
    expected = 1.5 * ((7.25 - 0.5) / 21.25 + math.log(21.25) / 2)
    assert (aware - plain).item() == pytest.approx(expected, abs=1e-3)


def test_uncertainty_needs_distributions() -> None:
    model = network("yolo26n.yaml")
    with pytest.raises(ValueError, match="distributions of distances"):
        YoloTrainable(model, losses=SWITCHES["uncertainty"])


def test_without_switches_there_is_no_loss_state() -> None:
    assert YoloTrainable(network()).loss_state is None
    assert YoloTrainable(network(), losses=LossConfig()).loss_state is None
    state = YoloTrainable(network(), losses=SWITCHES["emphasis"]).loss_state
    assert isinstance(state, nn.Module)
    assert "losses.class_emphasis.quality" in state.state_dict()


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_few_steps_lower_the_loss(switch: str) -> None:
    trainable = YoloTrainable(network(), losses=SWITCHES[switch])
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    optimizer = torch.optim.AdamW(trainable.module.parameters(), lr=2e-3)
    history = []
    for _ in range(14):
        loss = trainable.loss(images, BATCHES["boxes"])
        history.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # Emphasis and learned variances begin within the first steps, so those are not the ones to compare with.
    assert sum(history[-3:]) < 0.9 * sum(history[3:6])
