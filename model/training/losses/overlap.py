"""Overlap of predicted boxes with their targets, pair by pair, with gradients that stay finite for every box."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

THINNEST = 1e-3
"""Areas count as at least this part of the square over the longer side of the enclosing box. It bounds gradients of
boxes without area (a box that is a line would have an infinite one) and changes nothing for boxes of less than
1,000 : 1."""
SMALLEST_AREA = 1e-12


class Overlap(NamedTuple):
    """Of n pairs of boxes; both have shape (n,), float32.

    Attributes:
        iou: intersection over union, in [0, 1].
        giou: generalised, in [-1, 1]; -1 for small boxes far apart, 1 for equal boxes.
    """

    iou: Tensor
    giou: Tensor


def overlap(boxes: Tensor, targets: Tensor) -> Overlap:
    """IoU and generalised IoU of each box with the target in the same row.

    Computed in float32 whatever comes in: areas of boxes in pixels leave the range of float16.

    Args:
        boxes: shape (n, 4), corners x1, y1, x2, y2 in any unit; n may be 0. Inside-out boxes count as without area.
        targets: shape (n, 4), in the same unit.

    Raises:
        ValueError: the shapes are not those.

    Source: Rezatofighi et al., CVPR 2019.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.shape != targets.shape:
        raise ValueError(
            f"boxes and targets have shapes {tuple(boxes.shape)} and {tuple(targets.shape)}, expected (n, 4)"
        )
    a, b = boxes.float(), targets.float()
    size_a = (a[:, 2:] - a[:, :2]).clamp_min(0)
    size_b = (b[:, 2:] - b[:, :2]).clamp_min(0)
    common = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp_min(0)
    around = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).clamp_min(0)
    floor = (THINNEST * around.detach().amax(1) ** 2).clamp_min(SMALLEST_AREA)
    shared = common[:, 0] * common[:, 1]
    union = size_a[:, 0] * size_a[:, 1] + size_b[:, 0] * size_b[:, 1] - shared
    enclosing = around[:, 0] * around[:, 1]
    iou = shared / torch.maximum(union, floor)
    giou = iou - (enclosing - union) / torch.maximum(enclosing, floor)
    return Overlap(iou, giou)
