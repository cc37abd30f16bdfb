from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.data.dataset import DetectionDataset
from model.errors import ModelError, TrainingCancelled
from model.training.config import Progress, TrainingConfig, TrainingReport
from model.training.loop import MAX_GRADIENT_NORM, train
from model.training.optimization import build_optimizer, rate_factor
from model.training.sampling import BatchSampler
from model.training.targets import Target
from model.training.trainable import TrainableNetwork

Squares = Callable[..., DetectionDataset]
CONFIG = TrainingConfig(iterations=20, batch_size=8, workers=0, mixed_precision=False)


class BoxCounter:
    """A tiny network that learns how many boxes an image has."""

    fast_factor = 5.0

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Conv2d(4, 1, 1)
        self.module: nn.Module = nn.Sequential(self.first, self.head)
        self.blocks: Sequence[nn.Module] = [self.first]
        self.fast_parameters: Sequence[nn.Parameter] = list(self.head.parameters())
        self.batch_sizes: list[int] = []
        self.fail_above: int | None = None
        self.poison = False

    def loss(self, images: Tensor, targets: Sequence[Target]) -> Tensor:
        self.batch_sizes.append(len(images))
        if self.fail_above is not None and len(images) > self.fail_above:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        counts = torch.tensor([float(len(t.label)) for t in targets])
        error = (self.module(images).mean(dim=(1, 2, 3)) - counts) ** 2
        return error.mean() * (math.nan if self.poison else 1.0)


def run(
    data: DetectionDataset,
    network: BoxCounter,
    config: TrainingConfig = CONFIG,
    on_progress: Callable[[Progress], None] | None = None,
    frozen: int = 0,
    rate: float = 0.02,
) -> tuple[nn.Module, TrainingReport]:
    sampler = BatchSampler(data, 64, seed=config.seed)
    return train(
        network,
        sampler,
        config,
        learning_rate=rate,
        frozen_blocks=frozen,
        device=torch.device("cpu"),
        on_progress=on_progress,
    )


def weights(module: nn.Module) -> Tensor:
    return torch.cat([v.flatten().float() for v in module.state_dict().values()])


def test_loss_falls_and_the_average_is_returned(squares: Squares) -> None:
    network = BoxCounter()
    averaged, report = run(squares(), network, replace(CONFIG, iterations=60))
    assert report.last_loss < 0.7 * report.first_loss
    assert report.iterations == 60
    assert report.notes == ()
    assert not averaged.training
    assert not torch.equal(weights(averaged), weights(network.module))


