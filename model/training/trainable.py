"""What the training loop trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from model.training.targets import Target


class TrainableNetwork(Protocol):
    """What a detector family gives the loop.

    It may also have `loss_state`, a module (or None) with what its loss learns in its buffers: that is stored with the
    state of a training that can be resumed.

    Attributes:
        module: trained in place.
        blocks: leading backbone blocks, in order, that can be frozen.
        fast_parameters: those that learn at `fast_factor` times the rate, e.g. the rows of new classes.
        fast_factor: at least 1.
    """

    module: nn.Module
    blocks: Sequence[nn.Module]
    fast_parameters: Sequence[nn.Parameter]
    fast_factor: float

    def loss(self, images: Tensor, targets: Sequence[Target]) -> Tensor:
        """Mean loss per image, a scalar; `images` has shape (b, 3, h, w), float32 in [0, 1], RGB."""
        ...
