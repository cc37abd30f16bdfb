"""A batch on the training device, as networks take it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.training.sampling import Batch


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """True boxes of one image, on the training device.

    Attributes:
        xyxy: shape (n, 4), float32, pixels of the training image; n may be 0.
        label: shape (n,), int64.
    """

    xyxy: Tensor
    label: Tensor


def to_device(batch: Batch, device: torch.device) -> tuple[Tensor, list[Target]]:
    """Images as (b, 3, h, w) float32 in [0, 1] in channels-last memory, and targets, on `device`."""
    # Permuting (b, h, w, 3) gives channels-last strides without a copy.
    images = torch.from_numpy(batch.images).to(device).permute(0, 3, 1, 2).float().div_(255)
    counts = [len(label) for label in batch.label]
    xyxy = torch.from_numpy(np.concatenate(batch.xyxy)).to(device).split(counts)
    label = torch.from_numpy(np.concatenate(batch.label)).to(device).split(counts)
    return images, [Target(*pair) for pair in zip(xyxy, label, strict=True)]
