"""Overlaps and EIoU against numbers computed by hand, finite differences, and the fault of the published form."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import generalized_box_iou

from model.training.losses import EIoUMode, eiou_loss, eiou_of_giou, overlap

CORNER = [0.0, 0.0, 2.0, 2.0]
CASES = {
    "overlapping": (CORNER, [1.0, 1.0, 3.0, 3.0], 1 / 7, 1 / 7 - 2 / 9),
    "disjoint": ([0.0, 0.0, 1.0, 1.0], [2.0, 0.0, 3.0, 1.0], 0.0, -1 / 3),
    "far apart": ([0.0, 0.0, 1.0, 1.0], [9.0, 9.0, 10.0, 10.0], 0.0, -0.98),
    "touching at a side": (CORNER, [2.0, 0.0, 4.0, 2.0], 0.0, 0.0),
    "touching at a corner": (CORNER, [2.0, 2.0, 4.0, 4.0], 0.0, -0.5),
    "inside": ([0.0, 0.0, 4.0, 4.0], [1.0, 1.0, 3.0, 3.0], 0.25, 0.25),
    "identical": (CORNER, CORNER, 1.0, 1.0),
    "a line": ([1.0, 0.0, 1.0, 2.0], CORNER, 0.0, 0.0),
    "a point": ([4.0, 4.0, 4.0, 4.0], CORNER, 0.0, -0.75),
    "inside out": ([3.0, 3.0, 1.0, 1.0], CORNER, 0.0, 0.0),
    "two equal points": ([1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0], 0.0, 0.0),
    "two equal lines": ([1.0, 0.0, 1.0, 9.0], [1.0, 0.0, 1.0, 9.0], 0.0, 0.0),
}
GAMMAS = (0.5, 0.8, 1.0)


def pair(name: str) -> tuple[Tensor, Tensor]:
    box, target, _, _ = CASES[name]
    return torch.tensor([box], requires_grad=True), torch.tensor([target])


@pytest.mark.parametrize("name", CASES)
def test_overlap_by_hand(name: str) -> None:
    box, target, iou, giou = CASES[name]
    found = overlap(torch.tensor([box]), torch.tensor([target]))
    assert found.iou.item() == pytest.approx(iou, abs=1e-6)
    assert found.giou.item() == pytest.approx(giou, abs=1e-6)


def test_overlap_agrees_with_torchvision() -> None:
    generator = torch.Generator().manual_seed(0)
    corner, size = torch.rand(2, 200, 2, generator=generator) * 100, torch.rand(2, 200, 2, generator=generator) * 50 + 1
    boxes, targets = torch.cat([corner, corner + size], dim=2)
    torch.testing.assert_close(overlap(boxes, targets).giou, generalized_box_iou(boxes, targets).diagonal())


@pytest.mark.parametrize(("shape", "other"), [((4,), (4,)), ((3, 4), (2, 4)), ((3, 5), (3, 5))])
def test_other_shapes_are_refused(shape: tuple[int, ...], other: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected \\(n, 4\\)"):
        overlap(torch.zeros(shape), torch.zeros(other))


@pytest.mark.parametrize(
    ("giou", "safe", "literal"),
    # 2^0.8 = 1.741101, 1.25^0.8 = 1.195440, (2/3)^0.8 = 0.722981
    [
        (1.0, 0.0, 0.0),
        (0.25, 0.896580, 0.896580),
        (0.0, 1.0, 1.0),
        (-1 / 3, 4 / 3, 0.963975),
        (-1.0, 2.0, 0.0),
    ],
)
def test_eiou_by_hand(giou: float, safe: float, literal: float) -> None:
    value = torch.tensor([giou])
    assert eiou_of_giou(value, EIoUMode.SAFE).item() == pytest.approx(safe, abs=1e-5)
    # At G = -1 the literal form is 0 up to the bound on its slope: (1e-6)^0.8 * 2.
    assert eiou_of_giou(value, EIoUMode.LITERAL).item() == pytest.approx(literal, abs=4e-5)
    assert eiou_of_giou(value, EIoUMode.STOP_GRADIENT).item() == pytest.approx(literal, abs=1e-5)


def slope(giou: float, mode: EIoUMode, gamma: float = 0.8) -> float:
    value = torch.tensor(giou, requires_grad=True)
    eiou_of_giou(value, mode, gamma).backward()
    assert value.grad is not None
    return float(value.grad)


@pytest.mark.parametrize("giou", [-0.9, -0.5, -0.2, -0.05, 0.1, 0.6, 0.95])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_slopes_by_hand(giou: float, gamma: float) -> None:
    literal = (1 + giou) ** (gamma - 1) * ((gamma - 1) - giou * (gamma + 1))
    assert slope(giou, EIoUMode.LITERAL, gamma) == pytest.approx(literal, abs=1e-5)
    assert slope(giou, EIoUMode.SAFE, gamma) == pytest.approx(literal if giou > 0 else -1.0, abs=1e-5)
    assert slope(giou, EIoUMode.STOP_GRADIENT, gamma) == pytest.approx(-((1 + giou) ** gamma), abs=1e-5)


def test_the_published_form_turns_round_at_minus_one_ninth() -> None:
    turn = (0.8 - 1) / (0.8 + 1)
    assert turn == pytest.approx(-0.111, abs=1e-3)
    assert slope(turn, EIoUMode.LITERAL) == pytest.approx(0.0, abs=1e-6)
    assert slope(turn - 0.01, EIoUMode.LITERAL) > 0
    assert slope(turn + 0.01, EIoUMode.LITERAL) < 0
    for mode in (EIoUMode.SAFE, EIoUMode.STOP_GRADIENT):
        assert slope(turn - 0.01, mode) < 0


@pytest.mark.parametrize("gamma", GAMMAS)
def test_only_the_published_form_is_not_monotone(gamma: float) -> None:
    giou = torch.linspace(-1, 1, 2001)
    assert (eiou_of_giou(giou, EIoUMode.SAFE, gamma).diff() < 0).all()
    literal = eiou_of_giou(giou, EIoUMode.LITERAL, gamma).diff() > 0
    assert literal.sum().item() == pytest.approx(((gamma - 1) / (gamma + 1) + 1) * 1000, abs=2)


def descend(mode: EIoUMode, steps: int) -> tuple[float, float]:
    """IoU and distance of the centres after gradient descent from a disjoint box, whose GIoU is -1/3."""
    box, target = pair("disjoint")
    for _ in range(steps):
        (gradient,) = torch.autograd.grad(eiou_loss(box, target, mode).sum(), box)
        # Only moved, not resized, so that nothing but the direction matters.
        moved = gradient[:, :2] + gradient[:, 2:]
        box = (box - 0.02 * torch.cat([moved, moved], 1)).detach().requires_grad_(True)
    return overlap(box, target).iou.item(), (box[0, :2] - target[0, :2]).norm().item()


def test_the_published_form_pushes_a_disjoint_box_away() -> None:
    iou, distance = descend(EIoUMode.LITERAL, 400)
    assert iou == 0
    assert distance > 2.5


@pytest.mark.parametrize("mode", [EIoUMode.SAFE, EIoUMode.STOP_GRADIENT])
def test_the_other_forms_pull_it_onto_its_target(mode: EIoUMode) -> None:
    iou, _ = descend(mode, 400)
    assert iou > 0.8


@pytest.mark.parametrize("mode", [EIoUMode.SAFE, EIoUMode.LITERAL])
@pytest.mark.parametrize("name", ["overlapping", "disjoint", "far apart", "inside"])
def test_gradients_agree_with_finite_differences(name: str, mode: EIoUMode) -> None:
    box, target = pair(name)
    eiou_loss(box, target, mode).sum().backward()
    step = 2e-3
    numeric = torch.tensor(
        [
            [
                (eiou_loss(box + d, target, mode).item() - eiou_loss(box - d, target, mode).item()) / (2 * step)
                for d in step * torch.eye(4)
            ]
        ]
    )
    torch.testing.assert_close(box.grad, numeric, atol=2e-3, rtol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mode", list(EIoUMode))
@pytest.mark.parametrize("unit", [1 / 64, 1.0, 300.0])
@pytest.mark.parametrize("name", CASES)
def test_every_pair_gives_finite_losses_and_gradients(
    name: str, mode: EIoUMode, dtype: torch.dtype, unit: float
) -> None:
    box = (torch.tensor([CASES[name][0]]) * unit).to(dtype).requires_grad_(True)
    target = (torch.tensor([CASES[name][1]]) * unit).to(dtype)
    loss = eiou_loss(box, target, mode)
    loss.sum().backward()
    assert loss.dtype is torch.float32
    assert 0 <= loss.item() <= 2
    assert box.grad is not None
    assert box.grad.dtype is dtype
    assert box.grad.isfinite().all()


coordinates = st.lists(st.integers(-32000, 32000).map(lambda value: value / 16), min_size=8, max_size=8)


@given(coordinates, st.sampled_from([torch.float32, torch.float16, torch.bfloat16]), st.sampled_from(list(EIoUMode)))
@settings(max_examples=300, deadline=None)
def test_any_boxes_give_finite_losses_and_gradients(values: list[float], dtype: torch.dtype, mode: EIoUMode) -> None:
    boxes = torch.tensor(values).view(2, 4).to(dtype)
    box = boxes[:1].clone().requires_grad_(True)
    iou, giou = overlap(box, boxes[1:])
    assert 0 <= iou.item() <= 1 + 1e-6
    assert -1 - 1e-6 <= giou.item() <= iou.item() + 1e-6
    loss = eiou_loss(box, boxes[1:], mode)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert box.grad is not None
    assert box.grad.isfinite().all()


def test_no_boxes_give_no_losses() -> None:
    empty = torch.zeros(0, 4, requires_grad=True)
    loss = eiou_loss(empty, torch.zeros(0, 4))
    assert loss.shape == (0,)
    loss.sum().backward()
