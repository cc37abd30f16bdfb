"""The door through which a detector family takes the switched losses: rows in, one loss per row out."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.training.loss_config import LossConfig
from model.training.losses.eiou import eiou_of_giou
from model.training.losses.emphasis import EmphasisFactors
from model.training.losses.overlap import overlap
from model.training.losses.uncertainty import uncertain_smooth_l1


class DetectionLosses(nn.Module):
    """The losses of one detector and the state that they keep from step to step.

    Nothing is reduced here: mining of hard negatives, sampling and the divisor belong to the family. A softmax family
    (SSD, Faster R-CNN) needs two calls a step, each over the whole batch, because every call counts as one step:

    - `classification(logits, labels)` instead of `cross_entropy(logits, labels, reduction="none")`,
    - `localisation(labels, deltas, target_deltas, boxes, target_boxes, log_variance)` instead of
      `smooth_l1_loss(deltas, target_deltas, reduction="none").sum(1)`, over the positives.

    With the default `LossConfig` both give what those library functions give. A family with other losses weighs them
    by `classification_weights` and `localisation_weights` and joins its box losses by `mix`.

    In eval mode nothing is learned: weights are those of the last step. The state is in buffers (`state_dict`) and
    has to be stored beside the network for a training that is to be resumed; it is no part of the network.

    Args:
        config: what is switched on.
        num_classes: of foreground.
        first_class: the label of the first foreground class; lower labels are background. 1 as in torchvision, 0 for
            a family without a background row, whose background rows have label -1.
    """

    steps: Tensor

    def __init__(self, config: LossConfig, num_classes: int, *, first_class: int = 1) -> None:
        super().__init__()
        self.config, self.first_class = config, first_class
        self.class_emphasis, self.box_emphasis = (
            EmphasisFactors(
                num_classes,
                maximum=config.emphasis_max,
                curve=config.emphasis_curve,
                momentum=config.emphasis_momentum,
                neutral=config.emphasis_neutral,
            )
            for _ in range(2)
        )
        self.register_buffer("steps", torch.zeros(2, dtype=torch.int64))

    def classification(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy of each row, weighted by the class's emphasis.

        Args:
            logits: shape (n, first_class + C), background first where there is one; n may be 0.
            labels: shape (n,), int64, indices into the columns.

        Returns:
            Shape (n,), float32. Background rows keep weight 1, so mining hard negatives by this loss is as before.
        """
        loss = functional.cross_entropy(logits.float(), labels, reduction="none")
        # The probability of the true class is e^-loss: no second softmax over all rows.
        return loss * self.classification_weights(labels, torch.exp(-loss.detach()))

    def localisation(
        self,
        labels: Tensor,
        deltas: Tensor,
        target_deltas: Tensor,
        boxes: Tensor,
        target_boxes: Tensor,
        log_variance: Tensor | None = None,
        *,
        beta: float = 1.0,
        iou_gain: float = 1.0,
    ) -> Tensor:
        """Box loss of each positive, weighted by the class's emphasis.

        EIoU takes the place of the regression when only it is switched on; with `uncertainty` or `synchronic`, too,
        the two are added or mixed.

        Args:
            labels: shape (n,), int64, of the true class; n may be 0.
            deltas: shape (n, 4), predicted offsets in the coder's units.
            target_deltas: shape (n, 4), what they should be.
            boxes: shape (n, 4), the decoded prediction, corners; its gradient is used.
            target_boxes: shape (n, 4), in the unit of `boxes`.
            log_variance: shape (n, 4), raw output of the variance head for `deltas`; needed with `uncertainty`.
            beta: of the plain smooth L1 loss; torchvision has 1/9 in Faster R-CNN, 1 in SSD.
            iou_gain: what EIoU is multiplied by, to bring it to the size of the sum over four offsets.

        Returns:
            Shape (n,), float32.

        Raises:
            ValueError: `uncertainty` is on and there is no `log_variance`.
        """
        iou, giou = overlap(boxes, target_boxes)
        config = self.config
        box_term = None if config.eiou is None else iou_gain * eiou_of_giou(giou, config.eiou, config.gamma)
        regression = None
        if config.uncertainty:
            if log_variance is None:
                raise ValueError("LossConfig.uncertainty is on, but the detector gave no log_variance; add its head")
            regression = self.uncertain_regression(deltas.float() - target_deltas.float(), log_variance).sum(1)
        elif box_term is None or config.synchronic:
            regression = functional.smooth_l1_loss(
                deltas.float(), target_deltas.float(), beta=beta, reduction="none"
            ).sum(1)
        return self.mix(box_term, regression) * self.localisation_weights(labels, iou)

    def classification_weights(self, labels: Tensor, probability: Tensor) -> Tensor:
        """`1 + beta_cls` of each row, and one more step seen.

        Args:
            labels: shape (n,), int64.
            probability: shape (n,), of the true class; background rows are ignored.

        Returns:
            Shape (n,), float32, without gradient; 1 without emphasis, in warm-up and for background.
        """
        return self._weights(0, self.class_emphasis, labels, probability)

    def localisation_weights(self, labels: Tensor, iou: Tensor) -> Tensor:
        """`1 + beta_loc` of each row, and one more step seen; otherwise as `classification_weights`.

        Args:
            labels: shape (n,), int64.
            iou: shape (n,), of the predicted with the true box.
        """
        return self._weights(1, self.box_emphasis, labels, iou)

    def uncertain_regression(self, difference: Tensor, log_variance: Tensor) -> Tensor:
        """`uncertain_smooth_l1`, with variance 1 during warm-up; call it before this step's `localisation_weights`."""
        # Multiplied, not replaced: the head stays in the graph, which data-parallel training needs.
        return uncertain_smooth_l1(difference, log_variance * self._active(1))

    def mix(self, box_term: Tensor | None, regression: Tensor | None) -> Tensor:
        """The two box losses as one: the synchronic mix, their sum, or the one that is there.

        Args:
            box_term: compares whole boxes (EIoU), any shape.
            regression: compares coordinates, same shape.

        Raises:
            ValueError: neither is there, or only one of two that are to be mixed.

        Source: Nguyen et al., IEEE Big Data 2023. It has the loss of the proposal network in the second share, which
        is no box loss of this head and stays outside.
        """
        if box_term is not None and regression is not None:
            share = self.config.share
            return share * box_term + (1 - share) * regression if self.config.synchronic else box_term + regression
        only = box_term if regression is None else regression
        if only is None or self.config.synchronic:
            raise ValueError(f"{'one' if only is not None else 'no'} box loss was given, expected two to mix")
        return only

    def _active(self, branch: int) -> Tensor:
        return self.steps[branch] >= self.config.warm_up

    def _weights(self, branch: int, emphasis: EmphasisFactors, labels: Tensor, quality: Tensor) -> Tensor:
        label = labels - self.first_class
        if self.config.emphasis:
            weight = emphasis.weights(label, active=self._active(branch))
            if self.training:
                emphasis.observe(label, quality)
        else:
            weight = torch.ones_like(quality, dtype=torch.float32).detach()
        if self.training:
            self.steps[branch] += 1
        return weight
