"""A torchvision detector as the training loop sees it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.detectors.family import Family, Network
from model.detectors.torchvision_losses import lent
from model.training.losses import DetectionLosses, LossConfig
from model.training.targets import Target


class TorchvisionTrainable:
    """See `TrainableNetwork`; the loss is torchvision's own unless something is switched on.

    Args:
        network: trained in place; with `losses.uncertainty` it has a variance head.
        family: that it belongs to.
        num_classes: without background.
        fast_factor: how much faster the class rows learn than the rest.
        losses: the switches.

    Attributes:
        loss_state: what the switched losses have learned, to be stored (`state_dict`) with a training that is to be
            resumed; None where they learn nothing.
    """

    def __init__(
        self,
        network: Network,
        family: Family,
        num_classes: int,
        fast_factor: float = 1.0,
        losses: LossConfig | None = None,
    ) -> None:
        self.module: nn.Module = network
        self.blocks: Sequence[nn.Module] = family.blocks(network)
        self.fast_factor = fast_factor
        self.fast_parameters: Sequence[nn.Parameter] = [
            parameter for layer in family.class_layers(network) for parameter in layer.parameters()
        ]
        for parameter in network.parameters():
            parameter.requires_grad_(True)
        self._family = family
        self.loss_state: DetectionLosses | None = None
        if losses is not None and not losses.library_only:
            self.loss_state = DetectionLosses(losses, num_classes).to(next(network.parameters()).device)

    def loss(self, images: Tensor, targets: Sequence[Target]) -> Tensor:
        """All parts of the loss, summed; torchvision averages them over images and sampled boxes."""
        with lent(self._family.place_of_losses(self.module), self.loss_state):
            losses = self.module(list(images), [{"boxes": t.xyxy, "labels": t.label + 1} for t in targets])
        return torch.stack([part.float() for part in losses.values()]).sum()
