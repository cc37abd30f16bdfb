"""Class-wise factors of the Emphasis loss: what a class is still bad at counts more."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def emphasis_factor(quality: Tensor, maximum: float, curve: float) -> Tensor:
    """`maximum * curve * ln(1 + (e^(1/curve) - 1) * (1 - quality))`, from 0 for a perfect class to `maximum`.

    Args:
        quality: any shape, in [0, 1].
        maximum: at least 0.
        curve: at least 0.02; smaller lets the factor rise earlier.

    Source: the shape is the class weight of Yang et al., CVPR 2024 (PPAL); HUALE publishes `1 + beta` without beta.
    """
    difficulty = (1 - quality.float()).clamp(0, 1)
    return maximum * curve * torch.log1p(math.expm1(1 / curve) * difficulty)


class EmphasisFactors(nn.Module):
    """The running quality of every class in one branch (classification or localisation), and the weights it asks for.

    A class that was never seen gets no emphasis: nothing is known of it, and it has no example whose weight could be
    raised. Its state is in buffers, so a training that is resumed from a `state_dict` goes on as if unbroken.

    Args:
        num_classes: at least 1.
        maximum: largest factor.
        curve: see `emphasis_factor`.
        momentum: of the running quality. The first updates of a class are averaged evenly (momentum t / (t + 1)), so
            that the noise of its first step does not stay for long.
        neutral: divide the weights of the positives by their mean.
    """

    quality: Tensor
    updates: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        maximum: float = 0.5,
        curve: float = 0.3,
        momentum: float = 0.99,
        neutral: bool = False,
    ) -> None:
        super().__init__()
        self.maximum, self.curve, self.momentum, self.neutral = maximum, curve, momentum, neutral
        self.register_buffer("quality", torch.ones(num_classes))
        self.register_buffer("updates", torch.zeros(num_classes))

    def factors(self) -> Tensor:
        """The present factor of each class, shape (C,), float32, in [0, maximum]."""
        return emphasis_factor(self.quality, self.maximum, self.curve)

    @torch.no_grad()
    def weights(self, label: Tensor, *, active: Tensor | bool = True) -> Tensor:
        """`1 + factor` of the class of each row, 1 for background.

        Args:
            label: shape (n,), int64 in [0, C); negative is background. n may be 0.
            active: a scalar; False gives 1 for every row (warm-up).

        Returns:
            Shape (n,), float32, without gradient.
        """
        positive = label >= 0
        weight = torch.where(positive & active, 1 + self.factors()[label.clamp_min(0)], 1.0)
        if not self.neutral:
            return weight
        mean = torch.where(positive, weight, 0.0).sum() / positive.sum().clamp_min(1)
        return torch.where(positive, weight / mean.clamp_min(1e-6), 1.0)

    @torch.no_grad()
    def observe(self, label: Tensor, quality: Tensor) -> None:
        """Take in one step: the mean quality of each class among its positives.

        Args:
            label: shape (n,), int64; negative rows (background) are ignored.
            quality: shape (n,), in [0, 1]: the probability of the true class, or the IoU with the true box.
        """
        index = label.clamp_min(0)
        positive = (label >= 0).float()
        value = torch.where(label >= 0, quality.detach().float().clamp(0, 1), 0.0)
        count = torch.zeros_like(self.quality).index_add_(0, index, positive)
        mean = torch.zeros_like(self.quality).index_add_(0, index, value) / count.clamp_min(1)
        keep = (self.updates / (self.updates + 1)).clamp_max(self.momentum)
        seen = count > 0
        self.quality.copy_(torch.where(seen, keep * self.quality + (1 - keep) * mean, self.quality))
        self.updates.add_(seen.float())
