"""What a training takes, what it says while it runs, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.training.augmentation import Augmentation
from model.training.loss_config import LossConfig


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """Settings of one training.

    Attributes:
        iterations: optimizer steps. Iterations, not epochs, so that more labels do not mean more steps
            (`docs/algorithms.md`: constant-epoch curves conflate data with steps).
        batch_size: images per step; halved once when the device runs out of memory.
        learning_rate: peak rate of AdamW, after warm-up; None lets the detector choose one that suits it.
        weight_decay: of AdamW.
        freeze: number of leading backbone blocks that stay fixed; None chooses by the number of images.
        seed: fixes sampling, augmentation and new weights.
        ema_decay: of the averaged weights that are kept, in [0, 1).
        checkpoint: folder in which a running training keeps its state; one with the same settings, data and starting
            weights that finds it there goes on from it, also when it had ended. None keeps no state.
        checkpoint_every: steps after which the state is written (about four times the size of the weights).
        evaluate_every: steps after which the averaged weights are tried on the validation images, to keep the best
            ones in the end. 0, the default, keeps the last: their mAP is then no choice among many, hence unbiased.
        patience: evaluations in a row that are not better, after which a training ends early; 0 never does.
        shrink_and_perturb: (factor, standard deviation of noise) for the weights that a training starts from, e.g.
            (0.6, 0.01) to fine-tune; None leaves them as they are. See `warm_start.shrink_and_perturb`.
        workers: threads that read and augment images; 0 does it inline.
        mixed_precision: half-width arithmetic where the device has it (CUDA, CPUs with bfloat16 instructions).
        losses: HUALE's losses, each switchable; the default is the library's own.
        augmentation: how strongly training images are changed; `Augmentation.none()` for not at all.
    """

    iterations: int = 300
    batch_size: int = 16
    learning_rate: float | None = None
    weight_decay: float = 5e-4
    freeze: int | None = None
    seed: int = 0
    ema_decay: float = 0.999
    checkpoint: Path | None = None
    checkpoint_every: int = 50
    evaluate_every: int = 0
    patience: int = 0
    shrink_and_perturb: tuple[float, float] | None = None
    workers: int = 2
    mixed_precision: bool = True
    losses: LossConfig = field(default_factory=LossConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training is.

    Attributes:
        phase: `train`, `evaluate` (the detector looks at held-out images) or `autoencoder` (that of `al_vae` trains).
        iteration: steps done, in `evaluate` images, 1-based; `iterations` is the total.
        epoch: passes over the images of the phase done, may be fractional.
        loss: mean over the last steps, None before the first and where nothing is trained.
        eta_seconds: expected seconds until the phase ends, None while unknown.
    """

    phase: str
    iteration: int
    iterations: int
    epoch: float
    loss: float | None = None
    eta_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What a training did.

    Attributes:
        iterations: steps done.
        batch_size: the one that fitted.
        frozen_blocks: leading backbone blocks that stayed fixed.
        seconds: wall time.
        first_loss: mean loss of the first tenth of the steps.
        last_loss: mean loss of the last tenth.
        skipped: images that could not be read, one sentence each.
        notes: what did not go as configured, one sentence each, e.g. a batch size that did not fit.
        resumed_after: steps that an earlier, killed run of the same training had done already.
        kept_iteration: step whose averaged weights were kept; None for the last.
        evaluations: (step, mAP50 or None) of each look at the validation images during the training.
    """

    iterations: int
    batch_size: int
    frozen_blocks: int
    seconds: float
    first_loss: float
    last_loss: float
    skipped: tuple[str, ...] = field(default=())
    notes: tuple[str, ...] = field(default=())
    resumed_after: int = 0
    kept_iteration: int | None = None
    evaluations: tuple[tuple[int, float | None], ...] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a JSON document."""
        return {name: getattr(self, name) for name in self.__slots__} | {
            "skipped": list(self.skipped),
            "notes": list(self.notes),
            "evaluations": [list(look) for look in self.evaluations],
        }
