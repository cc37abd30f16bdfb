from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.data.dataset import DetectionDataset
from model.training.augmentation import Augmentation
from model.training.config import TrainingConfig
from model.training.loop import train
from model.training.sampling import Batch, BatchSampler
from model.training.statistics import buffers_kept, learning_norms, norms_to_fix, take_statistics
from model.training.targets import Target

SHORT = TrainingConfig(iterations=20, batch_size=2, workers=0, mixed_precision=False)


def batch_of(*values: float) -> Batch:
    """One grey image of 1 x 1 pixel for each value."""
    images = np.array(values, np.uint8)[:, None, None, None].repeat(3, axis=3)
    none = tuple(np.zeros((0, 4), np.float32) for _ in values)
    return Batch(images, none, tuple(np.zeros(0, np.int64) for _ in values))


def forward(module: nn.Module, batch: Batch) -> None:
    module(torch.from_numpy(batch.images).permute(0, 3, 1, 2).float())


def test_statistics_are_the_mean_over_the_batches() -> None:
    module = nn.Sequential(nn.BatchNorm2d(3, momentum=0.03), nn.BatchNorm2d(3)).eval()
    take_statistics(module, ["0"], [batch_of(0, 2), batch_of(10, 20)], forward)
    first, second = module
    # Means 1 and 15; variances over n - 1: 2 and 50.
    assert first.running_mean.tolist() == [8.0] * 3
    assert first.running_var.tolist() == [26.0] * 3
    assert first.momentum == 0.03
    assert second.running_mean.tolist() == [0.0] * 3, "it was not named"
    assert not any(part.training for part in module.modules())


def test_without_a_learning_norm_nothing_runs() -> None:
    def refuse(module: nn.Module, batch: Batch) -> None:
        raise AssertionError

    take_statistics(nn.Sequential(nn.BatchNorm2d(3)), [], [batch_of(1)], refuse)


def test_norms_that_have_seen_data_are_told_from_new_ones() -> None:
    module = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False))
    module[1](torch.rand(2, 3, 4, 4))
    assert norms_to_fix(module) == [module[1]]
    module[0].eval()
    assert learning_norms(module) == ["1", "2"]


def test_buffers_come_back() -> None:
    norm = nn.BatchNorm2d(3)
    with buffers_kept(norm):
        norm(torch.rand(2, 3, 4, 4))
        assert norm.running_mean is not None
        assert norm.running_mean.any()
    assert not norm.running_mean.any()
    assert int(norm.num_batches_tracked or 0) == 0
    with buffers_kept(None):
        pass


class Brightness:
    """Learns nothing that matters; its norm sees the images themselves."""

    fast_factor = 1.0
    fast_parameters: Sequence[nn.Parameter] = ()
    blocks: Sequence[nn.Module] = ()

    def __init__(self, seen: float | None = None) -> None:
        self.norm = nn.BatchNorm2d(3, momentum=0.01)
        if seen is not None:
            assert self.norm.running_mean is not None
            self.norm.running_mean.fill_(seen)
        self.module: nn.Module = nn.Sequential(self.norm, nn.Conv2d(3, 1, 1))

    def loss(self, images: Tensor, targets: Sequence[Target]) -> Tensor:
        found: Tensor = self.module(images)
        return found.square().mean()


@pytest.mark.parametrize(("batch_size", "seen", "taken"), [(2, None, True), (2, 0.9, False), (1, None, False)])
def test_small_batches_keep_the_statistics_that_there_are(
    squares: Callable[..., DetectionDataset], batch_size: int, seen: float | None, taken: bool
) -> None:
    data = squares(4)
    sampler = BatchSampler(data, 64, seed=0, augmentation=Augmentation.none())
    network = Brightness(seen)
    config = replace(SHORT, batch_size=batch_size)
    averaged, _ = train(network, sampler, config, learning_rate=1e-3, device=torch.device("cpu"))
    norm = averaged.get_submodule("0")
    assert isinstance(norm.running_mean, Tensor)
    # Two batches of two hold every image once.
    pixels = np.concatenate([sampler.batch(k, 2, use_mosaic=False).images for k in range(2)])
    expected = pixels.mean(axis=(0, 1, 2)) / 255 if taken else [seen or 0.0] * 3
    np.testing.assert_allclose(norm.running_mean, expected, atol=1e-5)
    assert not averaged.training
