"""The same weights in torchvision's own networks, run by torchvision's own eval forward, give the same boxes.

torchvision returns a proposal or anchor once for every class above the threshold; ours has one box, of the winning
class. So the two are compared where they must agree: with a threshold of 0.5, above which no second class can be;
with one class; and at a low threshold after the losing classes of torchvision's network have been moved into its
background, which leaves everything after the softmax to torchvision.
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
from torchvision.ops import remove_small_boxes

from model.detections import Detections
from model.detectors.base import View
from model.detectors.family import MIN_SIDE
from model.detectors.torchvision_detector import TorchvisionDetector

Make = Callable[..., TorchvisionDetector]
Noise = Callable[..., NDArray[np.uint8]]

SHAPES = [(72, 96), (96, 72), (128, 128), (200, 130), (48, 300), (64, 64), (333, 500), (37, 41), (90, 160), (300, 300)]
PROPOSALS = 60
"""Per image, to keep Faster R-CNN's box head small."""


def library_network(detector: TorchvisionDetector, min_score: float) -> Any:
    options: dict[str, Any] = {"score_thresh": min_score}
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
    return network.eval()


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


def assert_same_boxes(found: Detections, theirs: dict[str, Tensor], side: int) -> None:
    wide = remove_small_boxes(theirs["boxes"], MIN_SIDE)
    boxes, scores, labels = (theirs[key][wide].numpy() for key in ("boxes", "scores", "labels"))
    assert len(found) == len(boxes)
    left = list(range(len(boxes)))
    for box, score, label in zip(found.xyxy, found.score, found.label, strict=True):
        equal = [
            i
            for i in left
            if labels[i] - 1 == label
            and abs(scores[i] - score) < 1e-4
            and np.abs(boxes[i] - box).max() < 1e-4 * side
        ]
        assert equal, f"torchvision has no box {box} of class {label} with score {score}"
        left.remove(equal[0])


@pytest.mark.parametrize(("classes", "min_score", "moved"), [(5, 0.5, False), (1, 0.05, False), (5, 0.05, True)])
@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param("ssd300_vgg16", marks=pytest.mark.slow),
        "ssdlite320_mobilenet_v3_large",
        pytest.param("fasterrcnn_resnet50_fpn_v2", marks=pytest.mark.slow),
        "fasterrcnn_mobilenet_v3_large_fpn",
    ],
)
def test_boxes_equal_torchvisions_own_eval_forward(
    lively_torchvision: Make, noise: Noise, architecture: str, classes: int, min_score: float, moved: bool
) -> None:
    detector = lively_torchvision(architecture, tuple(f"c{i}" for i in range(classes)), spread=1.5)
    network = library_network(detector, min_score)
    if moved:
        move_losers(network)
    total = 0
    for seed in range(20):
        image = noise(*SHAPES[seed % len(SHAPES)], seed)
        with torch.inference_mode():
            theirs = network([torch.from_numpy(image).permute(2, 0, 1).float() / 255])[0]
        found = detector.predict([image], min_score=min_score)[0][View.ORIGINAL]
        assert_same_boxes(found, theirs, max(image.shape))
        total += len(found)
    assert total > 40
