"""What a family of torchvision networks tells `TorchvisionDetector`, and what the families share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms, remove_small_boxes

from model.detectors.canvas import Canvas

Network = Any
"""A torchvision detector; its parts are found by name, which no type checker can follow."""

MIN_SIDE = 1e-2
"""Boxes narrower than this many pixels are nothing that a person could see or correct."""


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Boxes in one image of a batch.

    Attributes:
        xyxy: shape (n, 4), float32, pixels of the resized image.
        label: shape (n,), int64, 0-based without background.
        probs: shape (n, C + 1), float32, background last.
        embedding: shape (n, D), float32, unit length.
        image_embedding: shape (E,), float32.
        side_std: shape (n, 4), float32, standard deviation of left, top, right, bottom in pixels of the resized image;
            None without a variance head.
    """

    xyxy: Tensor
    label: Tensor
    probs: Tensor
    embedding: Tensor
    image_embedding: Tensor
    side_std: Tensor | None = None


class Family(Protocol):
    """A kind of network.

    Attributes:
        name: as in `detector.json`.
        architectures: names of torchvision's builder functions.
        batch: images per forward pass, by device type.
        stretched: whether images fill a square, or keep their proportions.
    """

    name: str
    architectures: tuple[str, ...]
    batch: Mapping[str, int]
    stretched: bool

    def image_size(self, architecture: str, wanted: int) -> int:
        """Pixels of the longer side that the network sees when `wanted` are asked for.

        Raises:
            ValueError: too small.
        """
        ...

    def learning_rate(self, architecture: str, *, pretrained: bool) -> float:
        """Peak rate of AdamW to begin with; `docs/algorithms.md` says how little was tried."""
        ...

    def build(self, architecture: str, num_classes: int) -> Network:
        """A network with random weights from torch's global state; `num_classes` without background."""
        ...

    def canvas(self, height: int, width: int, size: int) -> Canvas:
        """Where an image goes."""
        ...

    def find(self, network: Network, pixels: Tensor, canvases: Sequence[Canvas], min_score: float) -> list[Found]:
        """Boxes in each image of a batch that `draw` made; `network` is in eval mode."""
        ...

    def set_rows(self, network: Network, rows: Sequence[int | None], generator: torch.Generator) -> None:
        """Give the class head these rows (`class_rows.rows_of`), in place."""
        ...

    def has_variance(self, network: Network) -> bool:
        """Whether it says how sure it is of the sides of its boxes."""
        ...

    def set_variance(self, network: Network, wanted: bool) -> None:
        """Add a fresh variance head, from torch's global random state, or remove the one that is there, in place."""
        ...

    def place_of_losses(self, network: Network) -> nn.Module:
        """The part that computes losses and takes others in its attribute `losses`."""
        ...

    def blocks(self, network: Network) -> list[nn.Module]:
        """Leading backbone blocks, in order, that can be frozen."""
        ...

    def class_layers(self, network: Network) -> list[nn.Module]:
        """The layers whose rows belong to classes."""
        ...


def keep_best(
    xyxy: Tensor,
    score: Tensor,
    label: Tensor,
    *,
    min_score: float,
    overlap: float,
    at_most: int,
    per_class: int | None = None,
) -> Tensor:
    """Positions of the boxes that survive class-wise non-maximum suppression, best first.

    Unlike torchvision, each row is one box with one class, its winning one. A proposal or anchor that is returned
    under several classes would be counted several times by every score that sums over boxes, and be shown to a
    person as boxes on top of each other.

    Args:
        xyxy: shape (n, 4).
        score: shape (n,).
        label: shape (n,).
        min_score: lower scores are dropped.
        overlap: IoU above which the weaker of two boxes of one class is dropped.
        at_most: boxes kept.
        per_class: candidates that enter the suppression per class, which bounds its time; None for all.
    """
    index = torch.where(score >= min_score)[0]
    index = index[remove_small_boxes(xyxy[index], MIN_SIDE)]
    if per_class is not None:
        index = index[_first_of_each(label[index], score[index], per_class)]
    return index[batched_nms(xyxy[index], score[index], label[index], overlap)[:at_most]]


def _first_of_each(label: Tensor, score: Tensor, count: int) -> Tensor:
    """Positions of the `count` best scores of every label."""
    if len(label) <= count:
        return torch.arange(len(label), device=label.device)
    order = score.argsort(descending=True, stable=True)
    order = order[label[order].argsort(stable=True)]
    sizes = torch.bincount(label)
    starts = sizes.cumsum(0) - sizes
    rank = torch.arange(len(label), device=label.device) - starts[label[order]]
    return order[rank < count]


def background_last(logits: Tensor) -> Tensor:
    """Class probabilities of shape (..., C + 1) from logits whose first column is background."""
    return logits.float().softmax(-1).roll(-1, -1)


def pooled(feature: Tensor, canvases: Sequence[Canvas]) -> list[Tensor]:
    """The mean feature vector of each image, without its padding."""
    height, width = feature.shape[2:]
    result = []
    for image, canvas in zip(feature, canvases, strict=True):
        rows = -(-canvas.inner[0] * height // canvas.outer[0])
        columns = -(-canvas.inner[1] * width // canvas.outer[1])
        result.append(image[:, :rows, :columns].float().mean(dim=(1, 2)))
    return result


def in_full_precision(module: nn.Module) -> None:
    """Make `module` give float32 whatever autocast does inside it.

    torchvision makes its anchors, decoded boxes and training targets in the type of what it gets from here. In
    bfloat16 a coordinate of 300 is only exact to two pixels.
    """
    module.register_forward_hook(_to_float)


def _to_float(module: nn.Module, inputs: Any, output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.float()
    if isinstance(output, dict):
        return type(output)((key, _to_float(module, inputs, value)) for key, value in output.items())
    return type(output)(_to_float(module, inputs, value) for value in output)
