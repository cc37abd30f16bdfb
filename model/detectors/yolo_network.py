"""Builds Ultralytics networks and changes their class list; nothing here knows images or files of ours."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.detectors.ultralytics_library import (
    Conv,
    Detect,
    DetectionModel,
    get_cfg,
    torch_safe_load,
    yaml_model_load,
)
from model.detectors.yolo_layers import check_layers
from model.detectors.yolo_loss import switched_loss
from model.errors import WeightsRefused
from model.training.losses import LossConfig
from model.training.targets import Target

PARAMETERS = {
    "yolov5n": 2_654_816,
    "yolov5s": 9_153_152,
    "yolov5m": 25_111_456,
    "yolov5l": 53_225_024,
    "yolov5x": 97_276_448,
}
"""Of the network with 80 classes; building checks it, because a wrong scale is otherwise silent."""

CLASS_BRANCHES = ("cv3", "one2one_cv3")

Network = Any
"""A `DetectionModel`; Ultralytics gives it attributes at run time that no type checker can see."""


def network_description(architecture: str) -> dict[str, Any]:
    """The layer list of `architecture`: one of `PARAMETERS`, or the path or name of an Ultralytics YAML.

    Raises:
        ValueError: no such file, or its name does not say which of its scales is meant.
    """
    name = architecture if architecture.endswith((".yaml", ".yml")) else f"{architecture}.yaml"
    try:
        layers = yaml_model_load(name)
    except FileNotFoundError as error:
        raise ValueError(f"{architecture!r} is neither a known architecture nor an Ultralytics YAML file") from error
    if layers.get("scales") and layers.get("scale") not in layers["scales"]:
        raise ValueError(
            f"{architecture!r} has the scales {', '.join(layers['scales'])}, and its file name says none of them; "
            "name it as Ultralytics does, e.g. yolov8n.yaml"
        )
    return {key: value for key, value in layers.items() if key not in ("yaml_file", "ch", "channels")}


def build(layers: dict[str, Any], num_classes: int, *, seed: int = 0, class_width: int | None = None) -> Network:
    """A network with random weights.

    Args:
        layers: from `network_description`.
        num_classes: at least 1.
        seed: of the weights.
        class_width: channels inside the class branch; None for Ultralytics' choice, which depends on `num_classes`.

    Raises:
        WeightsRefused: the layers name something else than layers.
    """
    check_layers(layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: Network = DetectionModel({**copy.deepcopy(layers), "nc": num_classes}, verbose=False)
        head = detect_head(network)
        if class_width is not None and class_width != head.cv3[0][-1].in_channels:
            _rebuild_class_branches(head, class_width)
    head.end2end = False
    network.args = get_cfg()
    return network


def check_size(architecture: str, network: Network) -> None:
    """Make sure that a named architecture has its own number of parameters.

    Raises:
        RuntimeError: it has not, i.e. another scale was built.
    """
    expected = PARAMETERS.get(architecture)
    if expected is None:
        return
    head = detect_head(network)
    outside = sum(p.numel() for p in network.parameters()) - sum(p.numel() for p in head.cv3.parameters())
    found = outside + _class_branch_size([branch[0].conv.in_channels for branch in head.cv3], 80)
    if found != expected:
        raise RuntimeError(f"{architecture} would have {found:,} parameters with 80 classes, expected {expected:,}")


def _class_branch_size(inputs: Sequence[int], num_classes: int) -> int:
    width = max(inputs[0], min(num_classes, 100))
    convolutions = sum(9 * c * width + 9 * width * width + 4 * width for c in inputs)
    return convolutions + len(inputs) * (width + 1) * num_classes


def _rebuild_class_branches(head: Any, width: int) -> None:
    if not head.legacy:
        raise WeightsRefused(f"a class branch of {width} channels was found, expected {head.cv3[0][-1].in_channels}")
    inputs = [branch[0].conv.in_channels for branch in head.cv3]
    head.cv3 = nn.ModuleList(
        nn.Sequential(Conv(c, width, 3), Conv(width, width, 3), nn.Conv2d(width, head.nc, 1)) for c in inputs
    )
    for module in head.cv3.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = 1e-3, 0.03  # as Ultralytics' initialize_weights sets everywhere
    head.bias_init()


def detect_head(network: Network) -> Any:
    """The last layer.

    Raises:
        WeightsRefused: it is no detection head, e.g. of a segmentation network.
    """
    head = network.model[-1]
    if type(head) is not Detect:
        raise WeightsRefused(f"the network ends in {type(head).__name__}, expected a Detect head (boxes only)")
    return head


def set_classes(network: Network, old: Sequence[str], new: Sequence[str], *, seed: int = 0) -> list[str]:
    """Give the class head one row per name in `new`; rows of names that are also in `old` keep their weights.

    Args:
        network: changed in place.
        old: names of the present rows.
        new: names of the wanted rows, at least one.
        seed: of fresh rows.

    Returns:
        The names that start fresh.
    """
    head = detect_head(network)
    generator = torch.Generator().manual_seed(seed)
    position = {name: row for row, name in enumerate(old)}
    kept = [(row, position[name]) for row, name in enumerate(new) if name in position]
    for branch_name in CLASS_BRANCHES:
        for level, branch in enumerate(getattr(head, branch_name, None) or ()):
            branch[-1] = _resized(branch[-1], len(new), kept, float(head.stride[level]), generator)
    head.nc = len(new)
    head.no = head.nc + 4 * head.reg_max
    network.yaml["nc"] = len(new)
    network.names = dict(enumerate(new))
    network.criterion = None  # it remembers the number of classes
    return [name for name in new if name not in position]


def _resized(
    layer: nn.Conv2d, rows: int, kept: Sequence[tuple[int, int]], stride: float, generator: torch.Generator
) -> nn.Conv2d:
    fresh = nn.Conv2d(layer.in_channels, rows, 1)
    with torch.no_grad():
        bound = 1 / math.sqrt(layer.in_channels)  # PyTorch's own default for a 1 x 1 convolution
        fresh.weight.uniform_(-bound, bound, generator=generator)
        assert fresh.bias is not None
        assert layer.bias is not None
        # About 5 objects among all cells of a 640 pixel image: Ultralytics' prior.
        fresh.bias.fill_(math.log(5 / rows / (640 / stride) ** 2))
        for to, source in kept:
            fresh.weight[to] = layer.weight[source].cpu()
            fresh.bias[to] = layer.bias[source].cpu()
    return fresh.to(layer.weight.device).train(layer.training)


def class_width(tensors: dict[str, Tensor]) -> int | None:
    """Channels inside the class branch of stored weights, None where they have none of our form."""
    for name, value in tensors.items():
        if re.fullmatch(r"model\.\d+\.cv3\.0\.2\.weight", name):
            return int(value.shape[1])
    return None


def read_ultralytics_file(path: Path) -> tuple[Network, tuple[str, ...]]:
    """Network and class names of an Ultralytics `.pt` file.

    Only classes of torch and Ultralytics are unpickled (Ultralytics' restricted loader).

    Raises:
        WeightsRefused: damaged, no detection network, or with other pickled classes.
    """
    if not path.is_file():  # Ultralytics would try to download it
        raise WeightsRefused(f"there is no file {path}")
    try:
        checkpoint, _ = torch_safe_load(str(path), safe_only=True)
        stored = (checkpoint.get("ema") or checkpoint["model"]).float()
    except Exception as error:
        raise WeightsRefused(f"{path} is not a usable Ultralytics checkpoint: {error}") from error
    if not isinstance(stored, DetectionModel):
        raise WeightsRefused(f"{path} holds a {type(stored).__name__}, expected a DetectionModel")
    detect_head(stored)
    names = stored.names if isinstance(stored.names, dict) else dict(enumerate(stored.names))
    return stored, tuple(str(names[i]) for i in range(len(names)))


class YoloTrainable:
    """A YOLO network as the training loop sees it; the loss is Ultralytics' own unless something is switched on.

    Args:
        network: trained in place.
        fast_factor: how much faster the class rows learn than the rest.
        losses: the switches.

    Attributes:
        loss_state: what the switched losses have learned, to be stored (`state_dict`) with a training that is to be
            resumed; None where they learn nothing.
    """

    def __init__(self, network: Network, fast_factor: float = 1.0, losses: LossConfig | None = None) -> None:
        self.module: nn.Module = network
        self.blocks: Sequence[nn.Module] = list(network.model)[: len(network.yaml["backbone"])]
        self.fast_factor = fast_factor
        head = detect_head(network)
        for parameter in network.parameters():
            parameter.requires_grad_(True)
        head.dfl.requires_grad_(False)  # its weights are the fixed bin numbers
        self.fast_parameters: Sequence[nn.Parameter] = [
            p for name in CLASS_BRANCHES for branch in getattr(head, name, None) or () for p in branch[-1].parameters()
        ]
        self._criterion = network.init_criterion()
        self.loss_state: nn.Module | None = None
        if losses is not None and not losses.library_only:
            self.loss_state = switched_loss(self._criterion, losses).to(next(network.parameters()).device)

    def loss(self, images: Tensor, targets: Sequence[Target]) -> Tensor:
        """Box, class and distribution loss, summed, per image."""
        if self.loss_state is not None:
            predictions = self.module(images)
            with torch.autocast(images.device.type, enabled=False):
                switched: Tensor = self.loss_state(_as_float(predictions), targets)
            return switched
        height, width = images.shape[2:]
        counts = torch.tensor([len(t.label) for t in targets], device=images.device)
        xyxy = torch.cat([t.xyxy for t in targets])
        scale = torch.tensor([width, height], device=images.device, dtype=xyxy.dtype)
        batch = {
            "batch_idx": torch.arange(len(targets), device=images.device).repeat_interleave(counts).float(),
            "cls": torch.cat([t.label for t in targets]).float().view(-1, 1),
            "bboxes": torch.cat([(xyxy[:, :2] + xyxy[:, 2:]) / 2 / scale, (xyxy[:, 2:] - xyxy[:, :2]) / scale], 1),
        }
        predictions = self.module(images)
        with torch.autocast(images.device.type, enabled=False):
            total, _ = self._criterion(_as_float(predictions), batch)
        return total.sum() / len(targets)


def _as_float(value: Any) -> Any:
    """The raw predictions in full precision: assignment and box regression are too coarse in half."""
    if isinstance(value, Tensor):
        return value.float()
    if isinstance(value, dict):
        return {key: _as_float(item) for key, item in value.items()}
    return [_as_float(item) for item in value]
