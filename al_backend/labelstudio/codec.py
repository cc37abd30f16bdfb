"""Detections to Label Studio regions and annotations back to boxes.

Label Studio stores a box as percent of the image: `x`, `y` of its top left corner, `width`, `height`, and a clockwise
`rotation` in degrees about that corner.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from al_backend.labelstudio.labeling_config import LabelingConfig
from model.acquisition.geometry import iou
from model.detections import Detections

_TYPE = "rectanglelabels"
# 1e-4 percent is a hundredth of a pixel in an image of 10,000 pixels, and short numbers keep the imports small.
_PERCENT_DIGITS = 4
_SCORE_DIGITS = 5

Box = tuple[float, float, float, float]


def to_regions(
    detections: Detections, classes: Sequence[str], config: LabelingConfig, *, threshold: float, overlap: float = 1.0
) -> list[dict[str, Any]]:
    """Label Studio result items of one image, most confident first.

    Args:
        detections: of the image, in pixels of the image with EXIF orientation applied, as a browser shows it.
        classes: the detector's class names; `detections.label` indexes them.
        config: detections of classes for which it has no label are left out, because Label Studio drops a whole
            prediction with an unknown label.
        threshold: least confidence, in [0, 1].
        overlap: IoU, in [0, 1]; a box that overlaps a more confident one of the same label by more is left out. A
            detector's own suppression is made to find everything and leaves several boxes around one object, each of
            which a person would have to delete.

    Returns:
        One item per kept detection, empty for none. `id` depends on the content only, so that the same detections give
        the same regions. `score` is the confidence. Boxes are clipped to the image; those outside it, and those
        with a coordinate that is not finite, are left out.

    Raises:
        ValueError: there are fewer class names than the detections have classes.
    """
    if len(classes) < detections.num_classes:
        raise ValueError(f"{len(classes)} class names for detections with {detections.num_classes} classes")
    labels = [config.label_of(name) for name in classes]
    scale = np.array([detections.width, detections.height] * 2, dtype=np.float64)
    percent = np.clip(detections.xyxy.astype(np.float64) / scale * 100, 0, 100)
    usable = np.isfinite(detections.xyxy).all(axis=1) & np.isfinite(detections.score)
    order = np.argsort(-detections.score, kind="stable")
    regions: list[dict[str, Any]] = []
    kept: dict[str, list[int]] = {}
    seen: set[str] = set()
    for index in order:
        label = labels[int(detections.label[index])]
        score = float(detections.score[index])
        if label is None or not usable[index] or score < threshold:
            continue
        x, y = (round(float(value), _PERCENT_DIGITS) for value in percent[index, :2])
        width = round(float(percent[index, 2]) - x, _PERCENT_DIGITS)
        height = round(float(percent[index, 3]) - y, _PERCENT_DIGITS)
        if width <= 0 or height <= 0:
            continue
        same = kept.setdefault(label, [])
        if overlap < 1 and same and iou(detections.xyxy[[index]], detections.xyxy[same]).max() > overlap:
            continue
        same.append(int(index))
        value = {"x": x, "y": y, "width": width, "height": height, "rotation": 0, _TYPE: [label]}
        regions.append(
            {
                "id": _region_id(value, seen),
                "from_name": config.from_name,
                "to_name": config.to_name,
                "type": _TYPE,
                "original_width": detections.width,
                "original_height": detections.height,
                "image_rotation": 0,
                "score": round(min(max(score, 0.0), 1.0), _SCORE_DIGITS),
                "value": value,
            }
        )
    return regions


def _region_id(value: Mapping[str, Any], seen: set[str]) -> str:
    text = json.dumps(value, sort_keys=True)
    attempt = 0
    while True:
        name = hashlib.sha1(f"{attempt}{text}".encode(), usedforsecurity=False).hexdigest()[:10]
        if name not in seen:
            seen.add(name)
            return name
        attempt += 1  # the same box twice in one image


def from_annotation(
    result: Iterable[Mapping[str, Any]], config: LabelingConfig, size: tuple[int, int] | None
) -> tuple[list[tuple[str, Box]], list[str]]:
    """Labelled boxes of one annotation, in pixels.

    Args:
        result: the annotation's `result`; items of other tags are none of ours and passed over.
        config: names the tag and its labels.
        size: (height, width) of the image when known; else each region's `original_height` and `original_width`.

    Returns:
        (label, (left, top, right, bottom)) per label of each region, in the annotation's order and clipped to the
        image, and one sentence per region that could not be used. A rotated box becomes the smallest upright box that
        holds it, because the detectors know upright boxes only. Both are empty for an image without objects.
    """
    boxes: list[tuple[str, Box]] = []
    problems: list[str] = []
    for number, item, labels in _regions(result, config):
        where = f"Region {item.get('id') or number}"
        value = item.get("value") or {}
        known = [label for label in labels if label in config.labels]
        problems += [
            f"{where} has the label {label!r}, which the config lacks." for label in labels if label not in known
        ]
        if not labels:
            problems.append(f"{where} has no label.")
        if not known:
            continue
        box = _pixels(item, value, size)
        if isinstance(box, str):
            problems.append(f"{where} {box}")
        else:
            boxes += [(label, box) for label in known]
    return boxes, problems


def count_objects(result: Iterable[Mapping[str, Any]], config: LabelingConfig) -> int:
    """Regions of one annotation that stand for an object of the config's classes, whether they can be used or not.

    One without a label may be such an object; one whose labels the config lacks is none.
    """
    return sum(
        not labels or any(label in config.labels for label in labels) for _, _, labels in _regions(result, config)
    )


def _regions(
    result: Iterable[Mapping[str, Any]], config: LabelingConfig
) -> Iterator[tuple[int, Mapping[str, Any], list[str]]]:
    """Place in the annotation, item and labels of each region of our tag."""
    for number, item in enumerate(result, start=1):
        if item.get("type") == _TYPE and item.get("from_name") == config.from_name:
            named = (item.get("value") or {}).get(_TYPE) or ()
            yield number, item, list(dict.fromkeys(str(label) for label in named))


def _pixels(item: Mapping[str, Any], value: Mapping[str, Any], size: tuple[int, int] | None) -> Box | str:
    """Corners in pixels, or the end of a sentence that says why there are none."""
    height: Any
    width: Any
    height, width = size or (item.get("original_height"), item.get("original_width"))
    if not _positive(height) or not _positive(width):
        return f"has original_width {width!r} and original_height {height!r}, expected the image's size in pixels."
    if item.get("image_rotation"):
        return f"was drawn on an image turned by {item['image_rotation']} degrees; turn it back and label it again."
    numbers: list[Any] = [value.get(key) for key in ("x", "y", "width", "height")] + [value.get("rotation") or 0]
    if not all(_finite(number) for number in numbers):
        return f"has the numbers {numbers}, expected finite x, y, width, height and rotation."
    x, y, w, h, rotation = (float(number) for number in numbers)
    left, top = x / 100 * width, y / 100 * height
    across, down = w / 100 * width, h / 100 * height
    # Percent of width and of height are different lengths: the rotation is one of pixels.
    cos, sin = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
    xs = [left, left + across * cos, left + across * cos - down * sin, left - down * sin]
    ys = [top, top + across * sin, top + across * sin + down * cos, top + down * cos]
    box = (
        min(max(min(xs), 0.0), float(width)),
        min(max(min(ys), 0.0), float(height)),
        min(max(max(xs), 0.0), float(width)),
        min(max(max(ys), 0.0), float(height)),
    )
    if box[2] <= box[0] or box[3] <= box[1]:
        return "has no area inside the image."
    return box


def choose_annotation(annotations: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The annotation that counts: a ground truth before others, then the one changed last; None without any.

    Skipped annotations (`was_cancelled`) never count; submitted empty ones do.
    """
    submitted = [dict(annotation) for annotation in annotations if not annotation.get("was_cancelled")]
    if not submitted:
        return None
    return max(submitted, key=_precedence)


