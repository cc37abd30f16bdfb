"""What a person has to correct in the pre-annotations: boxes to delete and boxes to draw, by how many doubles are kept.

A young detector, as after the second training of the demo, pre-annotates scenes that it has not seen. A box is right
when it has the label of a true one, which no better box took, and an IoU of at least 0.5 with it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from al_backend.demo.sample import label_config
from al_backend.labelstudio.codec import from_annotation, to_regions
from al_backend.labelstudio.labeling_config import parse_labeling_config
from al_backend.settings import LearningSettings
from benchmarks._report import Options, Outcome, main
from model.acquisition.geometry import matched_pairs
from model.data.dataset import LabelledImage
from model.data.reef import SPECIES, write_reef
from model.detections import Detections
from model.detectors import factory
from model.detectors.base import View
from model.detectors.files import predict_files
from model.training.config import TrainingConfig

LABELLED, ITERATIONS, BATCH_SIZE = 60, 200, 8
SCENES, QUICK_SCENES = 300, 40
SIZE = 320
OVERLAPS = (1.0, 0.7, 0.6, 0.5, 0.4, 0.3)


def measure(options: Options) -> Outcome:
    """One training, then the same detections with each limit."""
    with tempfile.TemporaryDirectory(prefix="al-benchmark-") as name:
        return _measure(Path(name), ITERATIONS // 5 if options.quick else ITERATIONS, options.quick)


def _measure(work: Path, iterations: int, quick: bool) -> Outcome:
    labelled = write_reef(work / "labelled", LABELLED, seed=71, size=(SIZE, SIZE))
    unseen = write_reef(work / "unseen", QUICK_SCENES if quick else SCENES, seed=72, size=(SIZE, SIZE))
    detector = factory.create("yolov5n", SPECIES, image_size=SIZE, base=factory.find_base("yolov5n", None), seed=0)
    detector.fit(labelled, None, TrainingConfig(iterations=iterations, batch_size=BATCH_SIZE))
    settings = LearningSettings()
    found: list[Detections] = []
    for seen in predict_files(detector, [image.path for image in unseen.images], min_score=settings.score_threshold):
        if isinstance(seen, Exception):
            raise seen
        found.append(seen[View.ORIGINAL])
    rows = [_row(overlap, unseen.images, found, settings.score_threshold) for overlap in OVERLAPS]
    notes = [
        f"YOLOv5n at {SIZE} px, {iterations} steps of {BATCH_SIZE} on {LABELLED} scenes, from the base that comes with "
        f"the project; {len(unseen)} scenes that it has not seen, {unseen.num_boxes} true boxes; boxes from a "
        f"confidence of {settings.score_threshold}. AL_BOX_OVERLAP is {settings.box_overlap} unless set; 1 keeps all."
    ]
    return Outcome(results=rows, notes=notes)


def _row(overlap: float, images: Sequence[LabelledImage], found: list[Detections], threshold: float) -> dict[str, Any]:
    config = parse_labeling_config(label_config(SPECIES))
    right = wrong = missing = 0
    for image, detections in zip(images, found, strict=True):
        size = (detections.height, detections.width)
        regions = to_regions(detections, SPECIES, config, threshold=threshold, overlap=overlap)
        boxes, _ = from_annotation(regions, config, size)
        correct = 0
        for index, species in enumerate(SPECIES):
            ours = np.array([box for label, box in boxes if label == species], np.float64).reshape(-1, 4)
            correct += len(matched_pairs(ours, image.xyxy[image.label == index]))
        right += correct
        wrong += len(boxes) - correct
        missing += len(image.label) - correct
    return {
        "overlap": overlap,
        "right": right,
        "to_delete": wrong,
        "to_draw": missing,
        "corrections_per_image": round((wrong + missing) / len(found), 2),
    }


if __name__ == "__main__":
    raise SystemExit(main("corrections", "What has a person to correct in the pre-annotations?", measure))
