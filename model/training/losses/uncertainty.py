"""Regression that also learns how far off it is: a variance for every side or coordinate of a box."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

LIMIT = 7.0
"""Log variances stay in [-7, 7]: e^7 is about 1,100, so a box is never weighted by more."""


class _Bounded(torch.autograd.Function):
    """`clamp` whose gradient passes where a step along it leads back inside; a plain clamp would never let go."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        ctx.save_for_backward(value)
        return value.clamp(-LIMIT, LIMIT)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (value,) = ctx.saved_tensors
        outwards = ((value > LIMIT) & (gradient < 0)) | ((value < -LIMIT) & (gradient > 0))
        return torch.where(outwards, torch.zeros_like(gradient), gradient)


def bounded_log_variance(raw: Tensor) -> Tensor:
    """What a variance head gives, as log variance in [-7, 7], float32.

    Outside of the range the gradient is kept as long as following it leads back.
    """
    bounded: Tensor = _Bounded.apply(raw.float())
    return bounded


def uncertain_smooth_l1(difference: Tensor, log_variance: Tensor) -> Tensor:
    """Smooth L1 loss attenuated by a predicted variance, element by element.

    With `a` the log variance: `e^-a * d^2 / 2 + a / 2` for `|d| <= 1`, `e^-a * (|d| - 1/2) + a / 2` beyond. At `a = 0`
    this is the smooth L1 loss (beta 1). The published sketch divides by a variance that is squared once more and can
    reach 0; the logarithm cannot.

    Args:
        difference: prediction minus target, any shape.
        log_variance: raw output of the head, same shape; clamped to [-7, 7] here.

    Returns:
        The same shape, float32; may be negative, at least -3.5.

    Source: He et al., CVPR 2019 (KL loss).
    """
    alpha = bounded_log_variance(log_variance)
    size = difference.float().abs()
    # Without the clamp the unused branch overflows for huge differences, and its gradient with it.
    error = torch.where(size > 1, size - 0.5, size.clamp_max(1) ** 2 / 2)
    return torch.exp(-alpha) * error + alpha / 2


def initialise_variance_head(layer: nn.Module) -> None:
    """Start a variance head at variance 1 everywhere: weights from N(0, 1e-4), biases 0.

    Args:
        layer: a `Linear` or a convolution, or a module of those; changed in place.

    Source: He et al., CVPR 2019.
    """
    for module in layer.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.normal_(module.weight, std=1e-4)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def side_std_of_deltas(log_variance: Tensor, boxes: Tensor, anchors: Tensor, weights: tuple[float, ...]) -> Tensor:
    """Standard deviation of a box's sides from log variances of its encoded offsets (dx, dy, dw, dh).

    The coder's inverse is `cx = ax + aw * dx / wx`, `w = aw * exp(dw / ww)`, with centre `ax` and width `aw` of the
    anchor; the sides are `cx -+ w / 2`. So `std(cx) = aw * std(dx) / wx`, exactly, and `std(w) = w * std(dw) / ww` to
    first order, because the slope of `w` along `dw` is `w / ww`. With centre and size taken for independent, which is
    what one variance for each offset says, `std(side)^2 = std(cx)^2 + std(w)^2 / 4` for left and right alike; for top
    and bottom the same with `cy` and `h`.

    Args:
        log_variance: shape (n, 4), raw output of the head, in squared encoded units.
        boxes: shape (n, 4), the decoded boxes, corners.
        anchors: shape (n, 4), what the offsets refer to, in the unit of `boxes`.
        weights: of the box coder, four numbers that offsets were multiplied with.

    Returns:
        Shape (n, 4), float32, of left, top, right, bottom in the unit of `boxes`.
    """
    scale = torch.tensor(weights, device=log_variance.device)
    std = torch.exp(bounded_log_variance(log_variance) / 2) / scale
    centre = std[:, :2] * (anchors[:, 2:] - anchors[:, :2]).float()
    size = std[:, 2:] * (boxes[:, 2:] - boxes[:, :2]).float()
    side = torch.sqrt(centre**2 + size**2 / 4)
    return torch.cat([side, side], dim=1)
