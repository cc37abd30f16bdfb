"""The losses of a training, which say how it goes and whether it diverged."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from model.errors import ModelError

LOSS_WINDOW = 10
"""Steps over which the reported loss is averaged; on a GPU it is only read back this often."""


class LossHistory:
    """The loss of every step so far.

    They stay on their device until one is asked for, because reading one back makes a GPU wait.

    Args:
        total: steps that the training has.
        device: of the losses.
    """

    def __init__(self, total: int, device: torch.device) -> None:
        self._total, self._device = total, device
        self._losses: list[Tensor] = []
        self._shown: float | None = None

    def __len__(self) -> int:
        return len(self._losses)

    def add(self, loss: Tensor) -> None:
        """That of the next step, a scalar."""
        self._losses.append(loss)

    def tensor(self) -> Tensor:
        """All, shape (n,), for `restore`; n is at least 1."""
        return torch.stack(self._losses)

    def restore(self, losses: Tensor) -> None:
        """Go on from what `tensor` gave."""
        self._losses = list(losses.to(self._device).unbind())

    def shown(self) -> float:
        """Mean of the last steps, on a GPU of a few steps ago.

        Raises:
            ModelError: it is not finite.
        """
        if self._device.type == "cpu" or len(self) % LOSS_WINDOW == 0 or self._shown is None:
            self._shown = self.recent()
        return self._shown

    def recent(self) -> float:
        """Mean of the last `LOSS_WINDOW` steps; otherwise as `mean`."""
        return self._mean(self._losses[-LOSS_WINDOW:])

    def mean(self) -> float:
        """Mean of all steps, NaN without one.

        Raises:
            ModelError: it is not finite.
        """
        return self._mean(self._losses)

    def ends(self) -> tuple[float, float]:
        """Mean of the first and of the last tenth; otherwise as `mean`."""
        tenth = max(1, len(self) // 10)
        return self._mean(self._losses[:tenth]), self._mean(self._losses[-tenth:])

    def _mean(self, losses: Sequence[Tensor]) -> float:
        value = float(torch.stack(list(losses)).float().mean()) if losses else math.nan
        if losses and not math.isfinite(value):
            raise ModelError(
                f"the training diverged: loss is {value} at step {len(self)} of {self._total}; "
                "use a lower learning rate"
            )
        return value
