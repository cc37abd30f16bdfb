"""The step that the VOC and COCO readers share: pixel boxes as a file gives them become boxes of the upright image.

What cannot be used becomes a sentence, and an image of whose boxes none is left does not pass for background.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from model.data.dataset import LabelledImage
from model.data.files import told
from model.errors import ImageUnreadable
from model.images import SIDEWAYS, ImageHeader, image_header

Row = tuple[int, float, float, float, float]
"""Class index, left, top, right, bottom."""

_OVERHANG = 0.01
"""How far a box may reach beyond the image, as a share of its side, before that is worth a sentence."""
_OVERHANG_PIXELS = 2.0


@dataclass(slots=True)
class Annotation:
    """What a file says about one image, before it is held against the image itself.

    Attributes:
        path: of the image file, which exists.
        key: of the image.
        source: how sentences call the place where the boxes were found.
        declared: (height, width) that the boxes were drawn on, as the file says; None where it does not.
        rows: boxes with the words that name them in sentences; corners in pixels, left and top edges from 0 on.
        broken: what is wrong with the others, one sentence each.
        passed_over: boxes that are left out on purpose, such as crowds.
    """

    path: Path
    key: str
    source: str
    declared: tuple[int, int] | None
    rows: list[tuple[str, Row]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    passed_over: int = 0


def labelled(annotations: Iterable[Annotation], problems: list[str]) -> list[LabelledImage]:
    """The labelled images of `annotations`, in their order.

    Those that share an image file count once where they agree, and not at all where they differ.
    """
    by_file: dict[Path, list[Annotation]] = {}
    for annotation in annotations:
        by_file.setdefault(annotation.path.resolve(), []).append(annotation)
    images = []
    for entries in by_file.values():
        if len(entries) > 1:
            same = len({_content(entry) for entry in entries}) == 1
            outcome = "taken once" if same else "left out, because nothing says which of their boxes are true"
            problems.append(
                f"{entries[0].key}: {len(entries)} annotations for one image file "
                f"({told([entry.source for entry in entries], ', ')}); {outcome}."
            )
            if not same:
                continue
        image = _to_image(entries[0], problems)
        if image is not None:
            images.append(image)
    return images


def passed_over_sentence(kind: str, keys: Sequence[str], count: int) -> str:
    """How many boxes were left out on purpose, and in which images."""
    return f"{count} {kind} passed over in {len(keys)} images ({told(keys, ', ')})."


def _to_image(annotation: Annotation, problems: list[str]) -> LabelledImage | None:
    """The labelled image that `annotation` describes, None where it must be left out; says why in `problems`.

    Boxes are cut at the image's edge. An image that EXIF turns sideways gets its boxes turned along when the
    declared size is that of the stored pixels.
    """
    key, source = annotation.key, annotation.source
    try:
        header = image_header(annotation.path)
    except ImageUnreadable as error:
        problems.append(f"{key}: left out. {error}")
        return None
    turned = _drawn_before_turning(annotation, header, problems)
    if turned is None:
        return None
    height, width = header.stored_size if turned else (header.height, header.width)
    rows, overhang = _cut(annotation, height, width)
    if not _report(annotation, len(rows), problems):
        return None
    if overhang:
        problems.append(
            f"{source} of {key}: reach beyond the image of {width} x {height} and are cut: {told(overhang)}."
        )
    if len(set(rows)) < len(rows):
        problems.append(f"{source} of {key}: {len(rows) - len(set(rows))} repeated boxes skipped.")
    if turned:
        rows = [_turn(row, header.orientation, height, width) for row in rows]
    table = np.asarray(list(dict.fromkeys(rows)), np.float64).reshape(-1, 5)
    return LabelledImage(key, annotation.path, table[:, 1:].astype(np.float32), table[:, 0].astype(np.int64))


def _content(annotation: Annotation) -> tuple[frozenset[Row], int, int]:
    return frozenset(row for _, row in annotation.rows), len(annotation.broken), annotation.passed_over


def _drawn_before_turning(annotation: Annotation, header: ImageHeader, problems: list[str]) -> bool | None:
    """Whether boxes lie on the stored pixels rather than the upright ones; None where on neither."""
    declared, upright, stored = annotation.declared, (header.height, header.width), header.stored_size
    if declared is not None and declared not in (upright, stored):
        problems.append(
            f"{annotation.key}: left out, because {annotation.source} describes an image of {_size(declared)} "
            f"pixels and the file has {_size(upright)}."
        )
        return None
    tells = declared is not None and upright != stored
    if header.orientation != 1 and not tells and annotation.rows:
        problems.append(
            f"{annotation.key}: the file is stored turned (EXIF orientation {header.orientation}), and "
            f"{annotation.source} does not say whether its boxes were drawn before that or after; taken as after."
        )
    return tells and declared == stored


def _size(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]}"


def _cut(annotation: Annotation, height: int, width: int) -> tuple[list[Row], list[str]]:
    """Rows that have an area inside the image, and a phrase for each that reached far out of it."""
    rows: list[Row] = []
    overhang: list[str] = []
    slack_x, slack_y = (max(_OVERHANG_PIXELS, _OVERHANG * side) for side in (width, height))
    for name, (label, left, top, right, bottom) in annotation.rows:
        corners = f"({left:g}, {top:g}) to ({right:g}, {bottom:g})"
        inside = (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
        if not all(map(math.isfinite, (left, top, right, bottom))):
            annotation.broken.append(f"{name}: the box {corners} is not finite")
        elif right <= left or bottom <= top:
            annotation.broken.append(f"{name}: the box {corners} has no area")
        elif inside[2] <= inside[0] or inside[3] <= inside[1]:
            annotation.broken.append(f"{name}: the box {corners} lies outside the image of {width} x {height}")
        else:
            rows.append((label, *inside))
            if max(-left, right - width) > slack_x or max(-top, bottom - height) > slack_y:
                overhang.append(f"{name} {corners}")
    return rows, overhang


def _report(annotation: Annotation, sound: int, problems: list[str]) -> bool:
    """Name broken boxes; False where nothing sound is left of an image that had some."""
    count = len(annotation.broken)
    if count:
        outcome = "skipped" if sound else "skipped and the image left out, because no box is left"
        problems.append(
            f"{annotation.source} of {annotation.key}: {count} broken box{'es' * (count > 1)} {outcome} "
            f"({told(annotation.broken)})."
        )
    elif annotation.passed_over and not sound:
        problems.append(
            f"{annotation.key}: left out, because all its boxes ({annotation.passed_over}) are of the kind that is "
            "passed over."
        )
    return bool(sound) or not (count or annotation.passed_over)


def _turn(row: Row, orientation: int, height: int, width: int) -> Row:
    """A box on stored pixels of `height` and `width`, after EXIF's sideways `orientation`."""
    if orientation not in SIDEWAYS:
        raise ValueError(f"orientation is {orientation}, expected one of {SIDEWAYS}")
    label, left, top, right, bottom = row
    if orientation in (6, 7):  # the stored top edge becomes the right one
        top, bottom = height - bottom, height - top
    if orientation in (7, 8):  # the stored right edge becomes the top one
        left, right = width - right, width - left
    return label, top, left, bottom, right
