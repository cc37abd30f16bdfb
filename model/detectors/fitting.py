"""What every detector does alike in `fit` once its network is ready, and in `predict` while it has no class."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from model.data.dataset import DetectionDataset
from model.detections import Detections
from model.detectors.base import Detector, Image, View
from model.errors import NotEnoughLabels
from model.training.config import Progress, TrainingConfig, TrainingReport
from model.training.freezing import blocks_to_freeze
from model.training.loop import train as run_training
from model.training.sampling import BatchSampler, cache_bytes
from model.training.selection import MeanPrecision
from model.training.trainable import TrainableNetwork

logger = logging.getLogger(__name__)

CLASS_ROWS_FACTOR = 3.0
"""Fresh class rows have the longest way to go. (Starting a YOLO's from the mean of the known rows was worse.)"""
PLACEHOLDER = ("object",)
"""A network cannot have no class; a detector without classes has this one and finds nothing."""


def require_boxes(train: DetectionDataset) -> None:
    """Refuse a training set from which nothing can be learned.

    Raises:
        NotEnoughLabels: it has no box.
    """
    if not train.num_boxes:
        raise NotEnoughLabels(f"{len(train)} training images with no box at all; label at least one object")


def fit_network(
    network: TrainableNetwork,
    detector: Detector,
    train: DetectionDataset,
    validation: DetectionDataset | None,
    config: TrainingConfig,
    *,
    learning_rate: float,
    may_freeze: bool,
    device: torch.device,
    detector_of: Callable[[nn.Module], Detector],
    stretch: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> tuple[nn.Module, TrainingReport]:
    """Train a network whose class rows are those of `train`.

    Args:
        network: trained in place.
        detector: that it was copied from.
        train: with at least one box.
        validation: looked at only with `config.evaluate_every`, because choosing by it uses it up.
        config: settings; what they leave open is decided here.
        learning_rate: unless the settings have one.
        may_freeze: whether leading blocks hold something that few images cannot teach.
        device: where the network is.
        detector_of: a detector around averaged weights, to be judged on `validation`.
        stretch: whether images fill the canvas whatever their shape.
        on_progress: called after every step; what it raises ends the training at once.

    Returns:
        The averaged module in eval mode, and what happened.
    """
    frozen = config.freeze
    if frozen is None:
        frozen = blocks_to_freeze(len(train), len(network.blocks)) if may_freeze else 0
    fresh = [name for name in train.classes if name not in detector.classes]
    logger.info("Training %s on %d images, new classes: %s", detector.architecture, len(train), fresh or "none")
    judge = None
    if config.evaluate_every and validation is not None and validation.num_boxes:
        judge = MeanPrecision(detector_of, validation)
    sampler = BatchSampler(
        train,
        detector.image_size,
        seed=config.seed,
        augmentation=config.augmentation,
        max_bytes=cache_bytes(device.type),
        stretch=stretch,
    )
    return run_training(
        network,
        sampler,
        config,
        learning_rate=learning_rate if config.learning_rate is None else config.learning_rate,
        frozen_blocks=frozen,
        device=device,
        on_progress=on_progress,
        judge=judge,
    )


def nothing_found(images: Sequence[Image], views: Sequence[View]) -> list[Mapping[View, Detections]]:
    """What a detector without classes says."""
    return [{view: Detections.empty(image.shape[0], image.shape[1], 1) for view in views} for image in images]
