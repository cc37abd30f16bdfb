"""A detector whose detections say how novel each image is: how strategies, which never see pixels, get to know it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from model.acquisition.strategy import StrategyConfig, create_strategy
from model.acquisition.vae import Vae, VaeConfig
from model.acquisition.vae_training import fit_vae
from model.data.dataset import DetectionDataset
from model.detections import Detections
from model.detectors.base import Detector, Image, View
from model.detectors.factory import resolve_device
from model.training.config import Progress, TrainingConfig, TrainingReport


def with_novelty(
    detector: Detector, train: DetectionDataset, config: StrategyConfig, *, seed: int, device: str = "auto"
) -> Detector:
    """What a strategy needs to see: the detector, beside an autoencoder only where the strategy asks for novelty.

    Args:
        detector: trained on `train`.
        train: labelled images, on which the autoencoder is trained here.
        config: of the strategy.
        seed: of the autoencoder's training.
        device: that trains it.

    Raises:
        NotEnoughLabels: as `fit_vae`.
    """
    if not create_strategy(config).needs_novelty:
        return detector
    vae, _ = fit_vae(train, None, VaeConfig.of(config, seed), device=resolve_device(device))
    return NoveltyDetector(detector, vae)


class NoveltyDetector:
    """A detector beside an autoencoder of the images that it was trained on.

    What it predicts of the original view carries `Detections.novelty`; all else is the detector's.

    Args:
        detector: any.
        vae: of the same labelled images.
    """

    def __init__(self, detector: Detector, vae: Vae) -> None:
        self._detector, self._vae = detector, vae
        self.architecture, self.classes, self.image_size = detector.architecture, detector.classes, detector.image_size

    def predict(
        self, images: Sequence[Image], views: Sequence[View] = (View.ORIGINAL,), *, min_score: float = 0.05
    ) -> list[Mapping[View, Detections]]:
        """As `Detector.predict`; with objects as regions an image is judged by the boxes from `min_score` on.

        Each counts by its confidence.
        """
        found = self._detector.predict(images, views, min_score=min_score)
        if View.ORIGINAL not in views:
            return found
        original = [seen[View.ORIGINAL] for seen in found]
        # What damaged weights give has no picture; strategies refuse it in words of their own.
        judged = [seen.select(np.isfinite(seen.xyxy).all(axis=1) & np.isfinite(seen.score)) for seen in original]
        novelty = self._vae.novelty(images, [seen.xyxy for seen in judged], [seen.score for seen in judged])
        return [
            {**views_of_one, View.ORIGINAL: replace(seen, novelty=float(value))}
            for views_of_one, seen, value in zip(found, original, novelty, strict=True)
        ]

    def fit(
        self,
        train: DetectionDataset,
        validation: DetectionDataset | None,
        config: TrainingConfig,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> TrainingReport:
        """Train the detector alone.

        The autoencoder stays that of the former labels; `vae_training.fit_vae` makes a new one.
        """
        report = self._detector.fit(train, validation, config, on_progress)
        self.classes = self._detector.classes
        return report

    def save(self, folder: Path) -> None:
        """Write the files of both."""
        self._detector.save(folder)
        self._vae.save(folder)
