"""Reads and writes data sets as COCO describes them: one JSON file of images, categories and boxes."""

from __future__ import annotations

import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from model.data.annotations import Annotation, Row, labelled, passed_over_sentence
from model.data.dataset import DetectionDataset
from model.data.files import copy_image, file_names, key_of, told
from model.data.json_stream import iterate_object
from model.errors import DatasetUnreadable
from model.images import image_size

_ANNOTATION_FOLDER = "annotations"
_LOOKED_AT = 1000
_Id = int | str


def read_coco(path: Path, images: Path | None = None, *, classes: Sequence[str] | None = None) -> DetectionDataset:
    """The data set that a COCO annotation file (`instances_train.json` and the like) describes.

    `bbox` is left, top, width and height in pixels from 0 on. An image without annotation is background, as COCO
    means it. Regions marked `iscrowd` hold many objects in one box and are passed over; their image stays if it has
    other boxes. Masks and key points are not looked at. The file is read item by item and only its boxes are kept.
    What cannot be used becomes a sentence in `problems`, as in `read_yolo`: among it images whose file is missing,
    or whose id, or file, the document gives twice with different boxes.

    Args:
        path: of the annotation file.
        images: folder that `file_name` is relative to. None looks in the folder of `path` and, where that is called
            annotations, in the one above; there in sub-folders called `images` or after the file (`train2017` of
            `instances_train2017.json`), too. A `file_name` never leads out of those folders.
        classes: class list; boxes of other categories are broken. None takes the document's categories in the order
            of their ids.

    Returns:
        Images in the document's order; keys are image paths relative to the data set's folder.

    Raises:
        DatasetUnreadable: the file is missing, not JSON, no COCO document, contradicts itself about categories, or
            not one of its images exists.
    """
    document = _read_document(path)
    problems: list[str] = []
    names, position = _classes(document, path, classes, problems)
    base, roots = _roots(path) if images is None else (images, (images,))
    found = list(_annotations(document, path, position, names, base, roots, problems))
    if document.images and not found:
        looked = ", ".join(str(root) for root in roots)
        raise DatasetUnreadable(
            f"{path}: not one of its {len(document.images)} images exists, the first is "
            f"{document.images[0].get('file_name')!r}; looked in {looked}. Say where they are with `images`."
        )
    crowds = {annotation.key: annotation.passed_over for annotation in found if annotation.passed_over}
    if crowds:
        problems.append(passed_over_sentence("crowd regions", list(crowds), sum(crowds.values())))
    return DetectionDataset(names, labelled(found, problems), tuple(problems))


def write_coco(dataset: DetectionDataset, folder: Path, *, split: str = "train") -> Path:
    """Copy a data set's images into `folder` and describe them in a COCO document.

    Args:
        dataset: any; may be empty.
        folder: created if missing; its other splits stay.
        split: part of the document's name, and the sub-folder of images.

    Returns:
        The path of `annotations/instances_SPLIT.json`.

    Raises:
        ImageUnreadable: an image of `dataset` is gone or damaged.
    """
    target = folder / _ANNOTATION_FOLDER / f"instances_{split}.json"
    for place in (target.parent, folder / "images" / split):
        place.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (name, image) in enumerate(zip(file_names(dataset.images), dataset.images, strict=True), 1):
        height, width = image_size(image.path)
        copy_image(image.path, folder / "images" / split / name)
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for label, (left, top, right, bottom) in zip(image.label.tolist(), image.xyxy.tolist(), strict=True):
            bbox = [left, top, right - left, bottom - top]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": label + 1,
                    "bbox": bbox,
                    "area": bbox[2] * bbox[3],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": index, "name": name} for index, name in enumerate(dataset.classes, 1)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(document, ensure_ascii=False), "utf-8")
    os.replace(temporary, target)
    return target


def is_coco(path: Path) -> bool:
    """Whether a JSON file begins like a COCO document; looks at its first entries only."""
    try:
        for key, item in islice(iterate_object(path), _LOOKED_AT):
            if key in ("images", "annotations", "categories"):
                return isinstance(item, dict) and not {"id", "image_id"}.isdisjoint(item)
    except (OSError, ValueError):
        return False
    return False


@dataclass(slots=True)
class _Box:
    name: str
    category: Any
    bbox: Any
    crowd: bool


@dataclass(slots=True)
class _Document:
    images: list[dict[str, Any]] = field(default_factory=list)
    categories: list[dict[str, Any]] = field(default_factory=list)
    boxes: dict[_Id, list[_Box]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)


def _read_document(path: Path) -> _Document:
    document, number = _Document(), 0
    members: set[str] = set()
    try:
        for key, item in iterate_object(path):
            members.add(key)
            if key == "annotations":
                number += 1
                if not isinstance(item, dict) or not isinstance(item.get("image_id"), _Id):
                    document.broken.append(f"number {number} names no image")
                    continue
                name = f"annotation {item.get('id', f'number {number}')}"
                box = _Box(name, item.get("category_id"), item.get("bbox"), bool(item.get("iscrowd", 0)))
                document.boxes.setdefault(item["image_id"], []).append(box)
            elif key in ("images", "categories"):
                if not isinstance(item, dict) or not isinstance(item.get("id"), _Id):
                    document.broken.append(f"{item!r:.60} among {key} has no id")
                    continue
                kept = ("id", "name") if key == "categories" else ("id", "file_name", "height", "width")
                getattr(document, key).append({name: item.get(name) for name in kept})
    except (OSError, ValueError) as error:
        raise DatasetUnreadable(f"{path} cannot be read as a COCO document: {error}.") from error
    if not document.categories:
        there = ", ".join(sorted(members)) or "none"
        raise DatasetUnreadable(
            f"{path} is no COCO document: expected images, annotations and categories, found members: {there}."
        )
    return document


