"""SSD and SSDlite: torchvision's networks, read so that every box brings its probabilities and its feature."""

from __future__ import annotations

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

logger = logging.getLogger(__name__)

SIZES = {"ssd300_vgg16": 300, "ssdlite320_mobilenet_v3_large": 320}
CLASS_STD = 0.03
"""Of fresh class rows, as in torchvision's SSDlite."""
EMBEDDING_LEVELS = 2
"""Maps that embeddings are read from: the backbone's own, which still say what is where."""


class BackgroundSSD(SSD):
    """torchvision's SSD, but images without objects teach it too.

    torchvision mines three hard negatives per positive of the same image, so none in an image without objects, whose
    loss is then exactly 0. Here such an image gives as many negatives as the others of its batch do on average, and
    counts as much as they do; three when the whole batch is empty.
    """

    def compute_loss(
        self,
        targets: list[dict[str, Tensor]],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        """Losses of torchvision by name, with the hardest negatives of empty images in `classification`."""
        losses: dict[str, Tensor] = super().compute_loss(targets, head_outputs, anchors, matched_idxs)
        empty = torch.tensor([len(target["boxes"]) == 0 for target in targets])
        if not bool(empty.any()):
            return losses
        positives = sum(int((matched >= 0).sum()) for matched in matched_idxs)
        share = max(1.0, positives / max(1, int((~empty).sum())))
        background = head_outputs["cls_logits"][empty.to(matched_idxs[0].device)].log_softmax(dim=-1)[..., 0]
        wanted = min(int(self.neg_to_pos_ratio * share), background.shape[1])
        hardest = (-background).topk(wanted, dim=1).values.sum()
        total = positives + share * int(empty.sum())
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
        """The one size of the architecture: its anchors are laid out for it."""
        size = SIZES[architecture]
        if size != wanted:
            logger.info("%s always sees %d x %d pixels, image size %d is not used", architecture, size, size, wanted)
        return size

    def learning_rate(self, architecture: str, *, pretrained: bool) -> float:
        """See `Family.learning_rate`. Without batch normalisation, VGG bears less than MobileNet."""
        if architecture == "ssd300_vgg16":
            return 1e-4 if pretrained else 2e-4
        return 5e-4 if pretrained else 1e-3

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
            head=made.head,
            score_thresh=made.score_thresh,
            nms_thresh=made.nms_thresh,
            detections_per_img=made.detections_per_img,
            topk_candidates=made.topk_candidates,
            _skip_resize=True,
        )
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
            boxes = network.box_coder.decode_single(output["bbox_regression"][number], anchors).clamp(0, side)
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
            result.append(Found(boxes[kept], label[number, kept], probs[number, kept], embedding, image))
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
        return [module if isinstance(module, nn.Conv2d) else module[-1] for module in modules]


def _stages(layers: Sequence[nn.Module]) -> list[nn.Module]:
    stages: list[list[nn.Module]] = [[]]
    for layer in layers:
        stages[-1].append(layer)
        if isinstance(layer, nn.MaxPool2d):
            stages.append([])
    return [nn.Sequential(*stage) for stage in stages if stage]