def test_learns_in_float16(squares: Squares, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on GPUs without bfloat16; gradients are scaled so that small ones are not lost."""
    monkeypatch.setattr("model.training.loop.mixed_precision_type", lambda device: torch.float16)
    network = BoxCounter()
    averaged, report = run(squares(), network, replace(CONFIG, iterations=60, mixed_precision=True))
    assert report.last_loss < 0.7 * report.first_loss
    assert all(value.dtype is not torch.float16 for value in averaged.state_dict().values())


def test_same_seed_same_weights(squares: Squares) -> None:
    data = squares()
    one, again, other = (
        weights(run(data, BoxCounter(), replace(CONFIG, seed=seed, workers=workers))[0])
        for seed, workers in ((1, 0), (1, 2), (2, 0))
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_the_callers_random_state_is_left_alone(squares: Squares) -> None:
    network = BoxCounter()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    run(squares(), network)
    assert torch.equal(torch.rand(1), expected)


def test_progress_says_where_it_is(squares: Squares) -> None:
    seen: list[Progress] = []
    run(squares(10), BoxCounter(), on_progress=seen.append)
    assert [p.iteration for p in seen] == list(range(1, 21))
    assert {p.iterations for p in seen} == {20}
    assert seen[-1].epoch == pytest.approx(20 * 8 / 10)
    assert seen[0].eta_seconds is None
    assert seen[5].eta_seconds is not None
    assert seen[5].eta_seconds > 0
    assert seen[-1].eta_seconds == 0
    assert all(p.loss is not None and math.isfinite(p.loss) for p in seen)


def test_the_time_that_is_left_follows_from_the_steps_that_are_done(
    squares: Squares, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]

    def two_seconds(step: int, module: nn.Module) -> None:
        now[0] += 2.0

    monkeypatch.setattr("model.training.loop.time", SimpleNamespace(monotonic=lambda: now[0]))
    seen: list[Progress] = []
    train(
        BoxCounter(),
        BatchSampler(squares(10), 64, seed=0),
        CONFIG,
        learning_rate=0.02,
        device=torch.device("cpu"),
        on_progress=seen.append,
        on_step=two_seconds,
    )
    assert [p.eta_seconds for p in seen] == [None, None, *(2.0 * left for left in range(17, -1, -1))]


def test_gradients_are_clipped(squares: Squares, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []

    def watched(*arguments: Any) -> torch.optim.AdamW:
        optimizer = build_optimizer(*arguments)

        def look(*_: Any) -> None:
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            norms.append(float(torch.cat([gradient.flatten() for gradient in gradients]).norm()))

        optimizer.register_step_pre_hook(look)
        return optimizer

    class Steep(BoxCounter):
        def loss(self, images: Tensor, targets: Sequence[Target]) -> Tensor:
            return 1e4 * super().loss(images, targets)

    monkeypatch.setattr("model.training.loop.build_optimizer", watched)
    run(squares(), Steep(), replace(CONFIG, iterations=5))
    assert norms == pytest.approx([MAX_GRADIENT_NORM] * 5, rel=1e-3)


def test_cancelling_stops_within_one_step(squares: Squares) -> None:
    network = BoxCounter()

    def stop(progress: Progress) -> None:
        if progress.iteration == 3:
            raise TrainingCancelled("asked to stop")

    with pytest.raises(TrainingCancelled):
        run(squares(), network, on_progress=stop)
    assert len(network.batch_sizes) == 3


def test_out_of_memory_halves_the_batch_once_and_says_so(squares: Squares) -> None:
    network = BoxCounter()
    network.fail_above = 4
    _, report = run(squares(), network)
    # The last two take the statistics of its normalisation.
    assert network.batch_sizes == [8] + [4] * 20 + [4] * 2
    assert report.batch_size == 4
    assert report.iterations == 20
    assert report.notes == ("out of memory at batch size 8 after 0 steps, continued with 4",)
    assert report.as_dict()["notes"] == list(report.notes)


def test_out_of_memory_twice_is_an_error(squares: Squares) -> None:
    network = BoxCounter()
    network.fail_above = 3
    with pytest.raises(torch.OutOfMemoryError):
        run(squares(), network)
    assert network.batch_sizes == [8, 4]


def test_other_errors_are_not_taken_for_lack_of_memory(squares: Squares) -> None:
    network = BoxCounter()

    def fail(progress: Progress) -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        run(squares(), network, on_progress=fail)
    assert network.batch_sizes == [8]


def test_frozen_blocks_keep_weights_and_statistics(squares: Squares) -> None:
    network = BoxCounter()
    before, head = weights(network.first), weights(network.head)
    averaged, report = run(squares(), network, frozen=1)
    assert report.frozen_blocks == 1
    assert torch.equal(weights(network.first), before)
    assert torch.equal(weights(averaged[0]), before)  # type: ignore[index]
    assert not torch.equal(weights(network.head), head)


@pytest.mark.parametrize(("batch_size", "moves"), [(4, False), (8, True)])
def test_small_batches_do_not_touch_statistics(squares: Squares, batch_size: int, moves: bool) -> None:
    network = BoxCounter()
    network.first[1].running_mean.fill_(0.1)  # type: ignore[operator]  # it has seen data
    statistics = network.first[1].running_mean.clone()  # type: ignore[operator]
    run(squares(), network, replace(CONFIG, batch_size=batch_size))
    assert torch.equal(network.first[1].running_mean, statistics) is not moves  # type: ignore[arg-type]


def test_a_diverged_training_is_an_error(squares: Squares) -> None:
    network = BoxCounter()
    network.poison = True
    with pytest.raises(ModelError, match="diverged"):
        run(squares(), network)


def test_a_fast_head_and_no_decay_on_biases() -> None:
    network: TrainableNetwork = BoxCounter()
    groups = build_optimizer(network, 0.01, 0.1).param_groups
    rates = sorted((g["peak_lr"], g["weight_decay"], sum(p.numel() for p in g["params"])) for g in groups)
    assert rates == [(0.01, 0.0, 12), (0.01, 0.1, 108), (0.05, 0.0, 1), (0.05, 0.1, 4)]


def test_rate_warms_up_and_falls() -> None:
    factors = [rate_factor(step, 200) for step in range(200)]
    assert factors[0] == pytest.approx(1 / 20)
    assert max(factors) == factors[19] == 1
    assert factors[19:] == sorted(factors[19:], reverse=True)
    assert factors[-1] == pytest.approx(0.01)
    assert rate_factor(0, 1) == 1