def _classes(
    document: _Document, path: Path, wanted: Sequence[str] | None, problems: list[str]
) -> tuple[tuple[str, ...], dict[_Id, int | str]]:
    """The class list, and per category id its index there, or its name where the list lacks it."""
    by_id: dict[_Id, str] = {}
    for category in document.categories:
        name = category["name"]
        if not isinstance(name, str) or not name:
            raise DatasetUnreadable(f"{path}: the category {category['id']!r} is named {name!r}, expected a name.")
        if by_id.setdefault(category["id"], name) != name:
            raise DatasetUnreadable(
                f"{path}: the category id {category['id']!r} means {by_id[category['id']]!r} and {name!r}. "
                "Give each its own."
            )
    ordered = [by_id[key] for key in sorted(by_id, key=lambda key: (isinstance(key, str), key))]
    twice = sorted(name for name, count in Counter(ordered).items() if count > 1)
    if twice:
        problems.append(f"{path.name}: several category ids are called {told(twice, ', ')}; each name is one class.")
    names = tuple(dict.fromkeys(ordered)) if wanted is None else tuple(wanted)
    index = {name: number for number, name in enumerate(names)}
    return names, {key: index.get(name, name) for key, name in by_id.items()}


def _roots(path: Path) -> tuple[Path, tuple[Path, ...]]:
    """The data set's folder, and the folders that image files are looked for in, the first match counts."""
    folder = path.absolute().parent
    base = folder.parent if folder.name.lower() == _ANNOTATION_FOLDER else folder
    inner = [name for word in (path.stem, path.stem.rsplit("_", 1)[-1]) if (name := word.strip("._"))]
    places = [base / kind / name for name in dict.fromkeys(inner) for kind in (".", "images")]
    return base, tuple(dict.fromkeys([*places, base, base / "images", folder, folder / "images"]))


def _annotations(
    document: _Document,
    path: Path,
    position: dict[_Id, int | str],
    names: Sequence[str],
    base: Path,
    roots: Sequence[Path],
    problems: list[str],
) -> Iterator[Annotation]:
    """One annotation per image whose file exists; says in `problems` what is wrong with the others."""
    if document.broken:
        problems.append(f"{path.name}: {len(document.broken)} broken entries skipped ({told(document.broken)}).")
    files: dict[_Id, list[Any]] = {}
    for image in document.images:
        files.setdefault(image["id"], []).append(image["file_name"])
    lost = {key: boxes for key, boxes in document.boxes.items() if key not in files}
    if lost:
        problems.append(
            f"{path.name}: {sum(map(len, lost.values()))} annotations skipped, because they belong to images that the "
            f"document lacks (ids {told([repr(key) for key in lost], ', ')})."
        )
    for image in {image["id"]: image for image in document.images}.values():
        source, name = f"image {image['id']!r}", image["file_name"]
        if len(set(map(str, files[image["id"]]))) > 1:
            several = told([str(file) for file in files[image["id"]]], ", ")
            problems.append(f"{source}: left out, because several files have this id ({several}).")
            continue
        if not isinstance(name, str) or not name:
            problems.append(f"{source}: left out, because its file_name is {name!r}, expected a name.")
            continue
        found = _find(name, roots)
        if found is None:
            problems.append(f"{name}: left out, because there is no such file.")
            continue
        annotation = Annotation(found, key_of(found, (base,)), source, _declared(image))
        for box in document.boxes.get(image["id"], ()):
            if box.crowd:
                annotation.passed_over += 1
                continue
            try:
                annotation.rows.append((box.name, _row(box, position, names)))
            except ValueError as error:
                annotation.broken.append(f"{box.name}: {error}")
        yield annotation


def _find(name: str, roots: Sequence[Path]) -> Path | None:
    """The file called `name` below one of `roots`, with its folders or, if they are of another machine, without."""
    pure = PurePosixPath(name.replace("\\", "/"))
    inner = PurePosixPath(*(part for part in pure.parts if part != "/" and not part.endswith(":")))
    spellings = [inner] if ".." not in inner.parts else []
    spellings.append(PurePosixPath(inner.name))
    for spelling in dict.fromkeys(spellings):
        # Archives change how Unicode is spelled.
        texts = dict.fromkeys((str(spelling), *(unicodedata.normalize(form, str(spelling)) for form in ("NFC", "NFD"))))
        for root in roots:
            for text in texts:
                if (root / text).is_file():
                    return root / text
    return None


def _declared(image: dict[str, Any]) -> tuple[int, int] | None:
    height, width = image["height"], image["width"]
    known = isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0
    return (height, width) if known else None


def _row(box: _Box, position: dict[_Id, int | str], names: Sequence[str]) -> Row:
    label = position.get(box.category) if isinstance(box.category, _Id) else None
    if label is None:
        raise ValueError(f"category {box.category!r}, expected one of {told([repr(key) for key in position], ', ')}")
    if isinstance(label, str):
        raise ValueError(f"class {label!r}, expected one of {told(names, ', ') or 'none'}")
    if not isinstance(box.bbox, list) or len(box.bbox) != 4 or not all(isinstance(v, int | float) for v in box.bbox):
        raise ValueError(f"bbox is {box.bbox!r:.60}, expected left, top, width and height")
    try:
        left, top, width, height = (float(value) for value in box.bbox)
    except OverflowError:
        raise ValueError(f"bbox is {box.bbox!r:.60}, too large for a number of pixels") from None
    return label, left, top, left + width, top + height
