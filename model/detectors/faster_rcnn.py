"""Faster R-CNN: torchvision's networks, read so that every box brings its probabilities and its feature."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads

from model.detectors.canvas import Canvas
from model.detectors.class_rows import with_rows
from model.detectors.family import Found, Network, background_last, in_full_precision, keep_best, pooled
from model.detectors.torchvision_losses import roi_losses
from model.training.losses import DetectionLosses, initialise_variance_head, side_std_of_deltas

logger = logging.getLogger(__name__)

STRIDE = 32
LEVEL_STRIDES = {"fasterrcnn_resnet50_fpn_v2": (4, 8, 16, 32), "fasterrcnn_mobilenet_v3_large_fpn": (32, 32)}
"""Of the feature maps that boxes are pooled from."""
CLASS_STD, BOX_STD = 0.01, 0.001
"""Of fresh rows: Girshick 2015, Fast R-CNN, section 2.3."""
VARIANCE_STD = 1e-4
"""Of fresh rows: He et al., CVPR 2019 (KL loss)."""


class SwitchedRoIHeads(RoIHeads):
    """torchvision's box head, whose losses can be exchanged (`lent`), with a variance layer where one is wanted.

    Args:
        made: torchvision's own; its parts are used.

    Attributes:
        box_variance: gives the log variance of the four offsets of every class, beside `box_predictor`; None without.
    """

    losses: DetectionLosses | None = None

    def __init__(self, made: Any) -> None:
        super().__init__(
            made.box_roi_pool,
            made.box_head,
            made.box_predictor,
            made.proposal_matcher.high_threshold,
            made.proposal_matcher.low_threshold,
            made.fg_bg_sampler.batch_size_per_image,
            made.fg_bg_sampler.positive_fraction,
            made.box_coder.weights,
            made.score_thresh,
            made.nms_thresh,
            made.detections_per_img,
        )
        self.box_variance: nn.Linear | None = None

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """As torchvision's; the same proposals are sampled whatever the losses."""
        if self.losses is None or targets is None:
            found: tuple[list[dict[str, Tensor]], dict[str, Tensor]] = super().forward(
                features, proposals, image_shapes, targets
            )
            return found
        chosen, matched, labels, _ = self.select_training_samples(proposals, targets)
        hidden = self.box_head(self.box_roi_pool(features, chosen, image_shapes))
        logits, deltas = self.box_predictor(hidden)
        truth = [t["boxes"][m[label > 0]] for t, m, label in zip(targets, matched, labels, strict=True)]
        variance = None if self.box_variance is None else self.box_variance(hidden)
        return [], roi_losses(self.losses, logits, deltas, variance, labels, chosen, truth, coder=self.box_coder)


