"""Base checkpoints for detectors that have none: trained once, on generated scenes of species that nobody labels later.

There are no pretrained weights without internet, and from random weights a short training finds nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from model.data.reef import OTHER_SPECIES, write_reef
from model.detectors.base import Detector
from model.detectors.weights import halved, read_weights, write_weights
from model.training.config import Progress, TrainingConfig
from model.training.evaluation import evaluate

logger = logging.getLogger(__name__)

SEED, HELD_OUT_SEED = 301, 303
HELD_OUT = 120
_SAID_EVERY = 50
_KEPT_EVERY = 100


@dataclass(frozen=True)
class BaseRecipe:
    """How a base is trained.

    Attributes:
        scenes: how many.
        size: pixels of a scene's sides.
        iterations: steps.
        batch_size: images per step.
        rate: peak learning rate.
        freeze: first blocks of the backbone that keep what `create` gave them.
    """

    scenes: int
    size: int
    iterations: int
    batch_size: int
    rate: float
    freeze: int = 0


def trained_base(folder: Path, recipe: BaseRecipe, create: Callable[[], Detector]) -> Path:
    """The weights of a detector trained on `OTHER_SPECIES`; a training that was stopped goes on.

    Args:
        folder: keeps weights, scenes and the state of the training; belongs to this recipe alone.
        recipe: see there.
        create: makes the detector, which is no base yet, with `OTHER_SPECIES` as its classes.
    """
    weights = folder / "base" / "weights.safetensors"
    if weights.is_file():
        return weights
    size = (recipe.size, recipe.size)
    data = write_reef(
        folder / "base-scenes", recipe.scenes, seed=SEED, size=size, species=OTHER_SPECIES, burst_share=0.0
    )
    known = write_reef(
        folder / "base-held-out", HELD_OUT, seed=HELD_OUT_SEED, size=size, species=OTHER_SPECIES, burst_share=0.0
    )
    detector = create()
    config = TrainingConfig(
        iterations=recipe.iterations,
        batch_size=recipe.batch_size,
        learning_rate=recipe.rate,
        mixed_precision=False,
        freeze=recipe.freeze,
        checkpoint=folder / "base-state",
        checkpoint_every=_KEPT_EVERY,
    )
    report = detector.fit(data, None, config, _say)
    found = evaluate(detector, known)
    logger.info("%s: %.0f s, mAP50 %.3f on its own species", folder.name, report.seconds, found.map50 or 0.0)
    detector.save(weights.parent)
    return weights


def halve(weights: Path, to: Path) -> None:
    """Write a weights file anew in half the size, with float16 for all that is floating."""
    tensors, description = read_weights(weights)
    small = halved(tensors)
    wrong = [name for name, value in small.items() if not bool(torch.isfinite(value).all())]
    if wrong:
        raise ValueError(f"{weights}: {', '.join(wrong[:3])} does not fit into half precision")
    write_weights(to, small, description)


def _say(progress: Progress) -> None:
    if progress.iteration % _SAID_EVERY == 0:
        logger.info("%d of %d, loss %.3f", progress.iteration, progress.iterations, progress.loss or 0.0)
