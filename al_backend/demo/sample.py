"""The demo's sample project: generated reef scenes in a real Label Studio, some of them labelled with the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np

from al_backend.labelstudio.client import LabelStudio
from al_backend.labelstudio.codec import to_regions
from al_backend.labelstudio.labeling_config import parse_labeling_config
from model.data.dataset import DetectionDataset, LabelledImage
from model.data.reef import SPECIES, write_reef
from model.detections import Detections

SIZE = (320, 320)
"""Height and width of the scenes in pixels."""

POOL_SEED = 20
HELD_OUT_SEED = 21


@dataclass(frozen=True, slots=True)
class SampleProject:
    """A project in Label Studio whose true boxes are known.

    Attributes:
        project_id: in Label Studio.
        truth: true boxes by task id.
        held_out: scenes that the project never sees, for honest figures.
    """

    project_id: int
    truth: dict[int, LabelledImage]
    held_out: DetectionDataset

    def true_regions(self, task_id: int) -> list[dict[str, Any]]:
        """The true boxes of a task as an annotator would draw them."""
        return true_regions(self.truth[task_id], self.held_out.classes)


def label_config(classes: Sequence[str]) -> str:
    """A labelling config with one rectangle label per class."""
    labels = "".join(f"<Label value={quoteattr(name)}/>" for name in classes)
    return (
        '<View><Image name="image" value="$image" zoom="true"/>'
        f'<RectangleLabels name="label" toName="image">{labels}</RectangleLabels></View>'
    )


def true_regions(image: LabelledImage, classes: Sequence[str]) -> list[dict[str, Any]]:
    """True boxes as Label Studio regions."""
    certain = np.zeros((len(image.label), len(classes) + 1), np.float32)
    certain[np.arange(len(image.label)), image.label] = 1
    height, width = SIZE
    boxes = Detections(image.xyxy, np.ones(len(image.label), np.float32), image.label, certain, height, width)
    return to_regions(boxes, classes, parse_labeling_config(label_config(classes)), threshold=0)


def create_sample_project(
    label_studio: LabelStudio, folder: Path, *, images: int = 240, labelled: int = 40, held_out: int = 100
) -> SampleProject:
    """Draw the scenes, upload them and label a random part of them.

    Args:
        label_studio: where the project is made.
        folder: for the drawn files.
        images: tasks of the project.
        labelled: of them, drawn at random.
        held_out: further scenes that stay outside.
    """
    pool = write_reef(folder / "pool", images, seed=POOL_SEED, size=SIZE, species=SPECIES)
    outside = write_reef(folder / "held-out", held_out, seed=HELD_OUT_SEED, size=SIZE, species=SPECIES)
    project = label_studio.create_project("Reef: active learning demo", label_config(SPECIES))
    ids = label_studio.upload_images(project.id, [image.path for image in pool.images])
    sample = SampleProject(project.id, dict(zip(ids, pool.images, strict=True)), outside)
    for task in np.random.default_rng(POOL_SEED).choice(ids, size=labelled, replace=False):
        label_studio.submit_annotation(int(task), sample.true_regions(int(task)))
    return sample
