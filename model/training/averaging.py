"""Exponential moving average of weights: the copy that is kept after a training."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


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
        self._pairs: tuple[nn.Module, list[Tensor], list[Tensor], list[tuple[Tensor, Tensor]]] | None = None

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards the present weights of `module`."""
        self.steps += 1
        decay = min(self._decay, (1 + self.steps) / (10 + self.steps))
        averaged, present, others = self._tensors(module)
        torch._foreach_lerp_(averaged, present, 1 - decay)
        for ours, theirs in others:
            ours.copy_(theirs)

    def _tensors(self, module: nn.Module) -> tuple[list[Tensor], list[Tensor], list[tuple[Tensor, Tensor]]]:
        """Floating values of the average and of `module`, and pairs of all others.

        Kept, because walking through a network of 200 layers takes a tenth of a small network's step. Training and
        resuming change values in place, so that the tensors stay the same ones.
        """
        if self._pairs is None or self._pairs[0] is not module:
            averaged, present = self.module.state_dict(), module.state_dict()
            floating = [name for name, value in averaged.items() if value.dtype.is_floating_point]
            others = [(ours, present[n]) for n, ours in averaged.items() if not ours.dtype.is_floating_point]
            self._pairs = (module, [averaged[n] for n in floating], [present[n] for n in floating], others)
        return self._pairs[1:]
