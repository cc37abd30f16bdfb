"""Embeddings from feature maps that a forward pass has computed anyway."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def cell_features(features: Sequence[Tensor], image: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Feature vectors of places in images, shape (n, D), unit length; D is the sum of all channels.

    Every map is read at the same place, so that boxes found at different levels can be compared; each map has the
    same weight.

    Args:
        features: maps of shape (b, channels, h, w).
        image: shape (n,), int64, index into b.
        row: shape (n,), float32, vertical place in [0, 1] of the map's height.
        column: shape (n,), likewise of its width.
    """
    parts = []
    for feature in features:
        height, width = feature.shape[2:]
        y, x = (row * height).long().clamp_(0, height - 1), (column * width).long().clamp_(0, width - 1)
        parts.append(torch.nn.functional.normalize(feature[image, :, y, x].float(), dim=1))
    return torch.cat(parts, dim=1) / len(parts) ** 0.5