def _precedence(annotation: Mapping[str, Any]) -> tuple[bool, str, int]:
    changed = annotation.get("updated_at") or annotation.get("created_at") or ""
    # ISO 8601 in UTC as Label Studio writes it sorts as text.
    return bool(annotation.get("ground_truth")), str(changed), int(annotation.get("id") or 0)


def label_digest(annotation: Mapping[str, Any]) -> str:
    """Fingerprint of what training sees of an annotation: boxes and labels, in any order; 40 hex digits.

    Saving an annotation again without a change, or with other region ids, keeps it.
    """
    rows = []
    for item in annotation.get("result") or ():
        if item.get("type") != _TYPE:
            continue
        value = item.get("value") or {}
        numbers = [_rounded(value.get(key)) for key in ("x", "y", "width", "height", "rotation")]
        labels = sorted(str(label) for label in value.get(_TYPE) or ())
        rows.append(json.dumps([item.get("from_name"), labels, numbers, _rounded(item.get("image_rotation"))]))
    return hashlib.sha1("\n".join(sorted(rows)).encode(), usedforsecurity=False).hexdigest()


def _rounded(number: Any) -> float:
    return round(float(number), _PERCENT_DIGITS) + 0.0 if _finite(number) else 0.0


def _finite(number: Any) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)


def _positive(number: Any) -> bool:
    return _finite(number) and number > 0
