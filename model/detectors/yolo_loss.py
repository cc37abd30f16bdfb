"""The loss of an Ultralytics detection head with exchangeable terms: assignment is the library's, the rest is here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.detectors.ultralytics_library import bbox_iou, make_anchors
from model.training.losses import DetectionLosses, LossConfig, eiou_of_giou, overlap
from model.training.losses.uncertainty import LIMIT
from model.training.targets import Target


class YoloLoss(nn.Module):
    """Box, class and distribution loss of one branch; with everything switched off, Ultralytics' own to the last digit.

    - Emphasis weighs each cell that answers for a box by the class of that box, in all terms.
    - EIoU takes the place of CIoU.
    - Uncertainty: these heads predict a distribution over distances for each side, so they have a variance already and
      need no further layer. The attenuated regression of its mean is added to the distribution loss and makes that
      variance say how far off the mean is; `Detections.side_std` is its root.
    - The synchronic mix joins the IoU term and the distance terms.

    Args:
        library: a `v8DetectionLoss`, whose assigner, strides and gains are used.
        config: what is switched on.

    Raises:
        ValueError: `uncertainty` for a head that predicts plain distances.
    """

    def __init__(self, library: Any, config: LossConfig) -> None:
        super().__init__()
        self.assigner, self.gains, self.stride = library.assigner, library.hyp, library.stride
        self.bins: int = library.reg_max
        self.num_classes: int = library.nc
        self.losses = DetectionLosses(config, library.nc, first_class=0)
        if config.uncertainty and self.bins < 2:
            raise ValueError(
                "LossConfig.uncertainty needs a head that predicts distributions of distances (YOLOv5u, v8, v9, v11), "
                "found one of plain distances"
            )

    def forward(self, raw: dict[str, Any], targets: Sequence[Target]) -> Tensor:
        """The loss of a batch, a scalar.

        Args:
            raw: `boxes` (b, 4 * bins, N), `scores` (b, C, N), both float32, and `feats`, as the head gives them in
                training mode.
            targets: one for each image of the batch, in pixels of the training image.
        """
        distances = raw["boxes"].permute(0, 2, 1).contiguous()
        scores = raw["scores"].permute(0, 2, 1).contiguous()
        centres, stride = make_anchors(raw["feats"], self.stride, 0.5)
        mean = self._mean(distances)
        boxes = torch.cat([centres - mean[..., :2], centres + mean[..., 2:]], dim=-1)
        label, target_boxes, target_scores, positive = self._assign(scores, boxes, centres, stride, targets)
        total = target_scores.sum().clamp_min(1)
        at = positive.nonzero(as_tuple=True)
        weight = target_scores[at].sum(-1)
        truth = target_boxes[at] / stride[at[1]]
        predicted = boxes[at]
        iou, giou = overlap(predicted, truth)
        config = self.losses.config
        if config.eiou is None:
            box_term = 1 - bbox_iou(predicted, truth, xywh=False, CIoU=True).squeeze(-1)
        else:
            box_term = eiou_of_giou(giou, config.eiou, config.gamma)
        wanted = torch.cat([centres[at[1]] - truth[:, :2], truth[:, 2:] - centres[at[1]]], dim=1)
        if self.bins > 1:
            distance_term = self._distribution_term(distances[at], mean[at], wanted)
        else:
            height, width = (size * float(self.stride[0]) for size in raw["feats"][0].shape[2:])
            image = torch.tensor([width, height, width, height], device=wanted.device)
            distance_term = ((mean[at] - wanted) * stride[at[1]] / image).abs().mean(1)
        box = self.losses.mix(self.gains.box * box_term, self.gains.dfl * distance_term)
        box = (box * weight * self.losses.localisation_weights(label[at], iou)).sum()
        return (box + self.gains.cls * self._classification(scores, target_scores, label)) / total

    def _classification(self, scores: Tensor, target_scores: Tensor, label: Tensor) -> Tensor:
        rows = functional.binary_cross_entropy_with_logits(scores, target_scores, reduction="none").sum(-1)
        probability = scores.detach().gather(-1, label.clamp_min(0)[..., None]).squeeze(-1).sigmoid()
        weight = self.losses.classification_weights(label.flatten(), probability.flatten()).view_as(rows)
        return (rows * weight).sum()

    def _mean(self, distances: Tensor) -> Tensor:
        """Distances to the four sides in cells, shape (b, N, 4)."""
        if self.bins < 2:
            return distances
        weight = distances.view(*distances.shape[:2], 4, self.bins).softmax(-1)
        return weight @ torch.arange(self.bins, device=weight.device, dtype=weight.dtype)

    def _distribution_term(self, distances: Tensor, mean: Tensor, wanted: Tensor) -> Tensor:
        """Loss of the distributions over distances, mean over the four sides, shape (n,)."""
        wanted = wanted.clamp(0, self.bins - 1 - 0.01)
        logits = distances.view(len(distances), 4, self.bins)
        term = distribution_loss(logits, wanted)
        if self.losses.config.uncertainty:
            log_variance = distribution_log_variance(logits)
            term = term + self.losses.uncertain_regression(mean - wanted, log_variance).mean(1)
        return term

    def _assign(
        self, scores: Tensor, boxes: Tensor, centres: Tensor, stride: Tensor, targets: Sequence[Target]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """For each cell its class (-1 is background), true box in pixels and soft scores, and whether it has a box."""
        size = (len(targets), max((len(t.label) for t in targets), default=0))
        true_label = torch.zeros(*size, 1, device=scores.device)
        true_boxes = torch.zeros(*size, 4, device=scores.device)
        there = torch.zeros(*size, 1, device=scores.device)
        for row, target in enumerate(targets):
            count = len(target.label)
            true_label[row, :count, 0] = target.label.float()
            true_boxes[row, :count] = target.xyxy
            there[row, :count] = 1
        label, target_boxes, target_scores, positive, _ = self.assigner(
            scores.detach().sigmoid(),
            boxes.detach() * stride,
            centres * stride,
            true_label,
            true_boxes,
            there,
        )
        return torch.where(positive, label.long(), -1), target_boxes, target_scores, positive


class TwoBranchLoss(nn.Module):
    """The loss of heads that are trained for suppression and without it at once, with Ultralytics' shares.

    Args:
        library: an `E2ELoss`.
        config: what is switched on, in both branches.
    """

    def __init__(self, library: Any, config: LossConfig) -> None:
        super().__init__()
        self.one2many, self.one2one = YoloLoss(library.one2many, config), YoloLoss(library.one2one, config)
        self.shares = (library.o2m, library.o2o)

    def forward(self, raw: dict[str, Any], targets: Sequence[Target]) -> Tensor:
        """See `YoloLoss.forward`; `raw` has the output of both branches under their names."""
        many, one = self.shares
        total: Tensor = many * self.one2many(raw["one2many"], targets) + one * self.one2one(raw["one2one"], targets)
        return total


def switched_loss(library: Any, config: LossConfig) -> YoloLoss | TwoBranchLoss:
    """The loss that does what `library`, the network's own criterion, does, with the terms that `config` exchanges."""
    return TwoBranchLoss(library, config) if hasattr(library, "one2many") else YoloLoss(library, config)


def distribution_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Cross entropy with the two bins next to the true distance, mean over the four sides.

    Args:
        logits: shape (n, 4, bins).
        wanted: shape (n, 4), in [0, bins - 1).

    Returns:
        Shape (n,).

    Source: Li et al., NeurIPS 2020 (distribution focal loss).
    """
    left = wanted.long()
    share = wanted - left
    logarithm = logits.log_softmax(-1)
    low, high = (logarithm.gather(-1, left[..., None] + k).squeeze(-1) for k in (0, 1))
    return -(low * (1 - share) + high * share).mean(1)


def distribution_log_variance(logits: Tensor) -> Tensor:
    """Logarithm of the variance of distributions over bins 0, 1, 2, ...

    Args:
        logits: shape (..., bins).

    Returns:
        Shape (...), at least -7: a sharp distribution has variance 0, whose logarithm would be cut off there anyway.
    """
    weight = logits.softmax(-1)
    bins = torch.arange(logits.shape[-1], device=logits.device, dtype=logits.dtype)
    variance = (weight * (bins - (weight @ bins)[..., None]) ** 2).sum(-1)
    return torch.log(variance + math.exp(-LIMIT))
