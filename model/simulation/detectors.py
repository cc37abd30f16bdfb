"""Where the detectors of an experiment come from: the factory, or anything else that keeps to the Protocol."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from model.detectors.base import Detector


class DetectorSource(Protocol):
    """Makes the detectors of an experiment; it is sent to other processes, so it must be picklable."""

    def create(self, classes: Sequence[str], *, seed: int, device: str) -> Detector:
        """A detector that still has to learn `classes`; always from the same base weights."""
        ...

    def load(self, folder: Path, *, device: str) -> Detector:
        """A detector that `Detector.save` wrote to `folder`."""
        ...

    def describe(self) -> dict[str, Any]:
        """Plain values that tell these detectors from others."""
        ...

    def use_threads(self, count: int) -> None:
        """Called once in a process that shares the processor with others: how many cores are its own."""
        ...


@dataclass(frozen=True, slots=True)
class FactoryDetectors:
    """Detectors of the product.

    Attributes:
        architecture: as `model.detectors.factory.create` takes it.
        image_size: pixels of the longer side.
        base: checkpoint that every training starts from; None for random weights.
        allow_pickle: see `model.detectors.factory.create`.
    """

    architecture: str
    image_size: int = 640
    base: Path | None = None
    allow_pickle: bool = False

    def create(self, classes: Sequence[str], *, seed: int, device: str) -> Detector:
        """See `DetectorSource`."""
        from model.detectors.factory import create  # brings torch, which a report does not need

        return create(
            self.architecture,
            classes,
            image_size=self.image_size,
            device=device,
            base=self.base,
            seed=seed,
            allow_pickle=self.allow_pickle,
        )

    def load(self, folder: Path, *, device: str) -> Detector:
        """See `DetectorSource`."""
        from model.detectors.factory import load

        return load(folder, device=device)

    def describe(self) -> dict[str, Any]:
        """Architecture, image size and a digest of the base weights."""
        return {
            "architecture": self.architecture,
            "image_size": self.image_size,
            "base": None if self.base is None else self.base.name,
            "base_sha256": None if self.base is None else hashlib.sha256(self.base.read_bytes()).hexdigest(),
        }

    def use_threads(self, count: int) -> None:
        """See `DetectorSource`."""
        import torch

        torch.set_num_threads(count)
