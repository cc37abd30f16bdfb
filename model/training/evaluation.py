"""Average precision of a detector on labelled images, as COCO defines it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from model.data.dataset import DetectionDataset, LabelledImage
from model.detections import Detections
from model.detectors.base import Detector, View
from model.detectors.files import predict_files
from model.training.config import Progress

MIN_SCORE = 0.001
"""Low, because average precision looks at the whole ranking of boxes, not at one threshold."""
MAX_DETECTIONS = 100


@dataclass(frozen=True, slots=True, eq=False)
class FoundBoxes:
    """What an evaluation needs of one image's `Detections`; embeddings are sixty times as much (YOLOv5n).

    Attributes:
        xyxy: as of `Detections`.
        score: likewise.
        label: likewise.
    """

    xyxy: NDArray[np.float32]
    score: NDArray[np.float32]
    label: NDArray[np.int64]

    @classmethod
    def of(cls, detections: Detections) -> FoundBoxes:
        """The boxes of `detections`, which need not be kept."""
        # Copies, because a part of a batch's array keeps all of it in memory.
        return cls(detections.xyxy.copy(), detections.score.copy(), detections.label.copy())

    def __len__(self) -> int:
        return len(self.score)


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """Quality for one class.

    Attributes:
        ap50: average precision at IoU 0.5, in [0, 1]; None when the data set has no box of the class.
        ap50_95: mean over IoU 0.5, 0.55, ... 0.95; None likewise.
        boxes: true boxes of the class.
    """

    ap50: float | None
    ap50_95: float | None
    boxes: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Quality of a detector on one data set.

    Attributes:
        map50: mean of `ap50` over the classes that have boxes, in [0, 1]; None when none has.
        map50_95: the same for `ap50_95`.
        images: images that were evaluated.
        boxes: true boxes in them.
        per_class: by class name, in the order of the data set.
        skipped: images that could not be read and do not count, one sentence each.
    """

    map50: float | None
    map50_95: float | None
    images: int
    boxes: int
    per_class: dict[str, ClassMetrics]
    skipped: tuple[str, ...] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a JSON document."""
        return asdict(self) | {"skipped": list(self.skipped)}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Evaluation:
        """The evaluation that `as_dict` described."""
        return cls(
            map50=document["map50"],
            map50_95=document["map50_95"],
            images=document["images"],
            boxes=document["boxes"],
            per_class={name: ClassMetrics(**values) for name, values in document["per_class"].items()},
            skipped=tuple(document.get("skipped", ())),
        )


def evaluate(
    detector: Detector,
    dataset: DetectionDataset,
    *,
    batch_size: int = 8,
    on_progress: Callable[[Progress], None] | None = None,
) -> Evaluation:
    """Run `detector` over `dataset` and compare.

    Classes are matched by name; what the detector says about other classes is left out.

    Args:
        detector: any.
        dataset: may be empty.
        batch_size: images read and predicted at once.
        on_progress: called after each batch; what it raises ends the evaluation.
    """
    evaluated, found, skipped = detect_all(detector, dataset, batch_size=batch_size, on_progress=on_progress)
    return score(evaluated, found, dataset.classes, detector.classes, skipped=skipped)


def detect_all(
    detector: Detector,
    dataset: DetectionDataset,
    *,
    batch_size: int = 8,
    on_progress: Callable[[Progress], None] | None = None,
) -> tuple[list[LabelledImage], list[FoundBoxes], tuple[str, ...]]:
    """What an evaluation compares: the images that could be read, the boxes found in each, and why others could not.

    Arguments as `evaluate`.
    """
    evaluated: list[LabelledImage] = []
    found: list[FoundBoxes] = []
    skipped: list[str] = []
    files = [image.path for image in dataset.images]
    with closing(predict_files(detector, files, min_score=MIN_SCORE, batch=batch_size)) as outcomes:
        for done, (image, outcome) in enumerate(zip(dataset.images, outcomes, strict=True), 1):
            if isinstance(outcome, Mapping):
                evaluated.append(image)
                found.append(FoundBoxes.of(outcome[View.ORIGINAL]))
            else:
                skipped.append(f"{image.key}: {outcome}")
            if on_progress is not None and (done % batch_size == 0 or done == len(dataset)):
                share = done / len(dataset)
                on_progress(Progress(phase="evaluate", iteration=done, iterations=len(dataset), epoch=share))
    return evaluated, found, tuple(skipped)


def score(
    truth: Sequence[LabelledImage],
    found: Sequence[FoundBoxes | Detections],
    classes: Sequence[str],
    found_classes: Sequence[str] | None = None,
    *,
    skipped: tuple[str, ...] = (),
) -> Evaluation:
    """Compare detections with the truth.

    Args:
        truth: images with their true boxes.
        found: one per image of `truth`, in the same order.
        classes: what `LabelledImage.label` indexes.
        found_classes: what `label` of `found` indexes; None for `classes`.
        skipped: passed on.
    """
    counts = np.zeros(len(classes), np.int64)
    for image in truth:
        counts += np.bincount(image.label, minlength=len(classes))
    ap50, ap50_95 = _average_precision(truth, found, classes, found_classes or classes)
    per_class = {
        name: ClassMetrics(_defined(ap50[c]), _defined(ap50_95[c]), int(counts[c])) for c, name in enumerate(classes)
    }
    return Evaluation(
        map50=_defined(_mean(ap50)),
        map50_95=_defined(_mean(ap50_95)),
        images=len(truth),
        boxes=int(counts.sum()),
        per_class=per_class,
        skipped=skipped,
    )


def _average_precision(
    truth: Sequence[LabelledImage],
    found: Sequence[FoundBoxes | Detections],
    classes: Sequence[str],
    found_classes: Sequence[str],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Average precision per class at IoU 0.5 and from 0.5 to 0.95; NaN where a class has no true box."""
    nothing = np.full(len(classes), np.nan)
    if not any(len(image.label) for image in truth):
        return nothing, nothing
    reference = COCO(_truth_document(truth, classes), print_function=_silent)
    results = reference.loadRes(_result_rows(found, classes, found_classes))
    run = COCOeval_faster(reference, results, iouType="bbox", print_function=_silent)
    run.params.maxDets = [1, 10, MAX_DETECTIONS]
    run.evaluate()
    run.accumulate()
    # Shape (IoU thresholds, recall points, classes, area ranges, detection limits); -1 where undefined.
    precision = np.asarray(run.eval["precision"], np.float64)[:, :, :, 0, -1]
    precision = np.where(precision < 0, np.nan, precision)
    return precision[0].mean(axis=0), precision.mean(axis=(0, 1))


