"""Reads and writes data sets in the YOLO layout: a data.yaml, folders of images, text files of normalised boxes.

Follows Ultralytics in where files are looked for; unlike Ultralytics, one broken line does not cost the image's
other boxes, and everything that is left out is named.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from model.data.dataset import DetectionDataset, LabelledImage
from model.data.files import SPLITS, copy_image, file_names, is_image, key_of, split_names, told
from model.errors import DatasetUnreadable, ImageUnreadable
from model.images import image_size

_ANY_CLASS = 2**31
_OVERHANG = 0.01
"""How far beyond [0, 1] a coordinate may lie, by rounding, before it counts as not normalised."""


def read_yolo(data_yaml: Path, split: str) -> DetectionDataset:
    """One split of a data set in the YOLO layout.

    An image's label file has its name with the ending .txt, in the folder that has `labels` where the image's has
    its last `images`; where that does not exist, beside the image. An image without label file, or with an empty
    one, is background. Polygons (a class and three points or more) are read as the box around them, key points
    (where `data_yaml` has `kpt_shape`) are passed over; boxes are cut at the image's edge.
    What cannot be used becomes a sentence in `problems`: images that are missing or unreadable, broken lines, and
    images of whose lines none is sound, because those would pass for background. So do label files that seem to belong
    to images without one.

    Args:
        data_yaml: names its classes (`names`, a list or a mapping from 0 on) and, per split, a folder (searched
            deeply), a .txt file listing images, or a list of those; relative to its `path`, else to its own folder.
        split: a key of `data_yaml`; `val`, `valid` and `validation` are one.

    Returns:
        Folders in alphabetical order, lists in theirs, each image once; keys are paths relative to the data set.

    Raises:
        DatasetUnreadable: `data_yaml` or what it names for `split` is missing, or says nothing usable.
    """
    document = _read_document(data_yaml)
    classes = _class_names(document, data_yaml)
    problems: list[str] = []
    declared = document.get("nc")
    if declared is not None and str(declared) != str(len(classes)):
        problems.append(f"{data_yaml.name}: nc is {declared}, but {len(classes)} names are given; the names count.")
    roots, key_points = _roots(document, data_yaml), "kpt_shape" in document
    images: list[LabelledImage] = []
    unlabelled: list[Path] = []
    seen: set[Path] = set()
    for path in _image_paths(_entries(document, data_yaml, split), roots, problems):
        if path.resolve() in seen:
            continue
        seen.add(path.resolve())
        labels = _label_file(path)
        image = _read_image(path, labels, key_of(path, roots), len(classes), key_points, problems)
        if image is not None:
            images.append(image)
            if labels is None:
                unlabelled.append(path)
    if images and len(unlabelled) == len(images):
        problems.append(f"no image has a label file; looked for {_label_path(unlabelled[0])} and the like.")
    problems += _misnamed(unlabelled)
    return DetectionDataset(classes, images, tuple(problems))


def yolo_splits(data_yaml: Path) -> tuple[str, ...]:
    """The splits that `data_yaml` names; errors as of `read_yolo`."""
    document = _read_document(data_yaml)
    return tuple(key for key in SPLITS if document.get(key))


def write_yolo(dataset: DetectionDataset, folder: Path, *, split: str = "train") -> Path:
    """Copy a data set's images into `folder` and describe them in the YOLO layout.

    Writing again replaces the split; other splits that `folder` has with the same classes stay.

    Args:
        dataset: any; may be empty.
        folder: created if missing.
        split: key in `data.yaml`, also the name of the sub-folders of images and labels.

    Returns:
        The path of `data.yaml`.

    Raises:
        DatasetUnreadable: `folder` holds a data set with other classes.
        ImageUnreadable: an image of `dataset` is gone or damaged.
    """
    data_yaml = folder / "data.yaml"
    splits: dict[str, Any] = {}
    if data_yaml.exists():
        document = _read_document(data_yaml)
        if _class_names(document, data_yaml) != dataset.classes:
            raise DatasetUnreadable(
                f"{data_yaml} describes other classes than {', '.join(dataset.classes)}. Write to another folder."
            )
        splits = {key: value for key, value in document.items() if key not in ("names", "nc", split)}
    for kind in ("images", "labels"):
        (folder / kind / split).mkdir(parents=True, exist_ok=True)
    # A list, not the folder: files of an earlier, larger export must not come back.
    listed = []
    for name, image in zip(file_names(dataset.images), dataset.images, strict=True):
        height, width = image_size(image.path)
        target = folder / "images" / split / name
        copy_image(image.path, target)
        corners = image.xyxy.astype(np.float64) / (width, height, width, height)
        rows = np.hstack([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]])
        lines = [
            " ".join([str(label), *(f"{v:.9f}" for v in row)]) for label, row in zip(image.label, rows, strict=True)
        ]
        _label_path(target).write_text("".join(f"{line}\n" for line in lines), "utf-8")
        listed.append(f"./images/{split}/{name}\n")
    (folder / f"{split}.txt").write_text("".join(listed), "utf-8")
    document = {**splits, split: f"{split}.txt", "names": dict(enumerate(dataset.classes))}
    data_yaml.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), "utf-8")
    return data_yaml


def _read_document(data_yaml: Path) -> dict[str, Any]:
    try:
        # Everything as text: a class called `no` is not False, one called `007` not 7.
        document = yaml.load(data_yaml.read_text("utf-8-sig"), Loader=yaml.BaseLoader)
    except OSError as error:
        raise DatasetUnreadable(f"{data_yaml} cannot be read: {error.strerror or error}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DatasetUnreadable(f"{data_yaml} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(document, dict):
        raise DatasetUnreadable(f"{data_yaml} holds no mapping; expected the keys names, train and val.")
    return document


def _class_names(document: dict[str, Any], data_yaml: Path) -> tuple[str, ...]:
    names = document.get("names")
    if isinstance(names, dict):
        if sorted(names) != sorted(str(index) for index in range(len(names))):
            raise DatasetUnreadable(f"{data_yaml}: names have the keys {', '.join(names)}, expected 0, 1, 2 and so on.")
        names = [names[str(index)] for index in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DatasetUnreadable(
            f"{data_yaml}: names are {names!r}, expected a list of class names or a mapping to them."
        )
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise DatasetUnreadable(
            f"{data_yaml}: the class {', '.join(twice)} is named more than once. Give each its own."
        )
    return tuple(names)


def _entries(document: dict[str, Any], data_yaml: Path, split: str) -> list[str]:
    found = next((document[key] for key in split_names(split) if document.get(key)), None)
    entries = found if isinstance(found, list) else [found]
    if found is None or not all(isinstance(entry, str) for entry in entries):
        there = ", ".join(yolo_splits(data_yaml))
        raise DatasetUnreadable(
            f"{data_yaml} says {found!r} for the split {split!r}, expected a folder, a .txt file or a list of them; "
            f"splits that it has: {there or 'none'}."
        )
    return [str(entry) for entry in entries]


def _roots(document: dict[str, Any], data_yaml: Path) -> tuple[Path, ...]:
    """Folders that paths are relative to, the first match counts; `path` is often of the machine it was made on."""
    here = data_yaml.absolute().parent
    return (here / str(document["path"]), here) if document.get("path") else (here,)


def _image_paths(entries: Sequence[str], roots: tuple[Path, ...], problems: list[str]) -> Iterator[Path]:
    for entry in entries:
        # Roboflow writes ../train/images for a folder that lies beside data.yaml.
        spellings = (entry, entry[3:]) if entry.startswith("../") else (entry,)
        choices = [root / spelling for spelling in spellings for root in roots]
        source = next((choice for choice in choices if choice.exists()), None)
        if source is None:
            tried = ", ".join(str(choice) for choice in dict.fromkeys(choices))
            raise DatasetUnreadable(f"{entry!r} does not exist; looked for {tried}.")
        if source.is_dir():
            yield from sorted(path for path in source.rglob("*") if is_image(path))
        elif source.suffix == ".txt":
            yield from _listed(source, roots, problems)
        else:
            raise DatasetUnreadable(f"{source} is neither a folder nor a .txt file that lists images.")


def _listed(source: Path, roots: tuple[Path, ...], problems: list[str]) -> Iterator[Path]:
    try:
        lines = source.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetUnreadable(f"{source} cannot be read as a list of images: {error}.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        choices = [folder / line.strip() for folder in (source.absolute().parent, *roots)]
        found = next((choice for choice in choices if choice.is_file()), None)
        if found is None:
            problems.append(f"{source.name}: line {number} names {line.strip()!r}, which does not exist; left out.")
        else:
            yield found


def _label_path(image: Path) -> Path:
    parts = list(image.parent.parts)
    for place in range(len(parts) - 1, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts) / f"{image.stem}.txt"


def _label_file(image: Path) -> Path | None:
    return next((path for path in (_label_path(image), image.with_suffix(".txt")) if path.exists()), None)


def _misnamed(unlabelled: Sequence[Path]) -> Iterator[str]:
    """Label files without an image, where there are images without a label file."""
    folders: dict[tuple[Path, Path], list[Path]] = {}
    for image in unlabelled:
        folders.setdefault((_label_path(image).parent, image.parent), []).append(image)
    for (labels, images), without in folders.items():
        if not labels.is_dir():
            continue
        stems = {path.stem for path in images.iterdir() if is_image(path)}
        strangers = sorted(
            path.name
            for path in labels.iterdir()
            if path.suffix.lower() == ".txt" and (path.suffix != ".txt" or path.stem not in stems) and _is_labels(path)
        )
        if strangers:
            yield (
                f"{len(without)} images without a label file count as background ({told([p.name for p in without])}), "
                f"while no image is called as {told(strangers)} in {labels}."
            )


def _is_labels(path: Path) -> bool:
    """Whether a text file begins as labels do, and not as a list of images or of classes does."""
    try:
        lines = (line for line in path.read_text("utf-8-sig").splitlines() if line.strip())
        _parse(next(lines, ""), _ANY_CLASS, False)
    except (OSError, ValueError):
        return False
    return True


def _read_image(
    path: Path, labels: Path | None, key: str, num_classes: int, key_points: bool, problems: list[str]
) -> LabelledImage | None:
    try:
        height, width = image_size(path)
    except ImageUnreadable as error:
        problems.append(f"{key}: left out. {error}")
        return None
    if labels is None:
        return LabelledImage(key, path, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    rows: list[tuple[int, float, float, float, float]] = []
    broken: list[str] = []
    try:
        lines = labels.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{key}: left out, because its labels in {labels.name} cannot be read: {error}.")
        return None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append(_parse(line, num_classes, key_points))
        except ValueError as error:
            broken.append(f"line {number}: {error}")
    if broken:
        outcome = "skipped" if rows else "skipped and the image left out, because no line is sound"
        problems.append(
            f"{labels.name} of {key}: {len(broken)} broken line{'s' * (len(broken) > 1)} {outcome} ({told(broken)})."
        )
        if not rows:
            return None
    if len(set(rows)) < len(rows):
        problems.append(f"{labels.name} of {key}: {len(rows) - len(set(rows))} repeated lines skipped.")
        rows = list(dict.fromkeys(rows))
    table = np.asarray(rows, np.float64).reshape(-1, 5)
    xyxy: NDArray[np.float32] = (table[:, 1:] * (width, height, width, height)).astype(np.float32)
    return LabelledImage(key, path, xyxy, table[:, 0].astype(np.int64))


def _parse(line: str, num_classes: int, key_points: bool) -> tuple[int, float, float, float, float]:
    """Class, left, top, right, bottom of one line, cut at the image's edge, in [0, 1].

    Raises:
        ValueError: what is wrong with the line.
    """
    words = line.split()[: 5 if key_points else None]
    if len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
        raise ValueError(f"{len(words)} values, expected 5, or a class and three points or more")
    try:
        label, *values = (float(word) for word in words)
    except ValueError:
        raise ValueError(f"{line.strip()[:40]!r} is not all numbers") from None
    if label != label // 1 or not 0 <= label < num_classes:
        raise ValueError(f"class {words[0]}, expected 0 to {num_classes - 1}")
    if not all(math.isfinite(value) and -_OVERHANG <= value <= 1 + _OVERHANG for value in values):
        raise ValueError(f"{line.strip()[:40]!r} is not normalised to [0, 1]")
    if len(values) == 4:
        x, y, width, height = values
        left, top, right, bottom = x - width / 2, y - height / 2, x + width / 2, y + height / 2
    else:
        left, top, right, bottom = min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
    left, top, right, bottom = (min(max(value, 0.0), 1.0) for value in (left, top, right, bottom))
    if right <= left or bottom <= top:
        raise ValueError("a box without area")
    return int(label), left, top, right, bottom
