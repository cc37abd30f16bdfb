"""Detectors whose speed can be measured without trained weights: they find about as much as trained ones do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from model.detectors.base import Detector, View
from model.detectors.factory import create, find_base
from model.detectors.torchvision_detector import TorchvisionDetector, family_of

MIN_SCORE = 0.05
BOXES = 20
"""Per image above `MIN_SCORE`, about."""
CALIBRATED_ON = 2


def detector_for(
    architecture: str, classes: Sequence[str], image_size: int, images: Sequence[NDArray[np.uint8]]
) -> Detector:
    """The detector of the base checkpoint that comes with the project; without one, see `_quieten`.

    Args:
        architecture: one of `factory.architectures()`.
        classes: its label names.
        image_size: pixels of the longer side.
        images: it finds about `BOXES` boxes in each of them.
    """
    detector = create(architecture, classes, image_size=image_size, base=find_base(architecture, None))
    if isinstance(detector, TorchvisionDetector) and not detector.pretrained:
        _quieten(detector, images)
    return detector


def _quieten(detector: TorchvisionDetector, images: Sequence[NDArray[np.uint8]]) -> None:
    """Shift the background logits of a random network until few boxes are left.

    How long decoding and suppression take depends on how much passes the threshold. A random network says everything
    everywhere, which would make the library slow: it looks at every class of every box.
    """
    network: Any = detector.network
    norms: list[Any] = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = None  # plain average: one pass makes them right
    if norms:
        detector.predict(images[:CALIBRATED_ON])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum
    layers: list[Any] = family_of(detector.architecture).class_layers(network)
    layers = layers[:1] if hasattr(network, "roi_heads") else layers  # Faster R-CNN's second layer gives boxes
    rows = len(detector.classes) + 1
    with torch.no_grad():
        for layer in layers:
            layer.weight.normal_(0, layer.weight[0].numel() ** -0.5)
            layer.bias.zero_()
        low, high = -20.0, 40.0
        for _ in range(8):
            middle = (low + high) / 2
            for layer in layers:
                layer.bias.view(-1, rows)[:, 0] = middle
            found = detector.predict(images[:CALIBRATED_ON], min_score=MIN_SCORE)
            many = float(np.mean([len(views[View.ORIGINAL]) for views in found])) > BOXES
            low, high = (middle, high) if many else (low, middle)
