"""Switchable losses in torchvision's detectors: what their loss functions do, row by row through `DetectionLosses`.

Which anchors and proposals count is the library's affair, and so is the loss of Faster R-CNN's proposal network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from model.training.losses import DetectionLosses

SSD_IOU_GAIN, FASTER_RCNN_IOU_GAIN = 5.0, 9.0
"""What EIoU is multiplied by: its gradient along the offsets is then as large as that of the smooth L1 loss for boxes
that are off by a tenth of their size (IoU about 0.7). The box coder counts offsets in tenths and fifths of a box."""
FASTER_RCNN_BETA = 1 / 9


@contextmanager
def lent(part: nn.Module, losses: DetectionLosses | None) -> Iterator[None]:
    """Inside, `part.losses` is `losses`; afterwards None again.

    Set past `nn.Module`, which would store what the losses learn among the weights of the network.
    """
    object.__setattr__(part, "losses", losses)
    try:
        yield
    finally:
        object.__setattr__(part, "losses", None)


def multibox_losses(
    losses: DetectionLosses,
    output: dict[str, Tensor],
    targets: Sequence[dict[str, Tensor]],
    anchors: Sequence[Tensor],
    matched: Sequence[Tensor],
    *,
    coder: Any,
    negatives: Tensor,
    total: float,
) -> dict[str, Tensor]:
    """Losses of SSD under torchvision's names.

    Args:
        losses: what is switched on.
        output: `cls_logits` (b, n, C + 1) with background first, `bbox_regression` (b, n, 4) and, with `uncertainty`,
            `log_variance` (b, n, 4).
        targets: `boxes` and `labels` (from 1) of each image.
        anchors: shape (n, 4) for each image.
        matched: shape (n,) for each image: index into its boxes, negative for background.
        coder: torchvision's `BoxCoder`.
        negatives: shape (b,), how many of the hardest background anchors count in each image.
        total: what the sums are divided by.
    """
    labels = torch.zeros(output["cls_logits"].shape[:2], dtype=torch.int64, device=output["cls_logits"].device)
    truth = []
    for row, (target, match) in enumerate(zip(targets, matched, strict=True)):
        at = torch.where(match >= 0)[0]
        labels[row, at] = target["labels"][match[at]]
        truth.append(target["boxes"][match[at]])
    positive = labels > 0
    wanted, own = torch.cat(truth), torch.stack(list(anchors))[positive]
    deltas = output["bbox_regression"][positive]
    box = losses.localisation(
        labels[positive],
        deltas,
        coder.encode_single(wanted, own),
        coder.decode_single(deltas, own),
        wanted,
        output["log_variance"][positive] if "log_variance" in output else None,
        iou_gain=SSD_IOU_GAIN,
    )
    rows = losses.classification(output["cls_logits"].flatten(0, 1), labels.flatten()).view(labels.shape)
    order = rows.detach().masked_fill(positive, -torch.inf).argsort(1, descending=True)
    hard = (order.argsort(1) < negatives[:, None]) & ~positive
    return {
        "bbox_regression": box.sum() / total,
        "classification": rows[positive | hard].sum() / total,
    }


def roi_losses(
    losses: DetectionLosses,
    logits: Tensor,
    deltas: Tensor,
    log_variance: Tensor | None,
    labels: Sequence[Tensor],
    proposals: Sequence[Tensor],
    target_boxes: Sequence[Tensor],
    *,
    coder: Any,
) -> dict[str, Tensor]:
    """Losses of Faster R-CNN's box head under torchvision's names.

    Args:
        losses: what is switched on.
        logits: shape (n, C + 1), background first, of all images' sampled proposals.
        deltas: shape (n, 4 * (C + 1)), offsets for each class.
        log_variance: of the same shape, needed with `uncertainty`.
        labels: of each image's proposals, 0 is background.
        proposals: shape (k, 4) for each image.
        target_boxes: for each image the true boxes of those proposals whose label is not 0.
        coder: torchvision's `BoxCoder`.
    """
    label = torch.cat(list(labels))
    positive = torch.where(label > 0)[0]
    own = label[positive]
    classes = logits.shape[1]
    offsets = deltas.view(len(label), classes, 4)[positive, own]
    near, truth = torch.cat(list(proposals))[positive], torch.cat(list(target_boxes))
    box = losses.localisation(
        own,
        offsets,
        coder.encode_single(truth, near),
        coder.decode_single(offsets, near),
        truth,
        None if log_variance is None else log_variance.view(len(label), classes, 4)[positive, own],
        beta=FASTER_RCNN_BETA,
        iou_gain=FASTER_RCNN_IOU_GAIN,
    )
    total = max(1, len(label))
    return {"loss_classifier": losses.classification(logits, label).sum() / total, "loss_box_reg": box.sum() / total}
