from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from model.data.dataset import DetectionDataset
from model.detectors import factory
from model.detectors.yolo import YoloDetector
from model.training.config import TrainingConfig
from model.training.warm_start import shrink_and_perturb

Squares = Callable[..., DetectionDataset]


def test_weights_shrink_by_the_factor() -> None:
    layer = nn.Linear(4, 3)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    shrink_and_perturb(layer, 0.6, 0.0, seed=0)
    torch.testing.assert_close(layer.weight.detach(), 0.6 * weight)
    torch.testing.assert_close(layer.bias.detach(), 0.6 * bias)


def test_noise_has_the_deviation_and_the_seed() -> None:
    one, again, other = nn.Linear(300, 300), nn.Linear(300, 300), nn.Linear(300, 300)
    for layer, seed in ((one, 1), (again, 1), (other, 2)):
        nn.init.constant_(layer.weight, 2.0)
        shrink_and_perturb(layer, 0.5, 0.01, seed=seed)
    assert float(one.weight.detach().mean()) == pytest.approx(1.0, abs=2e-4)
    assert float(one.weight.detach().std()) == pytest.approx(0.01, rel=0.02)
    assert torch.equal(one.weight, again.weight)
    assert not torch.equal(one.weight, other.weight)


def test_frozen_weights_and_statistics_stay() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
    network[:2].requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    shrink_and_perturb(network, 0.5, 0.1, seed=0)
    same = {name for name, value in network.state_dict().items() if torch.equal(value, before[name])}
    assert same == {name for name in before if name[0] in "01" or "running" in name or "tracked" in name}


@pytest.mark.parametrize("values", [(0.0, 0.1), (1.1, 0.1), (0.5, -0.1), (float("nan"), 0.1), (0.5, float("inf"))])
def test_numbers_out_of_range(values: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"expected shrink in \(0, 1\]"):
        shrink_and_perturb(nn.Linear(1, 1), *values, seed=0)


def test_fixed_statistics_are_refused() -> None:
    frozen = nn.Sequential(nn.Conv2d(3, 2, 1), FrozenBatchNorm2d(2))
    with pytest.raises(ValueError, match=r"found 1 layers with fixed ones \(the first is 1\)"):
        shrink_and_perturb(frozen, 0.5, 0.1, seed=0)
    plain = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    with pytest.raises(ValueError, match="use a batch size of at least 8"):
        shrink_and_perturb(plain, 0.5, 0.1, seed=0, fixed_norms=True)
    plain[1].requires_grad_(False)
    shrink_and_perturb(plain, 0.5, 0.1, seed=0, fixed_norms=True)


def test_a_detector_starts_from_shrunken_weights(squares: Squares) -> None:
    detector = factory.create("yolov5n", (), image_size=64, device="cpu", base=factory.find_base("yolov5n", None))
    assert isinstance(detector, YoloDetector)
    before = {name: value.clone() for name, value in detector.tensors().items()}
    config = TrainingConfig(
        iterations=1, batch_size=8, workers=0, mixed_precision=False, learning_rate=0.0, shrink_and_perturb=(0.6, 0.0)
    )
    detector.fit(squares(6), None, replace(config, freeze=2))
    after = detector.tensors()
    for block, factor in ((1, 1.0), (2, 0.6)):
        names = [n for n, p in detector._network.named_parameters() if n.startswith(f"model.{block}.")]
        assert names
        for name in names:
            torch.testing.assert_close(after[name], before[name] * factor, rtol=1e-5, atol=1e-7)
    with pytest.raises(ValueError, match="batch size of at least 8"):
        detector.fit(squares(6), None, replace(config, batch_size=4))
