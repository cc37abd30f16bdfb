"""From the raw output of a YOLO head to `Detections`: suppression, full class vectors, side deviations, features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.detections import Detections
from model.detectors.base import View
from model.detectors.features import cell_features
from model.detectors.letterbox import Letterbox
from model.detectors.ultralytics_library import non_max_suppression

OVERLAP = 0.7
"""IoU above which the weaker of two boxes of one class is dropped; Ultralytics' own setting."""
MAX_DETECTIONS = 300
NO_TIME_LIMIT = float("inf")
"""Seconds per image: Ultralytics' limit would silently leave the rest of a slow batch empty, also after a jump of the
clock, however far."""


def raw_output(head: Any, output: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    """Decoded boxes and class probabilities (b, 4 + C, N), and the raw head output, both in float32."""
    raw = output.get("one2many", output)
    raw = {"boxes": raw["boxes"].float(), "scores": raw["scores"].float(), "feats": raw["feats"]}
    return head._inference(raw), raw


def detections_of(
    head: Any,
    output: dict[str, Any],
    boxes: Sequence[Letterbox],
    views: Sequence[View],
    min_score: float,
) -> list[Detections]:
    """One `Detections` per image of a batch, in pixels of the original image.

    Args:
        head: of the network that made `output`.
        output: what the head gives in training mode.
        boxes: geometry of each image of the batch.
        views: which view each image of the batch is.
        min_score: lower confidences are dropped.
    """
    decoded, raw = raw_output(head, output)
    kept, anchors = non_max_suppression(
        decoded,
        conf_thres=min_score,
        iou_thres=OVERLAP,
        max_det=MAX_DETECTIONS,
        max_time_img=NO_TIME_LIMIT,
        return_idxs=True,
    )
    counts = [len(rows) for rows in kept]
    # For an image without boxes Ultralytics gives indices of another shape and type.
    anchor = torch.cat([index.reshape(-1).long() for index in anchors])
    image = torch.arange(len(kept), device=decoded.device).repeat_interleave(
        torch.tensor(counts, device=decoded.device)
    )
    rows = torch.cat(kept).cpu().numpy()
    probs = _with_background(decoded[image, 4:, anchor].cpu().numpy().astype(np.float64))
    deviation = _side_deviation(head, raw["boxes"], image, anchor)
    embedding = _cell_features(raw["feats"], image, anchor).cpu().numpy()
    # The finest level: pairs of pictures of one burst are nearer than others with probability 0.999 there, 0.86 on the
    # coarsest, where one direction has nine tenths of the variance (160 drawn scenes).
    pooled = raw["feats"][0].float().mean(dim=(2, 3)).cpu().numpy()
    result, start = [], 0
    for index, (count, box, view) in enumerate(zip(counts, boxes, views, strict=True)):
        part = slice(start, start + count)
        start += count
        xyxy = rows[part, :4]
        std = None if deviation is None else (deviation[part] / np.array(box.gain * 2)).astype(np.float32)
        if view is View.HFLIP:
            xyxy = np.stack([box.canvas[1] - xyxy[:, 2], xyxy[:, 1], box.canvas[1] - xyxy[:, 0], xyxy[:, 3]], axis=1)
            std = None if std is None else std[:, [2, 1, 0, 3]]
        result.append(
            Detections(
                xyxy=box.to_original(xyxy),
                score=rows[part, 4],
                label=rows[part, 5].astype(np.int64),
                probs=probs[part],
                height=box.height,
                width=box.width,
                side_std=std,
                embedding=embedding[part],
                image_embedding=pooled[index],
            )
        )
    return result


def _with_background(probs: NDArray[np.float64]) -> NDArray[np.float32]:
    """Independent class probabilities as one distribution with background last.

    Background is the probability that no class is there, prod(1 - p_c); the row is then divided by its sum
    (`docs/algorithms.md`).
    """
    full = np.concatenate([probs, np.prod(1 - probs, axis=1, keepdims=True)], axis=1)
    return (full / full.sum(axis=1, keepdims=True)).astype(np.float32)


def _side_deviation(head: Any, raw_boxes: Tensor, image: Tensor, anchor: Tensor) -> NDArray[np.float32] | None:
    """Standard deviation of left, top, right, bottom in canvas pixels, shape (n, 4); None for heads without bins."""
    if head.reg_max < 2:
        return None
    weight = raw_boxes[image, :, anchor].view(-1, 4, head.reg_max).softmax(-1)
    bins = torch.arange(head.reg_max, device=weight.device, dtype=weight.dtype)
    mean = (weight * bins).sum(-1)
    variance = (weight * (bins - mean[..., None]) ** 2).sum(-1)
    stride = head.strides.reshape(-1)[anchor].float()
    return (variance.clamp_min(0).sqrt() * stride[:, None]).cpu().numpy()


def _cell_features(features: Sequence[Tensor], image: Tensor, anchor: Tensor) -> Tensor:
    """Feature vectors of the cell that each box comes from, shape (n, D), unit length.

    All levels are read at the cell's place, so that boxes of different levels can be compared; each level has
    the same weight.
    """
    sizes = [(f.shape[2], f.shape[3]) for f in features]
    starts = np.cumsum([0, *(h * w for h, w in sizes)])
    row, column = torch.zeros_like(anchor, dtype=torch.float32), torch.zeros_like(anchor, dtype=torch.float32)
    for (height, width), start, stop in zip(sizes, starts[:-1], starts[1:], strict=True):
        here = (anchor >= int(start)) & (anchor < int(stop))
        cell = anchor - int(start)
        row = torch.where(here, ((cell // width) + 0.5) / height, row)
        column = torch.where(here, ((cell % width) + 0.5) / width, column)
    return cell_features(features, image, row, column)
