"""The one value type that detectors, strategies, metrics and the Label Studio codec share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """What a detector says about one image.

    Attributes:
        xyxy: shape (n, 4), float32, corners in pixels of the original image (EXIF orientation applied).
        score: shape (n,), float32 in [0, 1], the confidence of the winning class.
        label: shape (n,), int64 in [0, C), index into the detector's class list.
        probs: shape (n, C + 1), float32, rows summing to 1, background last.
        height: of the original image, pixels.
        width: of the original image, pixels.
        side_std: shape (n, 4), float32, standard deviation of left, top, right, bottom in pixels of the
            original image; None where the head gives no localisation uncertainty.
        embedding: shape (n, D), float32; None where the detector gives none.
        image_embedding: shape (D,), float32, one pooled vector of the whole image; None likewise.
        novelty: at least 0, how badly an autoencoder of the labelled images redraws this one; None where there is no
            autoencoder, and for other views than the original.

    Raises:
        ValueError: an array has another shape than its neighbours imply.
    """

    xyxy: Float
    score: Float
    label: NDArray[np.int64]
    probs: Float
    height: int
    width: int
    side_std: Float | None = None
    embedding: Float | None = None
    image_embedding: Float | None = None
    novelty: float | None = None

    def __post_init__(self) -> None:
        n = len(self.score)
        expected = {"xyxy": (n, 4), "score": (n,), "label": (n,)}
        if self.side_std is not None:
            expected["side_std"] = (n, 4)
        for name, shape in expected.items():
            found = getattr(self, name).shape
            if found != shape:
                raise ValueError(f"Detections.{name} has shape {found}, expected {shape}")
        if self.probs.ndim != 2 or self.probs.shape[0] != n or self.probs.shape[1] < 2:
            raise ValueError(f"Detections.probs has shape {self.probs.shape}, expected ({n}, C + 1) with C >= 1")
        if self.embedding is not None and (self.embedding.ndim != 2 or len(self.embedding) != n):
            raise ValueError(f"Detections.embedding has shape {self.embedding.shape}, expected ({n}, D)")

    def __len__(self) -> int:
        return len(self.score)

    @property
    def num_classes(self) -> int:
        """Number of foreground classes C."""
        return self.probs.shape[1] - 1

    @classmethod
    def empty(cls, height: int, width: int, num_classes: int) -> Detections:
        """The detections of an image in which nothing was found."""
        return cls(
            xyxy=np.zeros((0, 4), np.float32),
            score=np.zeros(0, np.float32),
            label=np.zeros(0, np.int64),
            probs=np.zeros((0, num_classes + 1), np.float32),
            height=height,
            width=width,
            side_std=np.zeros((0, 4), np.float32),
        )

    def select(self, index: NDArray[np.bool_] | NDArray[np.int64]) -> Detections:
        """The detections at `index` (a boolean mask of shape (n,) or positions), in that order."""
        return Detections(
            xyxy=self.xyxy[index],
            score=self.score[index],
            label=self.label[index],
            probs=self.probs[index],
            height=self.height,
            width=self.width,
            side_std=None if self.side_std is None else self.side_std[index],
            embedding=None if self.embedding is None else self.embedding[index],
            image_embedding=self.image_embedding,
            novelty=self.novelty,
        )