class FasterRCNNFamily:
    """See `Family`."""

    name = "faster_rcnn"
    architectures: tuple[str, ...] = tuple(LEVEL_STRIDES)
    batch: Mapping[str, int] = {"cpu": 4, "cuda": 16}
    stretched = False

    def image_size(self, architecture: str, wanted: int) -> int:
        """A multiple of 32, rounded up."""
        if wanted < STRIDE:
            raise ValueError(f"image size {wanted} is too small, expected at least {STRIDE}")
        size = -(-wanted // STRIDE) * STRIDE
        if size != wanted:
            logger.warning("Image size %d is no multiple of %d, taking %d", wanted, STRIDE, size)
        return size

    def learning_rate(self, architecture: str, *, pretrained: bool) -> float:
        """See `Family.learning_rate`."""
        return 2e-4 if pretrained else 5e-4

    def build(self, architecture: str, num_classes: int) -> Network:
        """See `Family.build`. torchvision's own resize is switched off: images come in their final size."""
        network: Network = getattr(detection, architecture)(
            weights=None, weights_backbone=None, num_classes=num_classes + 1, _skip_resize=True
        )
        network.roi_heads = SwitchedRoIHeads(network.roi_heads)
        pool = network.roi_heads.box_roi_pool
        strides = LEVEL_STRIDES[architecture]
        # torchvision would guess the strides from the first image that it ever sees, without its padding, and keep
        # them: a small or narrow first image would spoil all that follow.
        shapes = [torch.zeros(1, 1, 1024 // stride, 1024 // stride) for stride in strides]
        pool(
            {str(level): shape for level, shape in enumerate(shapes)}, [torch.tensor([[0.0, 0, 9, 9]])], [(1024, 1024)]
        )
        for module in (network.backbone, network.rpn.head, network.roi_heads.box_predictor):
            in_full_precision(module)
        return network

    def canvas(self, height: int, width: int, size: int) -> Canvas:
        """See `Family.canvas`."""
        return Canvas.proportional(height, width, size, STRIDE)

    def find(self, network: Network, pixels: Tensor, canvases: Sequence[Canvas], min_score: float) -> list[Found]:
        """See `Family.find`. The embedding of a box is what the box head made of it to classify it."""
        sizes = [canvas.inner for canvas in canvases]
        features = network.backbone(pixels)
        proposals, _ = network.rpn(ImageList(pixels, sizes), features)
        heads: SwitchedRoIHeads = network.roi_heads
        hidden = heads.box_head(heads.box_roi_pool(features, proposals, sizes))
        logits, deltas = heads.box_predictor(hidden)
        counts = [len(boxes) for boxes in proposals]
        probs = background_last(logits)
        score, label = probs[:, :-1].max(dim=1)
        # A class has its own box; only the winner's is decoded. Row 0 is background.
        winner = torch.arange(len(deltas), device=deltas.device), label + 1
        near = torch.cat(proposals)
        xyxy = heads.box_coder.decode_single(deltas.view(len(deltas), -1, 4)[winner], near)
        # Without a variance layer a tensor without columns stands in, so that it can be split like the others.
        std = xyxy[:, :0]
        if heads.box_variance is not None:
            variance = heads.box_variance(hidden).view(len(deltas), -1, 4)[winner]
            std = side_std_of_deltas(variance, xyxy, near, heads.box_coder.weights)
        maps = [feature for level, feature in features.items() if level != "pool"]
        result = []
        parts = (part.split(counts) for part in (xyxy, score, label, probs, hidden, std))
        for size, image, boxes, scores, labels, rows, vectors, sides in zip(
            sizes, pooled(maps[-1], canvases), *parts, strict=True
        ):
            boxes = boxes.clamp(torch.zeros(4, device=boxes.device), boxes.new_tensor([size[1], size[0]] * 2))
            kept = keep_best(
                boxes,
                scores,
                labels,
                min_score=min_score,
                overlap=heads.nms_thresh,
                at_most=heads.detections_per_img,
            )
            embedding = nn.functional.normalize(vectors[kept].float(), dim=1)
            spread = None if heads.box_variance is None else sides[kept]
            result.append(Found(boxes[kept], labels[kept], rows[kept], embedding, image, spread))
        return result

    def set_rows(self, network: Network, rows: Sequence[int | None], generator: torch.Generator) -> None:
        """See `Family.set_rows`. A class has a row of scores, four of box offsets, and four of their variances."""
        heads = network.roi_heads
        predictor = heads.box_predictor
        predictor.cls_score = with_rows(
            predictor.cls_score, rows, groups=1, width=1, std=CLASS_STD, generator=generator
        )
        predictor.bbox_pred = with_rows(predictor.bbox_pred, rows, groups=1, width=4, std=BOX_STD, generator=generator)
        if heads.box_variance is not None:
            heads.box_variance = with_rows(
                heads.box_variance, rows, groups=1, width=4, std=VARIANCE_STD, generator=generator
            )

    def has_variance(self, network: Network) -> bool:
        """See `Family.has_variance`."""
        return network.roi_heads.box_variance is not None

    def set_variance(self, network: Network, wanted: bool) -> None:
        """See `Family.set_variance`. One layer beside the box offsets, of the same shape."""
        heads = network.roi_heads
        if wanted == self.has_variance(network):
            return
        boxes = heads.box_predictor.bbox_pred
        layer = None
        if wanted:
            layer = nn.Linear(boxes.in_features, boxes.out_features)
            initialise_variance_head(layer)
            in_full_precision(layer.to(boxes.weight.device))
        heads.box_variance = layer

    def place_of_losses(self, network: Network) -> nn.Module:
        """See `Family.place_of_losses`."""
        place: nn.Module = network.roi_heads
        return place

    def blocks(self, network: Network) -> list[nn.Module]:
        """Stages of a ResNet, layers of a MobileNet; the feature pyramid always learns."""
        body = network.backbone.body
        if "layer1" not in body:
            return list(body.children())
        return [nn.Sequential(body["conv1"], body["bn1"]), *(body[f"layer{stage}"] for stage in range(1, 5))]

    def class_layers(self, network: Network) -> list[nn.Module]:
        """See `Family.class_layers`."""
        heads = network.roi_heads
        layers = [heads.box_predictor.cls_score, heads.box_predictor.bbox_pred, heads.box_variance]
        return [layer for layer in layers if layer is not None]