def _truth_document(truth: Sequence[LabelledImage], classes: Sequence[str]) -> dict[str, Any]:
    annotations = [
        {"image_id": number, "category_id": int(label) + 1, **_box(xyxy)}
        for number, image in enumerate(truth, 1)
        for xyxy, label in zip(image.xyxy, image.label, strict=True)
    ]
    return {
        "info": {},
        "images": [{"id": number} for number in range(1, len(truth) + 1)],
        "annotations": [{"id": n, "iscrowd": 0, **a} for n, a in enumerate(annotations, 1)],
        "categories": [{"id": c + 1, "name": name} for c, name in enumerate(classes)],
    }


def _result_rows(
    found: Sequence[FoundBoxes | Detections], classes: Sequence[str], found_classes: Sequence[str]
) -> list[dict[str, Any]]:
    known = {name: c + 1 for c, name in enumerate(classes)}
    category = [known.get(name) for name in found_classes]
    return [
        {"image_id": number, "category_id": category[int(label)], "score": float(score), **_box(xyxy)}
        for number, detections in enumerate(found, 1)
        for xyxy, label, score in zip(detections.xyxy, detections.label, detections.score, strict=True)
        if category[int(label)] is not None
    ]


def _box(xyxy: NDArray[np.float32]) -> dict[str, Any]:
    x1, y1, x2, y2 = (float(v) for v in xyxy)
    return {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}


def _mean(values: NDArray[np.float64]) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _silent(*_: object) -> None:
    """The library reports on standard output otherwise."""
