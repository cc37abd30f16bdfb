"""The attenuated regression: hand-computed numbers, its best variance, its bounds."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import smooth_l1_loss

from model.training.losses import (
    bounded_log_variance,
    initialise_variance_head,
    side_std_of_deltas,
    uncertain_smooth_l1,
)


@pytest.mark.parametrize(
    ("difference", "alpha", "expected"),
    [
        (0.0, 0.0, 0.0),
        (0.5, 0.0, 0.125),
        (-3.0, 0.0, 2.5),
        (0.5, math.log(4), 0.125 / 4 + math.log(2)),
        (-3.0, math.log(4), 2.5 / 4 + math.log(2)),
        (2.0, -math.log(2), 1.5 * 2 - math.log(2) / 2),
        (1.0, 100.0, 0.5 * math.exp(-7) + 3.5),
        (0.0, -100.0, -3.5),
    ],
)
def test_by_hand(difference: float, alpha: float, expected: float) -> None:
    found = uncertain_smooth_l1(torch.tensor(difference), torch.tensor(alpha))
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_without_variance_it_is_smooth_l1() -> None:
    difference = torch.linspace(-5, 5, 101)
    expected = smooth_l1_loss(difference, torch.zeros(101), reduction="none")
    torch.testing.assert_close(uncertain_smooth_l1(difference, torch.zeros(101)), expected)


@pytest.mark.parametrize("difference", [0.1, 0.6, 1.0, 4.0])
def test_the_best_variance_is_twice_the_plain_loss(difference: float) -> None:
    """d/da (e^-a E + a/2) = 0 at e^a = 2 E: the squared difference itself while it is small."""
    alpha = torch.linspace(-7, 7, 14001)
    best = alpha[uncertain_smooth_l1(torch.full_like(alpha, difference), alpha).argmin()].exp().item()
    assert best == pytest.approx(difference**2 if difference <= 1 else 2 * difference - 1, rel=2e-3)


def test_gradients_agree_with_finite_differences() -> None:
    difference = torch.tensor([-3.0, -0.7, 0.2, 1.5], requires_grad=True)
    alpha = torch.tensor([0.3, -1.0, 2.0, 0.0], requires_grad=True)
    uncertain_smooth_l1(difference, alpha).sum().backward()
    step = 1e-2
    for value, gradient in ((difference, difference.grad), (alpha, alpha.grad)):
        up, down = (
            uncertain_smooth_l1(*((v + s if v is value else v).detach() for v in (difference, alpha)))
            for s in (step, -step)
        )
        torch.testing.assert_close(gradient, (up - down) / (2 * step), atol=1e-3, rtol=1e-3)


def test_a_variance_outside_its_bounds_can_come_back_and_goes_no_further() -> None:
    raw = torch.tensor([9.0, -9.0, 9.0, -9.0, 1.0], requires_grad=True)
    bounded = bounded_log_variance(raw)
    assert bounded.tolist() == [7, -7, 7, -7, 1]
    # Descent lowers where the gradient is positive: the first two come back, the next two would leave further.
    bounded.backward(torch.tensor([1.0, -1.0, -1.0, 1.0, 1.0]))
    assert raw.grad is not None
    assert raw.grad.tolist() == [1, -1, 0, 0, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("difference", [0.0, 1e-4, 1.0, 100.0])
@pytest.mark.parametrize("alpha", [-6e4, -7.0, 0.0, 7.0, 6e4])
def test_always_finite(difference: float, alpha: float, dtype: torch.dtype) -> None:
    inputs = [torch.tensor([v], dtype=dtype, requires_grad=True) for v in (difference, alpha)]
    loss = uncertain_smooth_l1(*inputs)
    assert loss.dtype is torch.float32
    assert loss.item() >= -3.5
    # As a mixed precision training does: the mean over many boxes, not the raw sum.
    (loss.sum() / 512).backward()
    for value in inputs:
        assert value.grad is not None
        assert value.grad.isfinite().all()
    assert loss.isfinite().all()


def test_a_learned_variance_is_the_spread_of_the_errors() -> None:
    generator = torch.Generator().manual_seed(0)
    errors = torch.randn(4000, 2, generator=generator) * torch.tensor([0.05, 0.5])
    alpha = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.Adam([alpha], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        uncertain_smooth_l1(errors, alpha.expand(4000, 2)).mean().backward()
        optimizer.step()
    assert (alpha / 2).exp().tolist() == pytest.approx([0.05, 0.5], rel=0.05)


def test_a_new_head_starts_at_variance_one() -> None:
    head = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
    initialise_variance_head(head)
    assert head(torch.rand(1, 8, 9, 9)).abs().max() < 1e-2
    linear = nn.Linear(300, 100)
    initialise_variance_head(linear)
    assert linear.weight.std().item() == pytest.approx(1e-4, rel=0.05)
    assert not linear.bias.any()


def test_side_deviations_by_hand() -> None:
    anchor, box = torch.tensor([[0.0, 0.0, 10.0, 20.0]]), torch.tensor([[0.0, 0.0, 30.0, 40.0]])
    # Encoded deviations 2, 2, 1, 1 with weights 10, 10, 5, 5: 0.2 anchor sizes and 0.2 box sizes.
    log_variance = 2 * torch.tensor([[2.0, 2.0, 1.0, 1.0]]).log()
    horizontal, vertical = math.hypot(0.2 * 10, 0.2 * 30 / 2), math.hypot(0.2 * 20, 0.2 * 40 / 2)
    found = side_std_of_deltas(log_variance, box, anchor, (10.0, 10.0, 5.0, 5.0))
    assert found[0].tolist() == pytest.approx([horizontal, vertical, horizontal, vertical])


def test_side_deviations_against_drawn_offsets() -> None:
    from torchvision.models.detection._utils import BoxCoder

    coder, generator = BoxCoder((10.0, 10.0, 5.0, 5.0)), torch.Generator().manual_seed(0)
    anchor = torch.tensor([[20.0, 30.0, 60.0, 90.0]])
    mean, std = torch.tensor([1.0, -2.0, 0.5, 0.3]), torch.tensor([0.5, 0.3, 0.2, 0.4])
    drawn = coder.decode_single(mean + std * torch.randn(20000, 4, generator=generator), anchor.expand(20000, 4))
    box = coder.decode_single(mean[None], anchor)
    found = side_std_of_deltas(2 * std[None].log(), box, anchor, coder.weights)
    torch.testing.assert_close(found[0], drawn.std(dim=0), rtol=0.03, atol=0)
