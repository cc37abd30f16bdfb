"""The one door to data sets on disk: recognises the layout of a path and reads it, or says what it found instead."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from model.data.coco import is_coco, read_coco
from model.data.dataset import DetectionDataset
from model.data.files import SPLITS, split_names, told
from model.data.voc import read_voc, voc_splits
from model.data.xml_tree import parse_xml
from model.data.yolo import read_yolo, yolo_splits
from model.errors import DatasetUnreadable

EXPECTED = (
    "expected a data.yaml (YOLO), a folder Annotations with .xml files or .xml files beside images (VOC), or a JSON "
    "file with images, annotations and categories, by itself or in a folder annotations (COCO)"
)

_LOOKED_AT = 20
"""XML files that are opened to see whether they are VOC's."""


class Format(str, Enum):
    """A layout of data sets on disk."""

    YOLO = "yolo"
    VOC = "voc"
    COCO = "coco"


@dataclass(frozen=True, slots=True)
class Recognised:
    """What lies at a path.

    Attributes:
        format: the layout.
        path: what its reader takes: the data.yaml, the folder with annotations, or the folder or file of COCO.
        splits: names of its splits; empty where it is not split.
        documents: COCO's annotation file per split; under the empty name where it is not split.
    """

    format: Format
    path: Path
    splits: tuple[str, ...]
    documents: dict[str, Path]


def read_dataset(
    path: Path,
    format: Format | str | None = None,
    *,
    split: str | None = None,
    classes: Sequence[str] | None = None,
) -> DetectionDataset:
    """The data set at `path`, whatever its layout; see `read_yolo`, `read_voc` and `read_coco` for what counts.

    Args:
        path: a folder, a data.yaml or a COCO annotation file.
        format: None recognises it.
        split: None takes `train`, where the data set has no such split its only one or everything; `val`, `valid` and
            `validation` are one.
        classes: class list, for VOC and COCO; None for the data set's own. YOLO's is always its own.

    Raises:
        DatasetUnreadable: nothing that is known, several layouts at once, no such split, or see the readers.
    """
    found = recognise(path, format)
    chosen = _choose(found, split)
    if found.format is Format.VOC:
        return read_voc(found.path, chosen, classes=classes)
    if chosen is None:
        return read_coco(found.documents[""], classes=classes)
    if found.format is Format.COCO:
        return read_coco(found.documents[chosen], classes=classes)
    dataset = read_yolo(found.path, chosen)
    if classes is not None and tuple(classes) != dataset.classes:
        raise DatasetUnreadable(
            f"{found.path} has the classes {', '.join(dataset.classes)}, expected {', '.join(classes)}."
        )
    return dataset


def recognise(path: Path, format: Format | str | None = None) -> Recognised:
    """Which layout lies at `path`.

    Args:
        path: a folder or a file.
        format: only this one is looked for; None looks for all.

    Raises:
        DatasetUnreadable: none or several; says what was found and expected.
        ValueError: `format` is unknown.
    """
    wanted = tuple(Format) if format is None else (Format(format),)
    if not path.exists():
        raise DatasetUnreadable(f"{path} does not exist.")
    looks = {Format.YOLO: _yolo, Format.VOC: _voc, Format.COCO: _coco}
    found = [seen for kind in wanted if (seen := looks[kind](path)) is not None]
    if len(found) == 1:
        return found[0]
    if found:
        kinds = ", ".join(f"{seen.format.value} ({seen.path.name})" for seen in found)
        raise DatasetUnreadable(f"{path} holds several layouts: {kinds}. Say which one is meant with `format`.")
    raise DatasetUnreadable(
        f"{path} is no {'data set' if format is None else wanted[0].value.upper() + ' data set'} that can be read: "
        f"found {_contents(path)}; {EXPECTED}."
    )


def _yolo(path: Path) -> Recognised | None:
    if path.is_dir():
        choices = [path / name for name in ("data.yaml", "data.yml", "dataset.yaml") if (path / name).is_file()]
    else:
        choices = [path] if path.suffix.lower() in (".yaml", ".yml") else []
    return Recognised(Format.YOLO, choices[0], yolo_splits(choices[0]), {}) if choices else None


def _voc(path: Path) -> Recognised | None:
    if not path.is_dir():
        return None
    files = [file for file in _below(path) if file.suffix.lower() == ".xml"]
    # Other tools write XML, too; VOC's own folder is believed even where its first files are broken.
    if not any(file.relative_to(path).parts[0] == "Annotations" for file in files):
        files = [file for file in files[:_LOOKED_AT] if _is_voc(file)]
    return Recognised(Format.VOC, path, voc_splits(path), {}) if files else None


def _is_voc(file: Path) -> bool:
    try:
        return parse_xml(file).tag == "annotation"
    except (OSError, ValueError):
        return False


def _coco(path: Path) -> Recognised | None:
    if path.is_file():
        fits = path.suffix.lower() == ".json" and is_coco(path)
        return Recognised(Format.COCO, path, (), {"": path}) if fits else None
    files = [file for file in _below(path) if file.suffix.lower() == ".json" and is_coco(file)]
    if not files:
        return None
    named = [(_split_of(file, path), file) for file in files]
    if len(files) == 1 and named[0][0] not in SPLITS:
        return Recognised(Format.COCO, path, (), {"": files[0]})
    documents = dict(named)
    if len(documents) < len(files):
        names = told([file.relative_to(path).as_posix() for file in files], ", ")
        raise DatasetUnreadable(
            f"{path} holds several COCO documents of one split ({names}). Give the path of the one that is meant."
        )
    return Recognised(Format.COCO, path, tuple(sorted(documents)), documents)


def _split_of(file: Path, base: Path) -> str:
    """`train` of instances_train2017.json or of train/_annotations.coco.json, else the file's name."""
    folder = file.parent.name if file.parent != base else ""
    words = [*re.findall("[a-z]+", file.stem.lower()), folder.lower()]
    return next((word for word in words if word in SPLITS), file.stem)


def _below(path: Path) -> list[Path]:
    """Files in a folder and in two levels of folders below it, in alphabetical order, without hidden ones."""
    found: list[Path] = []
    folders = [path]
    for _ in range(3):
        inner = [entry for folder in folders for entry in folder.iterdir() if not entry.name.startswith(".")]
        found += [entry for entry in inner if entry.is_file()]
        folders = [entry for entry in inner if entry.is_dir()]
    return sorted(found)


def _choose(found: Recognised, split: str | None) -> str | None:
    """The data set's own name of `split`; None for all of it.

    Raises:
        DatasetUnreadable: it has no such split, or has several and none called train.
    """
    name = next((name for name in split_names(split or "train") if name in found.splits), None)
    if name is not None:
        return name
    if split is None and (not found.splits or found.format is Format.VOC):
        return None
    if split is None and len(found.splits) == 1:
        return found.splits[0]
    what = "no split called train; say which one is meant" if split is None else f"no split {split!r}"
    raise DatasetUnreadable(
        f"{found.path} ({found.format.value}) has {what}. Splits that it has: {', '.join(found.splits) or 'none'}."
    )


def _contents(path: Path) -> str:
    if path.is_file():
        return f"a file {path.name}"
    names = sorted(entry.name + "/" * entry.is_dir() for entry in path.iterdir())
    return told(names, ", ") or "an empty folder"
