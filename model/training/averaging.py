"""Exponential moving average of weights: the copy that is kept after a training."""

from __future__ import annotations

import copy

import torch
from torch import nn


class WeightAverage:
    """Follows a module's weights and buffers.

    The decay ramps up as (1 + t) / (10 + t), so that a short training is not held back by its starting weights.

    Attributes:
        module: the averaged copy, in eval mode, without gradients.
        steps: updates so far, which the decay depends on.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self._decay = decay
        self.steps = 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards the present weights of `module`."""
        self.steps += 1
        decay = min(self._decay, (1 + self.steps) / (10 + self.steps))
        averaged, present = self.module.state_dict(), module.state_dict()
        floating = [name for name, value in averaged.items() if value.dtype.is_floating_point]
        torch._foreach_lerp_([averaged[n] for n in floating], [present[n] for n in floating], 1 - decay)
        for name in averaged.keys() - set(floating):
            averaged[name].copy_(present[name])
