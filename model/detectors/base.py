"""What every detector can do. Strategies, the simulation and the product know only this."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model.data.dataset import DetectionDataset
from model.detections import Detections
from model.training.config import Progress, TrainingConfig, TrainingReport

Image = NDArray[np.uint8]
"""Shape (height, width, 3), RGB, EXIF orientation applied."""


class View(str, Enum):
    """A transformed copy of the image that is also predicted; how they are made: `model.detectors.image_views`."""

    ORIGINAL = "original"
    HFLIP = "hflip"
    SMALLER = "smaller"
    TURNED = "turned"
    HOLES = "holes"


class Detector(Protocol):
    """A trained network with an ordered class list.

    Attributes:
        architecture: the name that the factory knows, e.g. `yolov5n`.
        classes: label names; `Detections.label` indexes it. May be empty before the first `fit`.
        image_size: pixels of the longer side that the network sees.
    """

    architecture: str
    classes: tuple[str, ...]
    image_size: int

    def predict(
        self, images: Sequence[Image], views: Sequence[View] = (View.ORIGINAL,), *, min_score: float = 0.05
    ) -> list[Mapping[View, Detections]]:
        """Detections per image and view, in the order of `images`, boxes mapped back to the original image.

        Args:
            images: any sizes, also different ones; an empty sequence gives an empty list.
            views: at least one.
            min_score: boxes whose confidence is lower are dropped, in [0, 1].
        """
        ...

    def fit(
        self,
        train: DetectionDataset,
        validation: DetectionDataset | None,
        config: TrainingConfig,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> TrainingReport:
        """Train in place on `train`; the class list becomes `train.classes`.

        Classes that the detector knows already keep their weights, new ones start fresh.

        Raises:
            NotEnoughLabels: `train` has no box at all.
            TrainingCancelled: `on_progress` raised it; the detector is then not usable.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write `weights.safetensors` and `detector.json` into `folder` (created if missing)."""
        ...
