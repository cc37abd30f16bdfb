"""Faster R-CNN: torchvision's networks, read so that every box brings its probabilities and its feature."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads

from model.detectors.canvas import Canvas
from model.detectors.class_rows import with_rows
from model.detectors.family import Found, Network, background_last, in_full_precision, keep_best, pooled

logger = logging.getLogger(__name__)

STRIDE = 32
LEVEL_STRIDES = {"fasterrcnn_resnet50_fpn_v2": (4, 8, 16, 32), "fasterrcnn_mobilenet_v3_large_fpn": (32, 32)}
"""Of the feature maps that boxes are pooled from."""
SAMPLED_BOXES = 128
"""Proposals of an image that a training step learns from, a quarter of them on objects: Girshick 2015 takes 64,
torchvision 512. The box head's first layer has 12.8 million weights, and on a CPU most of a step goes into it."""
CLASS_STD, BOX_STD = 0.01, 0.001
"""Of fresh rows: Girshick 2015, Fast R-CNN, section 2.3."""


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
            weights=None,
            weights_backbone=None,
            num_classes=num_classes + 1,
            box_batch_size_per_image=SAMPLED_BOXES,
            _skip_resize=True,
        )
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
        heads: RoIHeads = network.roi_heads
        hidden = heads.box_head(heads.box_roi_pool(features, proposals, sizes))
        logits, deltas = heads.box_predictor(hidden)
        counts = [len(boxes) for boxes in proposals]
        probs = background_last(logits)
        score, label = probs[:, :-1].max(dim=1)
        # A class has its own box; only the winner's is decoded. Row 0 is background.
        winners = deltas.view(len(deltas), -1, 4)[torch.arange(len(deltas), device=deltas.device), label + 1]
        xyxy = heads.box_coder.decode_single(winners, torch.cat(proposals))
        maps = [feature for level, feature in features.items() if level != "pool"]
        result = []
        parts = (part.split(counts) for part in (xyxy, score, label, probs, hidden))
        for size, image, boxes, scores, labels, rows, vectors in zip(
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
            result.append(Found(boxes[kept], labels[kept], rows[kept], embedding, image))
        return result

    def set_rows(self, network: Network, rows: Sequence[int | None], generator: torch.Generator) -> None:
        """See `Family.set_rows`. A class has a row of scores and four of box offsets."""
        predictor = network.roi_heads.box_predictor
        predictor.cls_score = with_rows(
            predictor.cls_score, rows, groups=1, width=1, std=CLASS_STD, generator=generator
        )
        predictor.bbox_pred = with_rows(predictor.bbox_pred, rows, groups=1, width=4, std=BOX_STD, generator=generator)

    def blocks(self, network: Network) -> list[nn.Module]:
        """Stages of a ResNet, layers of a MobileNet; the feature pyramid always learns."""
        body = network.backbone.body
        if "layer1" not in body:
            return list(body.children())
        return [nn.Sequential(body["conv1"], body["bn1"]), *(body[f"layer{stage}"] for stage in range(1, 5))]

    def class_layers(self, network: Network) -> list[nn.Module]:
        """See `Family.class_layers`."""
        predictor = network.roi_heads.box_predictor
        return [predictor.cls_score, predictor.bbox_pred]
