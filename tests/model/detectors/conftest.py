from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.detectors import factory
from model.detectors.torchvision_detector import TorchvisionDetector
from model.detectors.yolo import YoloDetector
from model.detectors.yolo_network import detect_head


def noise_image(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth coloured noise: something to look at for a network that was never trained."""
    import cv2

    coarse = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def make_lively(classes: tuple[str, ...], image_size: int = 96, seed: int = 0) -> YoloDetector:
    """An untrained detector that nevertheless finds boxes: its activations have unit variance, its head is random."""
    detector = factory.create("yolov5n", classes, image_size=image_size, device="cpu", seed=seed)
    assert isinstance(detector, YoloDetector)
    network = detector._network
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # plain average: the statistics are right after one pass
        network.train()
        network(torch.rand(8, 3, 64, 64, generator=generator))
        network.eval()
        head = detect_head(network)
        # Boxes much less random than classes: sharp random bins would magnify rounding differences.
        for branch in head.cv2:
            branch[-1].weight.normal_(0, 0.05, generator=generator)
        for branch in head.cv3:
            branch[-1].weight.normal_(0, 0.25, generator=generator)
            branch[-1].bias.fill_(-4.0)
    return detector


def make_lively_torchvision(
    architecture: str, classes: tuple[str, ...], image_size: int = 64, seed: int = 0, spread: float = 2.0
) -> TorchvisionDetector:
    """The same for torchvision's networks: class logits have a standard deviation of about `spread`."""
    detector = factory.create(architecture, classes, image_size=image_size, device="cpu", seed=seed)
    assert isinstance(detector, TorchvisionDetector)
    network = detector.network
    layers = detector._family.class_layers(network)
    heads = layers[:1] if hasattr(network, "roi_heads") else layers  # Faster R-CNN's second layer gives boxes
    norms: list[Any] = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    if hasattr(network, "roi_heads"):
        network.transform.min_size, network.transform.max_size = (64,), 64  # for torchvision's own forward below
    generator = torch.Generator().manual_seed(seed)
    # White noise moves every filter; statistics of smooth images would magnify rounding differences.
    pixels = list(torch.rand(8, 3, 64, 64, generator=generator))
    with torch.no_grad(), few_proposals(network):
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.train()
            norm.momentum = None  # plain average: the statistics are right after one pass
        if norms:
            network(pixels)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.eval()
            norm.momentum = momentum
        if hasattr(network, "roi_heads"):
            for level in range(len(network.backbone.fpn.layer_blocks)):
                scale_output(network, network.backbone.fpn.layer_blocks[level][0], 1.0)
        for head in heads:
            scale_output(network, head, spread)
    return detector


def scale_output(network: Any, layer: Any, deviation: float) -> None:
    """Give what `layer` says about smooth images this standard deviation."""
    found: list[float] = []
    hook = layer.register_forward_hook(lambda module, inputs, output: found.append(float(output.std())))
    network([torch.from_numpy(noise_image(64, 64)).permute(2, 0, 1).float() / 255])
    hook.remove()
    layer.weight.mul_(deviation / found[0])


@contextmanager
def few_proposals(network: Any, count: int = 60) -> Iterator[None]:
    """Keeps the box head of a Faster R-CNN small."""
    if not hasattr(network, "rpn"):
        yield
        return
    before = network.rpn._post_nms_top_n
    network.rpn._post_nms_top_n = {"training": count, "testing": count}
    yield
    network.rpn._post_nms_top_n = before


@pytest.fixture(name="lively_torchvision", scope="session")
def lively_torchvision_fixture() -> Callable[..., TorchvisionDetector]:
    return make_lively_torchvision


@pytest.fixture(name="lively", scope="session")
def lively_fixture() -> Callable[..., YoloDetector]:
    return make_lively


@pytest.fixture(name="noise", scope="session")
def noise_fixture() -> Callable[..., NDArray[np.uint8]]:
    return noise_image
