"""The door for detector families: parity with the libraries when off, every switch by hand when on."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, smooth_l1_loss
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.roi_heads import fastrcnn_loss

from model.training.losses import DetectionLosses, EIoUMode, LossConfig, eiou_loss, initialise_variance_head
from model.training.losses import uncertain_smooth_l1 as attenuated

NOW = LossConfig(warm_up=0)
SWITCHES = {
    "library": NOW,
    "emphasis": replace(NOW, emphasis=True),
    "safe": replace(NOW, eiou=EIoUMode.SAFE),
    "literal": replace(NOW, eiou=EIoUMode.LITERAL),
    "stop gradient": replace(NOW, eiou=EIoUMode.STOP_GRADIENT),
    "uncertainty": replace(NOW, uncertainty=True),
    "mix without variance": replace(NOW, eiou=EIoUMode.SAFE, synchronic=True),
    "everything": replace(LossConfig.huale(), warm_up=0),
}


def rows(n: int = 6, seed: int = 0) -> dict[str, Any]:
    """Positives of two classes: offsets, their targets, and the boxes that belong to them."""
    generator = torch.Generator().manual_seed(seed)
    anchors = torch.rand(n, 2, generator=generator) * 50
    anchors = torch.cat([anchors, anchors + 10 + torch.rand(n, 2, generator=generator) * 30], 1)
    coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
    deltas, targets = torch.randn(2, n, 4, generator=generator)
    return {
        "labels": torch.arange(n) % 2 + 1,
        "deltas": deltas,
        "target_deltas": targets,
        "boxes": coder.decode_single(deltas, anchors),
        "target_boxes": coder.decode_single(targets, anchors),
        "log_variance": torch.randn(n, 4, generator=generator),
    }


def test_off_is_the_library_loss() -> None:
    data, losses = rows(), DetectionLosses(LossConfig(), 2)
    labels = torch.cat([data["labels"], torch.zeros(4, dtype=torch.int64)])
    logits = torch.randn(10, 3, generator=torch.Generator().manual_seed(1))
    regression = torch.zeros(10, 3, 4)
    regression[torch.arange(6), data["labels"]] = data["deltas"]
    targets = torch.cat([data["target_deltas"], torch.zeros(4, 4)])
    expected_class, expected_box = fastrcnn_loss(logits, regression.view(10, 12), [labels], [targets])
    torch.testing.assert_close(losses.classification(logits, labels).mean(), expected_class)
    torch.testing.assert_close(losses.localisation(**data, beta=1 / 9).sum() / 10, expected_box)
    assert LossConfig().library_only
    assert not any(config.library_only for name, config in SWITCHES.items() if name != "library")


def test_classification_is_weighted_by_the_last_steps() -> None:
    losses = DetectionLosses(SWITCHES["emphasis"], 2)
    logits = torch.tensor([[0.0, math.log(2), 0.0], [0.0, 0.0, 0.0], [2.0, 0.0, 0.0]])  # p(true) 1/2, 1/3, 0.787
    labels = torch.tensor([1, 2, 0])
    plain = cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(losses.classification(logits, labels), plain)
    assert losses.class_emphasis.quality.tolist() == pytest.approx([1 / 2, 1 / 3])
    # beta(1/2) = 0.401286; beta(1/3) = 0.15 ln(1 + 27.031624 * 2 / 3) = 0.441836
    weighted = losses.classification(logits, labels)
    assert (weighted / plain).tolist() == pytest.approx([1.401286, 1.441836, 1.0], abs=1e-5)
    assert losses.box_emphasis.updates.tolist() == [0, 0]


def test_localisation_is_weighted_by_the_overlap_of_the_last_steps() -> None:
    losses, zero = DetectionLosses(SWITCHES["emphasis"], 1), torch.zeros(1, 4)
    box, target = torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[0.0, 0.0, 2.0, 1.0]])
    first, second = (losses.localisation(torch.tensor([1]), zero + 2, zero, box, target).item() for _ in range(2))
    assert first == pytest.approx(4 * 1.5)
    assert second == pytest.approx(6 * 1.401286, abs=1e-4)  # IoU 1/2


@pytest.mark.parametrize("mode", list(EIoUMode))
def test_eiou_takes_the_place_of_the_regression(mode: EIoUMode) -> None:
    data, losses = rows(), DetectionLosses(replace(NOW, eiou=mode), 2)
    expected = 10 * eiou_loss(data["boxes"], data["target_boxes"], mode)
    torch.testing.assert_close(losses.localisation(**data, iou_gain=10), expected)


def test_terms_are_added_or_mixed() -> None:
    data = rows()
    iou = eiou_loss(data["boxes"], data["target_boxes"])
    difference = data["deltas"] - data["target_deltas"]
    aware = attenuated(difference, data["log_variance"]).sum(1)
    plain = smooth_l1_loss(difference, torch.zeros(6, 4), reduction="none").sum(1)

    def found(**switches: Any) -> Tensor:
        return DetectionLosses(replace(NOW, **switches), 2).localisation(**data)

    torch.testing.assert_close(found(uncertainty=True), aware)
    torch.testing.assert_close(found(uncertainty=True, eiou=EIoUMode.SAFE), iou + aware)
    mixed = {"eiou": EIoUMode.SAFE, "synchronic": True, "share": 0.3}
    torch.testing.assert_close(found(**mixed), 0.3 * iou + 0.7 * plain)
    torch.testing.assert_close(found(**mixed, uncertainty=True), 0.3 * iou + 0.7 * aware)


def test_warm_up_has_no_emphasis_and_no_variance() -> None:
    data, config = rows(), LossConfig(emphasis=True, uncertainty=True, warm_up=2)
    losses = DetectionLosses(config, 2)
    plain = smooth_l1_loss(data["deltas"], data["target_deltas"], reduction="none").sum(1)
    for _ in range(2):
        data["log_variance"] = data["log_variance"].detach().requires_grad_(True)
        found = losses.localisation(**data)
        torch.testing.assert_close(found, plain)
        (gradient,) = torch.autograd.grad(found.sum(), data["log_variance"])
        assert not gradient.any()
    assert not torch.allclose(losses.localisation(**data), plain)
    logits = torch.zeros(6, 3)
    for step in range(3):
        loss = losses.classification(logits, data["labels"])
        assert (loss > math.log(3) + 1e-3).all() == (step == 2)


def test_nothing_is_learned_in_eval_mode() -> None:
    losses, data = DetectionLosses(SWITCHES["everything"], 2), rows()
    losses.eval()
    before = {name: value.clone() for name, value in losses.state_dict().items()}
    losses.classification(torch.zeros(6, 3), data["labels"])
    losses.localisation(**data)
    assert all(torch.equal(value, before[name]) for name, value in losses.state_dict().items())


def test_a_restored_state_goes_on_as_if_unbroken() -> None:
    config = replace(LossConfig.huale(), warm_up=3)
    unbroken, restored = DetectionLosses(config, 2), DetectionLosses(config, 2)
    for seed in range(4):
        unbroken.localisation(**rows(seed=seed))
        unbroken.classification(torch.zeros(6, 3), rows()["labels"])
    restored.load_state_dict(unbroken.state_dict())
    first, second = (losses.localisation(**rows(seed=9)) for losses in (unbroken, restored))
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", SWITCHES)
def test_no_positives_give_no_loss_and_a_graph(name: str) -> None:
    losses, data = DetectionLosses(SWITCHES[name], 2), rows(0)
    for key in ("deltas", "boxes"):
        data[key].requires_grad_(True)
    loss = losses.localisation(**data)
    assert loss.shape == (0,)
    loss.sum().backward()
    background = losses.classification(torch.randn(5, 3), torch.zeros(5, dtype=torch.int64))
    assert background.isfinite().all()
    assert losses.class_emphasis.updates.sum() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", SWITCHES)
def test_half_precision_in_full_precision_out(name: str, dtype: torch.dtype) -> None:
    losses, data = DetectionLosses(SWITCHES[name], 2), rows(64)
    data = {key: value.to(dtype) if value.is_floating_point() else value for key, value in data.items()}
    data["deltas"].requires_grad_(True)
    data["boxes"] = (data["boxes"] * 10).detach().requires_grad_(True)
    data["target_boxes"] = data["target_boxes"] * 10
    logits = torch.randn(64, 3).to(dtype).requires_grad_(True)
    for _ in range(2):
        loss = losses.localisation(**data).mean() + losses.classification(logits, data["labels"]).mean()
        assert loss.dtype is torch.float32
        loss.backward()
    for value in (data["deltas"], data["boxes"], logits):
        assert value.grad is None or value.grad.isfinite().all()


def test_uncertainty_needs_a_head() -> None:
    data = rows() | {"log_variance": None}
    with pytest.raises(ValueError, match="gave no log_variance"):
        DetectionLosses(SWITCHES["uncertainty"], 2).localisation(**data)
    with pytest.raises(ValueError, match="one box loss was given"):
        DetectionLosses(SWITCHES["everything"], 2).mix(torch.zeros(1), None)
    with pytest.raises(ValueError, match="no box loss was given"):
        DetectionLosses(NOW, 2).mix(None, None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": 0.0}, "gamma is 0.0, expected in"),
        ({"gamma": 1.2}, "gamma"),
        ({"emphasis_max": -0.1}, "emphasis_max"),
        ({"emphasis_curve": 0.0}, "emphasis_curve"),
        ({"emphasis_momentum": 1.0}, "emphasis_momentum"),
        ({"share": 1.5}, "share"),
        ({"warm_up": -1}, "warm_up"),
        ({"synchronic": True}, "choose a mode for `eiou`"),
        ({"eiou": "safe"}, "expected an EIoUMode"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossConfig(**settings)


class SoftmaxHead(nn.Module):
    """As small as a detector of the softmax families can be: every anchor's features give all its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.classes, self.offsets, self.variance = nn.Linear(16, 3), nn.Linear(16, 4), nn.Linear(16, 4)
        initialise_variance_head(self.variance)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.classes(features), self.offsets(features), self.variance(features)


@pytest.mark.parametrize("name", SWITCHES)
def test_a_softmax_family_learns_with_every_switch(name: str) -> None:
    torch.manual_seed(0)
    head, losses, coder = SoftmaxHead(), DetectionLosses(SWITCHES[name], 2), BoxCoder((10.0, 10.0, 5.0, 5.0))
    anchors = torch.rand(40, 2) * 100
    anchors = torch.cat([anchors, anchors + 30], 1)
    targets, features, labels = anchors + torch.randn(40, 4) * 2, torch.randn(40, 16), torch.arange(40) % 3
    positive = labels > 0
    wanted = coder.encode_single(targets[positive], anchors[positive])
    optimizer = torch.optim.Adam(head.parameters(), lr=0.03)
    history = []
    for _ in range(60):
        logits, offsets, variance = (output[positive] if i else output for i, output in enumerate(head(features)))
        boxes = coder.decode_single(offsets, anchors[positive])
        box = losses.localisation(labels[positive], offsets, wanted, boxes, targets[positive], variance)
        loss = losses.classification(logits, labels).mean() + box.mean()
        history.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert history[-1] < 0.7 * history[1]
