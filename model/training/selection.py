"""Keeps the weights that did best on held-out images, and ends a training that no longer gets better."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor, nn

from model.data.dataset import DetectionDataset
from model.detectors.base import Detector
from model.training.config import Progress
from model.training.evaluation import evaluate

OnProgress = Callable[[Progress], None]


class Judge(Protocol):
    """Says how good weights are.

    Attributes:
        identity: of what it judges by; a training is only resumed with the same.
    """

    identity: str

    def __call__(self, module: nn.Module, on_progress: OnProgress | None) -> float | None:
        """Quality of `module`, which is in eval mode and stays as it is; higher is better, None cannot be said."""
        ...


class MeanPrecision:
    """Judges by mean average precision at IoU 0.5 on a validation set.

    Args:
        detector_of: a detector around averaged weights; must not change them.
        validation: fixed for all trainings that are compared.
    """

    def __init__(self, detector_of: Callable[[nn.Module], Detector], validation: DetectionDataset) -> None:
        self._detector_of, self._validation = detector_of, validation
        self.identity = validation.digest()

    def __call__(self, module: nn.Module, on_progress: OnProgress | None) -> float | None:
        """See `Judge`."""
        return evaluate(self._detector_of(module), self._validation, on_progress=on_progress).map50


class Selection:
    """The best weights so far.

    Args:
        judge: asked every `every` steps and after the last.
        every: steps between two looks; 0 never looks, and the last weights are kept.
        patience: looks without a better one after which a training ends; 0 lets it run to its end.

    Attributes:
        best: weights and buffers of the best look, on the CPU; None before the first that could be judged.
        best_step: when that was.
        looks: (step, quality) of all, in order.
    """

    def __init__(self, judge: Judge | None, every: int, patience: int) -> None:
        if every < 0 or patience < 0:
            raise ValueError(f"evaluate_every is {every} and patience {patience}, expected 0 or more")
        self._judge, self._every, self._patience = judge, every, patience
        self.best: dict[str, Tensor] | None = None
        self.best_step: int | None = None
        self.looks: list[tuple[int, float | None]] = []

    @property
    def without_judge(self) -> bool:
        """Whether looks are wanted, but there is nothing to judge by."""
        return self._every > 0 and self._judge is None

    def exhausted(self) -> bool:
        """Whether the last `patience` looks brought nothing better."""
        if not self._patience or self.best_step is None:
            return False
        return sum(step > self.best_step for step, _ in self.looks) >= self._patience

    def due(self, step: int, total: int) -> bool:
        """Whether `step` is one to look at."""
        return self._judge is not None and self._every > 0 and (step % self._every == 0 or step == total)

    def look(self, step: int, module: nn.Module, on_progress: OnProgress | None) -> None:
        """Judge the weights of `module`, and remember them if they are better than all before."""
        assert self._judge is not None
        quality = self._judge(module, on_progress)
        known = [value for _, value in self.looks if value is not None]
        self.looks.append((step, quality))
        if quality is not None and (not known or quality > max(known)):
            self.best_step = step
            self.best = {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}

    def counters(self) -> dict[str, Any]:
        """What `restore` needs besides `best`, as plain JSON values."""
        return {"best_step": self.best_step, "looks": self.looks}

    def restore(self, counters: dict[str, Any], best: dict[str, Tensor]) -> None:
        """Go on from what `counters` and `best` were."""
        self.best_step = counters["best_step"]
        self.looks = [(int(step), quality) for step, quality in counters["looks"]]
        self.best = best or None
