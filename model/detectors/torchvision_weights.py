"""torchvision's own weights files: opens them, fetches them once, and keeps them as safetensors.

`fetch_base` takes those of a whole detector trained on COCO, or those of a backbone trained on ImageNet, for
experiments on data whose classes COCO knows already.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import MobileNet_V3_Large_Weights, ResNet50_Weights, VGG16_Weights
from torchvision.models.detection import (
    FasterRCNN_MobileNet_V3_Large_FPN_Weights,
    FasterRCNN_ResNet50_FPN_V2_Weights,
    SSD300_VGG16_Weights,
    SSDLite320_MobileNet_V3_Large_Weights,
)

from model.detectors.base import Detector
from model.detectors.base_weights import stored
from model.errors import WeightsRefused

COCO: Mapping[str, str] = {
    "ssd300_vgg16": SSD300_VGG16_Weights.COCO_V1.url,
    "ssdlite320_mobilenet_v3_large": SSDLite320_MobileNet_V3_Large_Weights.COCO_V1.url,
    "fasterrcnn_resnet50_fpn_v2": FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1.url,
    "fasterrcnn_mobilenet_v3_large_fpn": FasterRCNN_MobileNet_V3_Large_FPN_Weights.COCO_V1.url,
}
IMAGENET: Mapping[str, str] = {
    "ssd300_vgg16": VGG16_Weights.IMAGENET1K_FEATURES.url,
    "ssdlite320_mobilenet_v3_large": MobileNet_V3_Large_Weights.IMAGENET1K_V1.url,
    "fasterrcnn_resnet50_fpn_v2": ResNet50_Weights.IMAGENET1K_V1.url,
    "fasterrcnn_mobilenet_v3_large_fpn": MobileNet_V3_Large_Weights.IMAGENET1K_V1.url,
}
COCO_ROWS: tuple[str, ...] = tuple(SSD300_VGG16_Weights.COCO_V1.meta["categories"][1:])
"""Names of the 90 class rows of torchvision's COCO detectors; ten of them are called N/A and were never trained."""
UNUSED = "N/A"
CLASS_BIAS = {
    "ssd300_vgg16": ("head.classification_head.module_list.0.bias", 4),
    "ssdlite320_mobilenet_v3_large": ("head.classification_head.module_list.0.1.bias", 6),
    "fasterrcnn_resnet50_fpn_v2": ("roi_heads.box_predictor.cls_score.bias", 1),
    "fasterrcnn_mobilenet_v3_large_fpn": ("roi_heads.box_predictor.cls_score.bias", 1),
}
"""A tensor that tells the number of classes, and how many values it has for each."""


def read_state(path: Path) -> dict[str, Any]:
    """The tensors of a PyTorch file; nothing in it is run (PyTorch's restricted unpickler).

    Raises:
        WeightsRefused: no such file, damaged, or with something else than tensors.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise WeightsRefused(f"{path} is not a usable file of PyTorch tensors: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsRefused(f"{path} holds something else than named tensors")
    return state


def class_names(architecture: str, state: Mapping[str, Tensor], path: Path) -> tuple[int, tuple[str, ...]]:
    """Number of class rows without background, and their names where it is torchvision's COCO detector, else none.

    Raises:
        WeightsRefused: the tensors are of another architecture.
    """
    name, each = CLASS_BIAS[architecture]
    if name not in state:
        raise WeightsRefused(f"{path} holds no {architecture}: it lacks {name}")
    rows = len(state[name]) // each - 1
    return rows, COCO_ROWS if rows == len(COCO_ROWS) else ()


def load_state(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Fill `network` the way torchvision does, which also understands names of its older versions.

    Raises:
        WeightsRefused: a tensor is missing, left over or of another shape.
    """
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsRefused(f"{path} does not fit this network: {error}") from error


def backbone_name(architecture: str, name: str) -> str | None:
    """The name in the detector of the tensor `name` of its backbone's classifier; None if it has no place there."""
    if architecture == "fasterrcnn_resnet50_fpn_v2":
        return None if name.startswith("fc.") else f"backbone.body.{name}"
    match = re.fullmatch(r"features\.(\d+)\.(.+)", name)
    if match is None:
        return None
    layer, rest = int(match[1]), match[2]
    if architecture == "fasterrcnn_mobilenet_v3_large_fpn":
        return f"backbone.body.{layer}.{rest}"
    if architecture == "ssd300_vgg16":
        return f"backbone.features.{layer}.{rest}" if layer < 23 else f"backbone.extra.0.{layer - 23}.{rest}"
    if layer != 13:
        return f"backbone.features.0.{layer}.{rest}" if layer < 13 else f"backbone.features.1.{layer - 13}.{rest}"
    # SSDlite's first map is taken from the middle of this block.
    part, inner = rest.removeprefix("block.").split(".", 1)
    return f"backbone.features.0.13.{inner}" if part == "0" else f"backbone.features.1.0.{part}.{inner}"


def with_backbone(architecture: str, network: nn.Module, state: Mapping[str, Tensor]) -> int:
    """Copy a classifier's tensors into the backbone of `network`.

    Those that do not fit are left: SSDlite has half the channels after the thirteenth layer.

    Returns:
        How many were copied.
    """
    own = network.state_dict()
    places = {backbone_name(architecture, name): value for name, value in state.items()}
    fitting = {
        name: value
        for name, value in places.items()
        if name is not None and name in own and own[name].shape == value.shape
    }
    network.load_state_dict(fitting, strict=False)
    return len(fitting)


def fetch_base(
    architecture: str, folder: Path, *, imagenet: bool = False, url: str | None = None, timeout: float = 5.0
) -> Path | None:
    """Store torchvision's weights as `<folder>/<architecture>.safetensors`.

    The original file is taken from `folder` if somebody put it there, else downloaded; the hash in its name is
    checked, and no code from it is run.

    Args:
        architecture: a key of `COCO`.
        folder: of base weights, created if missing.
        imagenet: only the backbone, trained on ImageNet; the file's name then ends in `-imagenet.safetensors`.
        url: of the original; None for torchvision's own.
        timeout: seconds for the connection and for each read.

    Returns:
        See `base_weights.stored`.
    """

    def make(original: Path) -> Detector:
        _check_hash(original)
        return _detector_of(architecture, original, imagenet=imagenet)

    target = folder / f"{architecture}{'-imagenet' if imagenet else ''}.safetensors"
    return stored(target, url or (IMAGENET if imagenet else COCO)[architecture], make, timeout)


def _check_hash(path: Path) -> None:
    expected = path.stem.rsplit("-", 1)[-1]
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if not digest.hexdigest().startswith(expected):
        raise WeightsRefused(f"{path.name} has the hash {digest.hexdigest()[:8]}, expected {expected}: it is damaged")


def _detector_of(architecture: str, original: Path, *, imagenet: bool) -> Detector:
    from model.detectors import torchvision_detector as detectors

    options: dict[str, Any] = {"image_size": 640, "device": torch.device("cpu"), "seed": 0}
    if not imagenet:
        return detectors.create(architecture, None, base=original, allow_pickle=True, **options)
    detector = detectors.create(architecture, (), base=None, allow_pickle=False, **options)
    if not with_backbone(architecture, detector.network, read_state(original)):
        raise WeightsRefused(f"{original.name} has no tensor that fits the backbone of {architecture}")
    detector.pretrained, detector.from_random = True, False
    return detector
