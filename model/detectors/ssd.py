"""SSD and SSDlite: torchvision's networks, read so that every box brings its probabilities and its feature."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD

from model.detectors.canvas import Canvas
from model.detectors.class_rows import with_rows
from model.detectors.family import Found, Network, background_last, in_full_precision, keep_best, pooled
from model.detectors.features import cell_features
from model.detectors.torchvision_losses import multibox_losses
from model.training.losses import DetectionLosses, initialise_variance_head, side_std_of_deltas

logger = logging.getLogger(__name__)

SIZES = {"ssd300_vgg16": 300, "ssdlite320_mobilenet_v3_large": 320}
"""Pixels of the largest image that the architecture takes."""
STRIDE = 32
CLASS_STD = 0.03
"""Of fresh class rows, as in torchvision's SSDlite."""
EMBEDDING_LEVELS = 2
"""Maps that embeddings are read from: the backbone's own, which still say what is where."""


class Heads(nn.Module):
    """torchvision's class and box heads, under the names that they have there, and a variance head where one is wanted.

    Attributes:
        variance_head: log variance of the four offsets of every anchor; None without.
    """

    def __init__(self, classification_head: nn.Module, regression_head: nn.Module) -> None:
        super().__init__()
        self.classification_head, self.regression_head = classification_head, regression_head
        self.variance_head: nn.Module | None = None

    def forward(self, features: list[Tensor]) -> dict[str, Tensor]:
        """`bbox_regression`, `cls_logits` and perhaps `log_variance`, shape (b, anchors, 4 or C + 1)."""
        output = {"bbox_regression": self.regression_head(features), "cls_logits": self.classification_head(features)}
        if self.variance_head is not None:
            output["log_variance"] = self.variance_head(features)
        return output


class FullPrecision(nn.Sequential):
    """Layers that stay in float32 under autocast.

    Those that make the smallest maps: on CPUs with bfloat16 instructions oneDNN gives the weights of a depthwise
    convolution with stride 2 on a map of one cell gradients from memory that nobody has written (torch 2.11:
    infinite, or any number). They are also too small to gain from it.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The layers one after the other."""
        with torch.autocast(input.device.type, enabled=False):
            output: Tensor = super().forward(input.float())
            return output


