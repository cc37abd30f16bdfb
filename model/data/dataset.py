"""Labelled images as every reader gives them and every training takes them: paths and boxes, never pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class LabelledImage:
    """One image file and its true boxes.

    Attributes:
        key: stable identity of the image, e.g. the Label Studio task id as text.
        path: of the image file.
        xyxy: shape (n, 4), float32, corners in pixels of the image with EXIF orientation applied; n may be 0.
        label: shape (n,), int64, index into the class list of the data set.
    """

    key: str
    path: Path
    xyxy: NDArray[np.float32]
    label: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.xyxy.shape != (len(self.label), 4):
            raise ValueError(f"{self.key}: boxes have shape {self.xyxy.shape}, expected ({len(self.label)}, 4)")


@dataclass(frozen=True, slots=True)
class DetectionDataset:
    """An ordered class list and labelled images; images are read from disk when they are needed.

    Attributes:
        classes: ordered, unique label names.
        images: may be empty.
        problems: what a reader had to skip, one sentence each, naming the file.
    """

    classes: tuple[str, ...]
    images: Sequence[LabelledImage]
    problems: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"class names must be unique, found {self.classes}")
        for image in self.images:
            if len(image.label) and not (image.label.min() >= 0 and image.label.max() < len(self.classes)):
                raise ValueError(f"{image.key}: a label lies outside the {len(self.classes)} classes")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_boxes(self) -> int:
        """True boxes in all images together."""
        return sum(len(image.label) for image in self.images)

    def class_counts(self) -> NDArray[np.int64]:
        """Shape (C,): boxes per class, in the order of `classes`."""
        counts = np.zeros(len(self.classes), np.int64)
        for image in self.images:
            counts += np.bincount(image.label, minlength=len(self.classes))
        return counts

    def digest(self) -> str:
        """A number in hexadecimal that tells data sets apart by classes, keys, boxes and labels, not by pixels."""
        digest = hashlib.sha256(repr(self.classes).encode())
        for image in self.images:
            digest.update(repr((image.key, len(image.label))).encode())
            digest.update(np.ascontiguousarray(image.xyxy).tobytes() + np.ascontiguousarray(image.label).tobytes())
        return digest.hexdigest()

    def subset(self, keys: Iterable[str]) -> DetectionDataset:
        """The images whose key is in `keys`, in the order of this data set."""
        wanted = set(keys)
        return DetectionDataset(self.classes, [image for image in self.images if image.key in wanted])
