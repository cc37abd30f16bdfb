"""HUALE's training side: Emphasis loss, EIoU, uncertainty-aware regression and their synchronic mix."""

from model.training.loss_config import EIoUMode, LossConfig
from model.training.losses.detection import DetectionLosses
from model.training.losses.eiou import eiou_loss, eiou_of_giou
from model.training.losses.emphasis import EmphasisFactors, emphasis_factor
from model.training.losses.overlap import Overlap, overlap
from model.training.losses.uncertainty import (
    bounded_log_variance,
    initialise_variance_head,
    side_std_of_deltas,
    uncertain_smooth_l1,
)

__all__ = [
    "DetectionLosses",
    "EIoUMode",
    "EmphasisFactors",
    "LossConfig",
    "Overlap",
    "bounded_log_variance",
    "eiou_loss",
    "eiou_of_giou",
    "emphasis_factor",
    "initialise_variance_head",
    "overlap",
    "side_std_of_deltas",
    "uncertain_smooth_l1",
]
