"""Changes how many classes the last layer of a head has, without losing what it knows."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def rows_of(old: Sequence[str], new: Sequence[str]) -> list[int | None]:
    """For background and then each name in `new`: its row in a head with background and then `old`, None if fresh."""
    position = {name: row for row, name in enumerate(old, start=1)}
    return [0, *(position.get(name) for name in new)]


def with_rows(
    layer: Layer, rows: Sequence[int | None], *, groups: int, width: int, std: float, generator: torch.Generator
) -> Layer:
    """A copy of `layer` with one set of outputs per entry of `rows`.

    Args:
        layer: its outputs are ordered (group, class, width), e.g. (anchor, class, 4).
        rows: which class of `layer` each class of the result copies; None starts fresh.
        groups: see `layer`.
        width: outputs per class and group.
        std: fresh weights are drawn from N(0, std), fresh biases are 0.
        generator: of the fresh weights.
    """
    weight: Tensor = layer.weight.detach()
    bias: Tensor | None = layer.bias
    if bias is None:
        raise ValueError(f"the last layer of a head needs a bias, found {layer}")
    inputs: tuple[int, ...] = tuple(weight.shape[1:])
    old_weight, old_bias = weight.reshape(groups, -1, width, *inputs), bias.detach().view(groups, -1, width)
    new_weight = torch.empty((groups, len(rows), width, *inputs)).normal_(0, std, generator=generator).to(weight)
    new_bias = torch.zeros(groups, len(rows), width).to(weight)
    for to, source in enumerate(rows):
        if source is not None:
            new_weight[:, to], new_bias[:, to] = old_weight[:, source], old_bias[:, source]
    result = copy.deepcopy(layer)
    result.weight, result.bias = nn.Parameter(new_weight.flatten(0, 2)), nn.Parameter(new_bias.flatten())
    if isinstance(result, nn.Linear):
        result.out_features = len(result.bias)
    else:
        result.out_channels = len(result.bias)
    return result
