"""Loosens the weights of an earlier training, so that one on old and new labels generalises like a fresh one."""

from __future__ import annotations

import math

import torch
from torch import nn


def shrink_and_perturb(module: nn.Module, shrink: float, noise: float, *, seed: int, fixed_norms: bool = False) -> None:
    """Replace every weight w that is to be trained by `shrink * w + n`, with n from a normal distribution.

    Parameters that are frozen (`requires_grad` is False) and statistics stay. Batch normalisation brings shrunken
    activations back to their scale only where it goes on to measure them, so one with fixed statistics is refused.

    Args:
        module: changed in place.
        shrink: in (0, 1]; 1 keeps the weights.
        noise: standard deviation of n, at least 0.
        seed: of the noise, which is the same on every device.
        fixed_norms: the training will not update the statistics of batch normalisation.

    Raises:
        ValueError: a number is out of its range, or normalisation behind trained weights has fixed statistics.

    Source: Ash and Adams, NeurIPS 2020, "On warm-starting neural network training".
    """
    if not (0 < shrink <= 1 and noise >= 0 and math.isfinite(noise)):
        raise ValueError(f"shrink is {shrink} and noise {noise}, expected shrink in (0, 1] and noise of 0 or more")
    fixed = [name for name, inner in module.named_modules() if _has_fixed_statistics(inner, fixed_norms)]
    if fixed:
        raise ValueError(
            f"shrink_and_perturb needs normalisation that measures its statistics anew, found {len(fixed)} layers with "
            f"fixed ones (the first is {fixed[0]}); use a batch size of at least 8, or leave it off for this detector"
        )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                drawn = torch.randn(parameter.shape, generator=generator).to(parameter)
                parameter.mul_(shrink).add_(drawn, alpha=noise)


def _has_fixed_statistics(module: nn.Module, fixed_norms: bool) -> bool:
    if getattr(module, "running_var", None) is None:
        return False
    if not isinstance(module, nn.modules.batchnorm._BatchNorm):
        return True  # torchvision's FrozenBatchNorm2d, which has nothing but buffers
    # Its own scale tells whether it lies in a frozen block, whose weights are not shrunk either.
    return fixed_norms and any(parameter.requires_grad for parameter in module.parameters())
