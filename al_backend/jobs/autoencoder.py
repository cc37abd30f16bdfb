"""The autoencoder of a version: trained beside the detector where the strategy asks for one, and done without."""

from __future__ import annotations

from collections.abc import Callable

from al_backend.jobs.dataset import ProjectLabels
from al_backend.jobs.strategies import strategy_config
from al_backend.settings import LearningSettings
from model.acquisition.strategy import create_strategy
from model.acquisition.vae import Vae, VaeConfig
from model.acquisition.vae_training import VaeReport, fit_vae
from model.training.config import Progress


def train_autoencoder(
    settings: LearningSettings, labels: ProjectLabels, device: str, on_progress: Callable[[Progress], None]
) -> tuple[Vae, VaeReport] | None:
    """An autoencoder of the images that a version is trained on; None where its project's strategy needs none.

    Args:
        settings: of the project.
        labels: that the version's detector was trained on, and the held-out ones that it is measured on.
        device: that trains.
        on_progress: see `fit_vae`.
    """
    config = strategy_config(settings)
    if not create_strategy(config).needs_novelty:
        return None
    validation = labels.validation if len(labels.validation) else None
    return fit_vae(labels.train, validation, VaeConfig.of(config, settings.seed), on_progress, device=device)