class BackgroundSSD(SSD):
    """torchvision's SSD, but images without objects teach it too, and its losses can be exchanged (`lent`).

    torchvision mines three hard negatives per positive of the same image, so none in an image without objects, whose
    loss is then exactly 0. Here such an image gives as many negatives as the others of its batch do on average, and
    counts as much as they do; three when the whole batch is empty.
    """

    losses: DetectionLosses | None = None

    def compute_loss(
        self,
        targets: list[dict[str, Tensor]],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        """Losses of torchvision by name, with the hardest negatives of empty images in `classification`."""
        counts = torch.stack([(matched >= 0).sum() for matched in matched_idxs])
        empty = torch.tensor([len(target["boxes"]) == 0 for target in targets])
        positives = int(counts.sum())
        share = max(1.0, positives / max(1, int((~empty).sum())))
        wanted = min(int(self.neg_to_pos_ratio * share), head_outputs["cls_logits"].shape[1])
        total = positives + share * int(empty.sum())
        if self.losses is not None:
            negatives = torch.where(empty.to(counts.device), wanted, self.neg_to_pos_ratio * counts)
            return multibox_losses(
                self.losses,
                head_outputs,
                targets,
                anchors,
                matched_idxs,
                coder=self.box_coder,
                negatives=negatives,
                total=max(1.0, total),
            )
        losses: dict[str, Tensor] = super().compute_loss(targets, head_outputs, anchors, matched_idxs)
        if not bool(empty.any()):
            return losses
        background = head_outputs["cls_logits"][empty.to(counts.device)].log_softmax(dim=-1)[..., 0]
        hardest = (-background).topk(wanted, dim=1).values.sum()
        # torchvision has divided its sums by the number of positives.
        return {
            "bbox_regression": losses["bbox_regression"] * positives / total,
            "classification": (losses["classification"] * max(1, positives) + hardest) / total,
        }


class SSDFamily:
    """See `Family`."""

    name = "ssd"
    architectures: tuple[str, ...] = tuple(SIZES)
    batch: Mapping[str, int] = {"cpu": 4, "cuda": 32}
    stretched = True

    def image_size(self, architecture: str, wanted: int) -> int:
        """SSD300: always 300, for which its anchors are laid out. SSDlite: a multiple of 32, at most 320.

        The anchors of SSDlite are laid out on whatever maps there are, as fractions of the image.
        """
        size = SIZES[architecture]
        if architecture != "ssd300_vgg16":
            if wanted < STRIDE:
                raise ValueError(f"image size {wanted} is too small, expected at least {STRIDE}")
            size = min(size, -(-wanted // STRIDE) * STRIDE)
        if size != wanted:
            logger.info("%s sees %d x %d pixels, image size %d is not used", architecture, size, size, wanted)
        return size

    def learning_rate(self, architecture: str, *, pretrained: bool) -> float:
        """See `Family.learning_rate`. VGG gets less than MobileNet, because it has no batch normalisation."""
        if architecture == "ssd300_vgg16":
            return 1e-4 if pretrained else 2e-4
        return 2e-3 if pretrained else 1e-3

    def build(self, architecture: str, num_classes: int) -> Network:
        """See `Family.build`. torchvision's own resize is switched off: images come in their final size."""
        made: Any = getattr(detection, architecture)(weights=None, weights_backbone=None, num_classes=num_classes + 1)
        network: Network = BackgroundSSD(
            made.backbone,
            made.anchor_generator,
            (SIZES[architecture], SIZES[architecture]),
            num_classes + 1,
            image_mean=made.transform.image_mean,
            image_std=made.transform.image_std,
            head=Heads(made.head.classification_head, made.head.regression_head),
            score_thresh=made.score_thresh,
            nms_thresh=made.nms_thresh,
            detections_per_img=made.detections_per_img,
            topk_candidates=made.topk_candidates,
            _skip_resize=True,
        )
        extra = network.backbone.extra
        if architecture != "ssd300_vgg16":
            for level, layers in enumerate(extra):
                extra[level] = FullPrecision(*layers)
        for module in (network.backbone, network.head):
            in_full_precision(module)
        return network

    def canvas(self, height: int, width: int, size: int) -> Canvas:
        """See `Family.canvas`. As in training, an image is stretched to a square."""
        return Canvas.stretched(height, width, size)

    def find(self, network: Network, pixels: Tensor, canvases: Sequence[Canvas], min_score: float) -> list[Found]:
        """See `Family.find`. The embedding of a box is the backbone's features in the middle of its anchor."""
        features = list(network.backbone(pixels).values())
        output = network.head(features)
        side = pixels.shape[-1]
        # The same for all images of a batch.
        anchors = network.anchor_generator(ImageList(pixels[:1], [(side, side)]), features)[0]
        probs = background_last(output["cls_logits"])
        score, label = probs[..., :-1].max(dim=2)
        maps = features[:EMBEDDING_LEVELS]
        result = []
        for number, image in enumerate(pooled(maps[-1], canvases)):
            decoded = network.box_coder.decode_single(output["bbox_regression"][number], anchors)
            boxes = decoded.clamp(0, side)
            kept = keep_best(
                boxes,
                score[number],
                label[number],
                min_score=min_score,
                overlap=network.nms_thresh,
                at_most=network.detections_per_img,
                per_class=network.topk_candidates,
            )
            place = (anchors[kept, :2] + anchors[kept, 2:]) / 2 / side
            embedding = cell_features(maps, torch.full_like(kept, number), place[:, 1], place[:, 0])
            std = None
            if "log_variance" in output:
                std = side_std_of_deltas(
                    output["log_variance"][number, kept], decoded[kept], anchors[kept], network.box_coder.weights
                )
            result.append(Found(boxes[kept], label[number, kept], probs[number, kept], embedding, image, std))
        return result

    def set_rows(self, network: Network, rows: Sequence[int | None], generator: torch.Generator) -> None:
        """See `Family.set_rows`. Every anchor of a level has its own row for a class."""
        head = network.head.classification_head
        anchors = network.anchor_generator.num_anchors_per_location()
        for level, (module, groups) in enumerate(zip(head.module_list, anchors, strict=True)):
            last = module if isinstance(module, nn.Conv2d) else module[-1]
            fresh = with_rows(last, rows, groups=groups, width=1, std=CLASS_STD, generator=generator)
            if isinstance(module, nn.Conv2d):
                head.module_list[level] = fresh
            else:
                module[-1] = fresh
        head.num_columns = len(rows)

    def has_variance(self, network: Network) -> bool:
        """See `Family.has_variance`."""
        return network.head.variance_head is not None

    def set_variance(self, network: Network, wanted: bool) -> None:
        """See `Family.set_variance`. The head is a copy of the box head but for its last layers; no class has a row."""
        if wanted == self.has_variance(network):
            return
        head = None
        if wanted:
            known = network.head.regression_head
            head = copy.deepcopy(known).cpu()  # random numbers come from the CPU, whatever the device
            for module in head.module_list:
                initialise_variance_head(_last(module))
            head.to(next(known.parameters()).device)
        network.head.variance_head = head

    def place_of_losses(self, network: Network) -> nn.Module:
        """See `Family.place_of_losses`."""
        place: nn.Module = network
        return place

    def blocks(self, network: Network) -> list[nn.Module]:
        """Stages of VGG between its poolings, layers of MobileNet; the extra maps always learn."""
        backbone = network.backbone
        if hasattr(backbone, "scale_weight"):
            # conv1 to conv4, and conv5, which is followed by the converted fully connected layers.
            return [*_stages(list(backbone.features)), nn.Sequential(*list(backbone.extra[0])[:-1])]
        return [layer for part in backbone.features for layer in part]

    def class_layers(self, network: Network) -> list[nn.Module]:
        """See `Family.class_layers`."""
        modules = network.head.classification_head.module_list
        return [_last(module) for module in modules]


def _last(module: Any) -> nn.Module:
    """The convolution that gives the numbers of one level: SSDlite has a depthwise one before it."""
    layer: nn.Module = module if isinstance(module, nn.Conv2d) else module[-1]
    return layer


def _stages(layers: Sequence[nn.Module]) -> list[nn.Module]:
    stages: list[list[nn.Module]] = [[]]
    for layer in layers:
        stages[-1].append(layer)
        if isinstance(layer, nn.MaxPool2d):
            stages.append([])
    return [nn.Sequential(*stage) for stage in stages if stage]
