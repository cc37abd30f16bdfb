"""Emphasis IoU: a box loss that weighs boxes by how well they fit already."""

from __future__ import annotations

from torch import Tensor

from model.training.loss_config import EIoUMode
from model.training.losses.overlap import overlap

STEEPEST = 1e-6
"""Least 1 + GIoU whose slope the literal form still sees; at 0 it would be infinite."""


def eiou_of_giou(giou: Tensor, mode: EIoUMode = EIoUMode.SAFE, gamma: float = 0.8) -> Tensor:
    """Emphasis IoU loss of generalised IoUs.

    As published it is `(1 + G)^gamma * (1 - G)`, said to be monotone. It is not: its slope
    `(1 + G)^(gamma - 1) * ((gamma - 1) - G * (gamma + 1))` is positive for `G < (gamma - 1) / (gamma + 1)`, which is
    -0.111 at gamma 0.8, and there training pushes a box *away* from its target.

    Args:
        giou: any shape, in [-1, 1].
        mode: SAFE is `(1 + max(G, 0))^gamma * (1 - G)`: the published loss for G >= 0, the plain GIoU loss below, so
            always falling with G. LITERAL is the published one, to reproduce it. STOP_GRADIENT has its value, but
            treats the weight `(1 + G)^gamma` as a constant: it always pulls the right way, though not at all at G = -1.
        gamma: in (0, 1].

    Returns:
        The shape of `giou`, float32, in [0, 2]; 0 for equal boxes.

    Source: Nguyen et al., IEEE Big Data 2023 (HUALE); SAFE is ours.
    """
    value = giou.float()
    if mode is EIoUMode.SAFE:
        weight = 1 + value.clamp_min(0)
    elif mode is EIoUMode.LITERAL:
        weight = (1 + value).clamp_min(STEEPEST)
    else:
        weight = (1 + value.detach()).clamp_min(0)
    return weight.pow(gamma) * (1 - value)


def eiou_loss(boxes: Tensor, targets: Tensor, mode: EIoUMode = EIoUMode.SAFE, gamma: float = 0.8) -> Tensor:
    """Emphasis IoU loss of each box with the target in the same row.

    Args:
        boxes: shape (n, 4), corners; n may be 0.
        targets: shape (n, 4), in the same unit.
        mode: see `eiou_of_giou`.
        gamma: in (0, 1].

    Returns:
        Shape (n,), float32, in [0, 2], not reduced.
    """
    return eiou_of_giou(overlap(boxes, targets).giou, mode, gamma)
