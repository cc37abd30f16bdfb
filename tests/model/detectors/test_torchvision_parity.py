"""The same weights in torchvision's own networks, run by torchvision's own eval forward, give the same boxes.

torchvision returns a proposal or anchor once for every class above the threshold; ours has one box, of the winning
class. So the two are compared where they must agree: with a threshold of 0.5, above which no second class can be;
with one class; and at a low threshold after the losing classes of torchvision's network have been moved into its
background, which leaves everything after the softmax to torchvision.

Both get the same pixels, after torchvision's own have been found equal up to rounding: a network without training
magnifies the last bit until one of a thousand overlapping boxes wins over another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import remove_small_boxes

from model.detections import Detections
from model.detectors.base import View
from model.detectors.canvas import draw
from model.detectors.family import MIN_SIDE
from model.detectors.torchvision_detector import TorchvisionDetector

Make = Callable[..., TorchvisionDetector]
Noise = Callable[..., NDArray[np.uint8]]

SHAPES = [(72, 96), (96, 72), (128, 128), (200, 130), (48, 300), (64, 64), (333, 500), (37, 41), (90, 160), (300, 300)]
IMAGES = 50
PROPOSALS = 60
"""Per image, to keep Faster R-CNN's box head small."""
NO_LIMIT = 10_000
"""Boxes without any area, which torchvision keeps and we drop, would otherwise take places among the best."""


def library_network(detector: TorchvisionDetector, min_score: float) -> Any:
    options: dict[str, Any] = {
        "score_thresh": min_score,
        "topk_candidates": NO_LIMIT,
        "detections_per_img": NO_LIMIT,
    }
    detector.network.topk_candidates = detector.network.detections_per_img = NO_LIMIT
    if detector.architecture.startswith("fasterrcnn"):
        detector.network.rpn._post_nms_top_n = {"training": PROPOSALS, "testing": PROPOSALS}
        options = {
            "box_score_thresh": min_score,
            "min_size": detector.image_size,
            "max_size": detector.image_size,
            "rpn_post_nms_top_n_test": PROPOSALS,
        }
    network = getattr(detection, detector.architecture)(
        weights=None, weights_backbone=None, num_classes=len(detector.classes) + 1, **options
    )
    network.load_state_dict(detector.tensors())
    return network.eval().to(memory_format=torch.channels_last)


class SamePixels(nn.Module):
    """torchvision's transform, but its pixels are replaced by ours, if they are the same up to rounding."""

    def __init__(self, transform: Any, pixels: Tensor) -> None:
        super().__init__()
        self.transform = transform
        self.pixels = pixels
        self.postprocess = transform.postprocess

    def forward(self, images: list[Tensor], targets: None) -> tuple[ImageList, None]:
        theirs, _ = self.transform(images)
        largest = max(1.0, float(theirs.tensors.abs().max()))
        torch.testing.assert_close(self.pixels, theirs.tensors, atol=1e-6 * largest, rtol=0)
        return ImageList(self.pixels, theirs.image_sizes), None


def torchvision_boxes(network: Any, detector: TorchvisionDetector, image: NDArray[np.uint8]) -> dict[str, Tensor]:
    canvas = detector._family.canvas(image.shape[0], image.shape[1], detector.image_size)
    transform = network.transform
    pixels = draw(
        [image],
        [canvas],
        [View.ORIGINAL],
        mean=transform.image_mean,
        std=transform.image_std,
        device=torch.device("cpu"),
    )
    network.transform = SamePixels(transform, pixels)
    with torch.inference_mode():
        result: dict[str, Tensor] = network([torch.from_numpy(image).permute(2, 0, 1).float() / 255])[0]
    network.transform = transform
    return result


def winner_only(logits: Tensor) -> Tensor:
    """Logits whose softmax has the winning class as before, and all else in background."""
    probs = logits.softmax(-1)
    best, label = probs[..., 1:].max(dim=-1, keepdim=True)
    moved = torch.zeros_like(probs).scatter(-1, label + 1, best)
    moved[..., :1] = 1 - best
    return moved.log()


def move_losers(network: Any) -> None:
    def in_roi_heads(module: nn.Module, inputs: Any, output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return winner_only(output[0]), output[1]

    def in_ssd(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return winner_only(output)

    if hasattr(network, "roi_heads"):
        network.roi_heads.box_predictor.register_forward_hook(in_roi_heads)
    else:
        network.head.classification_head.register_forward_hook(in_ssd)


def differing_boxes(found: Detections, theirs: dict[str, Tensor], side: int) -> int:
    wide = remove_small_boxes(theirs["boxes"], MIN_SIDE)
    boxes, scores, labels = (theirs[key][wide].numpy() for key in ("boxes", "scores", "labels"))
    free = np.ones(len(boxes), np.bool_)
    for box, score, label in zip(found.xyxy, found.score, found.label, strict=True):
        same = free & (labels - 1 == label) & (np.abs(scores - score) < 1e-4)
        same &= np.abs(boxes - box).max(axis=1, initial=0) < 1e-4 * side
        if same.any():
            free[same.argmax()] = False
    return int(free.sum()) + max(0, len(found) - len(boxes))


@pytest.mark.parametrize(("classes", "min_score", "moved"), [(5, 0.5, False), (1, 0.4, False), (5, 0.05, True)])
@pytest.mark.parametrize(
    ("architecture", "images"),
    [
        ("ssdlite320_mobilenet_v3_large", IMAGES),
        ("fasterrcnn_mobilenet_v3_large_fpn", IMAGES),
        # These take seconds an image.
        pytest.param("ssd300_vgg16", IMAGES // 5, marks=pytest.mark.slow),
        pytest.param("ssd300_vgg16", IMAGES, marks=pytest.mark.long),
        pytest.param("fasterrcnn_resnet50_fpn_v2", IMAGES // 5, marks=pytest.mark.slow),
        pytest.param("fasterrcnn_resnet50_fpn_v2", IMAGES, marks=pytest.mark.long),
    ],
)
def test_boxes_equal_torchvisions_own_eval_forward(
    lively_torchvision: Make, noise: Noise, architecture: str, images: int, classes: int, min_score: float, moved: bool
) -> None:
    # Enough for winners above 0.5, but not so much that scores saturate and tie.
    spread = 6.0 if architecture.startswith("fasterrcnn") else 2.0
    size = 320 if architecture.startswith("ssdlite") else 64  # torchvision's SSDlite knows no other
    detector = lively_torchvision(architecture, tuple(f"c{i}" for i in range(classes)), size, spread=spread)
    network = library_network(detector, min_score)
    if moved:
        move_losers(network)
    total = differing = 0
    for seed in range(images):
        image = noise(*SHAPES[seed % len(SHAPES)], seed)
        theirs = torchvision_boxes(network, detector, image)
        found = detector.predict([image], min_score=min_score)[0][View.ORIGINAL]
        differing += differing_boxes(found, theirs, max(image.shape))
        total += len(found)
    assert total > images // 2
    # Networks without training leave thousands of boxes, of which some tie but for the last bit of a softmax.
    assert differing <= 2 + total // 1000, f"{differing} of {total} boxes differ"
