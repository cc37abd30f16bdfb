"""Reads and writes data sets in the Pascal VOC layout: one XML file per image, boxes in pixels that count from 1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from model.data.annotations import Annotation, Row, labelled, passed_over_sentence
from model.data.dataset import DetectionDataset, LabelledImage
from model.data.files import IMAGE_SUFFIXES, copy_image, file_names, key_of, split_names, told
from model.data.voc_images import ImageFinder, normal
from model.data.xml_tree import parse_xml
from model.errors import DatasetUnreadable
from model.images import image_size


class Difficult(str, Enum):
    """What becomes of objects marked `difficult`: VOC's own evaluation ignores them, most trainings use them."""

    KEEP = "keep"
    SKIP = "skip"


def read_voc(
    folder: Path,
    split: str | None = None,
    *,
    classes: Sequence[str] | None = None,
    difficult: Difficult = Difficult.KEEP,
    first_pixel: int = 1,
) -> DetectionDataset:
    """A data set in the Pascal VOC layout, or one split of it.

    Annotations are the .xml files below `folder/Annotations`, where that does not exist below `folder`. An
    annotation's image is the one of the same name without ending (VOC's rule), else the one that its `filename`
    names, beside it or in `JPEGImages` or `images`. An annotation without object is background; an image without
    annotation is unlabelled and left out. Only direct `object` elements count, so parts of objects do not.

    VOC counts pixels from 1 and includes the last: `xmin` 1 and `xmax` 100 are all of an image of width 100, here
    0 to 100, so 1 is taken from `xmin` and `ymin` alone. Many tools write this layout with corners from 0 on;
    `first_pixel=0` reads those. What cannot be used becomes a sentence in `problems`, as in `read_yolo`.

    Args:
        folder: holds `Annotations`, or XML files beside images.
        split: a list `ImageSets/Main/SPLIT.txt`, else a sub-folder of the annotations; `val`, `valid` and
            `validation` are one. None reads all annotations.
        classes: class list; objects of other names are broken boxes. None takes all names that the annotations
            have, in every split, in alphabetical order.
        difficult: SKIP drops boxes that are so marked, and images that have no other.
        first_pixel: 1 or 0, see above.

    Returns:
        Annotations in alphabetical order, a split's list in its own; keys are image paths relative to `folder`.

    Raises:
        DatasetUnreadable: no annotation, or no such split.
    """
    if first_pixel not in (0, 1):
        raise ValueError(f"first_pixel is {first_pixel}, expected 0 or 1")
    problems: list[str] = []
    home, files = annotation_files(folder)
    wanted = files if split is None else _split_files(folder, home, files, split, problems)
    names = tuple(classes) if classes is not None else _class_names(files)
    reader = _Reader(folder, names, difficult, first_pixel, problems)
    images = labelled((found for file in wanted if (found := reader.read(file)) is not None), problems)
    reader.summarise(files)
    return DetectionDataset(names, images, tuple(problems))


def annotation_files(folder: Path) -> tuple[Path, list[Path]]:
    """The folder of a data set's annotations and all .xml files in it, in alphabetical order.

    Raises:
        DatasetUnreadable: there is none.
    """
    home = folder / "Annotations" if (folder / "Annotations").is_dir() else folder
    files = sorted(
        path
        for path in home.rglob("*")
        if path.suffix.lower() == ".xml" and not any(part.startswith(".") for part in path.relative_to(home).parts)
    )
    if not files:
        raise DatasetUnreadable(f"{home} holds no .xml file; expected one per image, in VOC's layout.")
    return home, files


def voc_splits(folder: Path) -> tuple[str, ...]:
    """Names that `read_voc` takes for `split`: its lists, else the folders that its annotations lie in.

    Raises:
        DatasetUnreadable: there is no annotation.
    """
    home, files = annotation_files(folder)
    lists = folder / "ImageSets" / "Main"
    # aeroplane_train.txt and its like list one class of VOC's own data.
    names = {path.stem for path in lists.glob("*.txt")} if lists.is_dir() else set()
    general = {name for name in names if "_" not in name or name.rsplit("_", 1)[1] not in names}
    folders = {file.relative_to(home).parts[0] for file in files if len(file.relative_to(home).parts) > 1}
    return tuple(sorted(general or folders))


def write_voc(dataset: DetectionDataset, folder: Path, *, split: str = "train") -> Path:
    """Copy a data set's images into `folder` and describe them in the VOC layout, with pixels that count from 1.

    Coordinates keep up to four decimals, so that reading them again gives the same boxes. The layout has no class
    list: give `read_voc` the order if it matters.

    Args:
        dataset: any; may be empty.
        folder: created if missing; its other splits stay.
        split: name of the list in `ImageSets/Main`, and of the sub-folders of images and annotations.

    Returns:
        `folder`.

    Raises:
        ValueError: a class name that XML cannot hold.
        ImageUnreadable: an image of `dataset` is gone or damaged.
    """
    for name in dataset.classes:
        if not name.isprintable():
            raise ValueError(f"the class name {name!r} has characters that XML cannot hold; rename it")
    lists = folder / "ImageSets" / "Main"
    for place in (lists, folder / "Annotations" / split, folder / "JPEGImages" / split):
        place.mkdir(parents=True, exist_ok=True)
    listed = []
    for name, image in zip(file_names(dataset.images), dataset.images, strict=True):
        size = image_size(image.path)
        copy_image(image.path, folder / "JPEGImages" / split / name)
        root = _document(image, dataset.classes, name, size)
        stem = Path(name).stem
        (folder / "Annotations" / split / f"{stem}.xml").write_bytes(tostring(root, "utf-8"))
        listed.append(f"{split}/{stem}\n")
    (lists / f"{split}.txt").write_text("".join(listed), "utf-8")
    return folder


def _document(image: LabelledImage, classes: Sequence[str], name: str, size: tuple[int, int]) -> Element:
    root = Element("annotation")
    SubElement(root, "filename").text = name
    dimensions = SubElement(root, "size")
    for tag, value in zip(("width", "height", "depth"), (size[1], size[0], 3), strict=True):
        SubElement(dimensions, tag).text = str(value)
    for label, box in zip(image.label, image.xyxy.tolist(), strict=True):
        thing = SubElement(root, "object")
        SubElement(thing, "name").text = classes[label]
        for tag in ("truncated", "difficult"):
            SubElement(thing, tag).text = "0"
        corners = SubElement(thing, "bndbox")
        for tag, value, first in zip(("xmin", "ymin", "xmax", "ymax"), box, (1, 1, 0, 0), strict=True):
            SubElement(corners, tag).text = f"{value + first:.4f}".rstrip("0").rstrip(".")
    indent(root)
    return root


def _class_names(files: Sequence[Path]) -> tuple[str, ...]:
    names: set[str] = set()
    for file in files:
        try:
            root = parse_xml(file)
        except (OSError, ValueError):
            continue  # named when the annotation itself is read; one of another split is not ours to judge
        names.update(name for thing in root.findall("object") if (name := _text(thing, "name")))
    return tuple(sorted(names))


def _split_files(folder: Path, home: Path, files: Sequence[Path], split: str, problems: list[str]) -> list[Path]:
    names = split_names(split)
    lists = folder / "ImageSets" / "Main"
    found = next((lists / f"{name}.txt" for name in names if (lists / f"{name}.txt").is_file()), None)
    if found is not None:
        return list(_listed(found, home, files, problems))
    for name in names:
        below = [file for file in files if file.relative_to(home).parts[0] == name]
        if below:
            return below
    raise DatasetUnreadable(
        f"{folder} has no split {split!r}: neither {lists / split}.txt nor a folder {home / split} with annotations; "
        f"splits that it has: {', '.join(voc_splits(folder)) or 'none'}."
    )


def _listed(source: Path, home: Path, files: Sequence[Path], problems: list[str]) -> Iterator[Path]:
    """The annotations that a list of `ImageSets/Main` names, each once."""
    by_name: dict[str, list[Path]] = {}
    for file in files:
        for name in {file.stem, file.relative_to(home).with_suffix("").as_posix()}:
            by_name.setdefault(normal(name), []).append(file)
    try:
        lines = source.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetUnreadable(f"{source} cannot be read as a list of images: {error}.") from error
    seen: set[Path] = set()
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        # Lists of one class have a flag behind each name.
        spellings = [line.strip(), *([" ".join(words[:-1])] if words[-1] in ("1", "0", "-1") else [])]
        spellings += [
            name[: -len(Path(name).suffix)] for name in spellings if Path(name).suffix.lower() in IMAGE_SUFFIXES
        ]
        choices = next((by_name[key] for name in spellings if (key := normal(name)) in by_name), [])
        if len(choices) == 1:
            if choices[0] not in seen:
                yield choices[0]
            seen.add(choices[0])
        else:
            what = "has no annotation" if not choices else f"could be any of {told([str(c) for c in choices], ', ')}"
            problems.append(f"{source.name}: line {number} names {line.strip()!r}, which {what}; left out.")


@dataclass
class _Reader:
    folder: Path
    classes: tuple[str, ...]
    difficult: Difficult
    first_pixel: int
    problems: list[str]
    from_zero: int = 0
    skipped: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._position = {name: index for index, name in enumerate(self.classes)}
        self._finder = ImageFinder(self.folder)

    def read(self, file: Path) -> Annotation | None:
        """What one file says; None, and a sentence, where it cannot be used."""
        source = key_of(file, (self.folder,))
        try:
            root = parse_xml(file)
            if root.tag != "annotation":
                raise ValueError(f"its root is <{root.tag}>, expected <annotation>")
            path = self._finder.find(file, _text(root, "filename"), self.problems)
        except (OSError, ValueError) as error:
            self.problems.append(f"{source}: left out, because {error}.")
            return None
        annotation = Annotation(path, key_of(path, (self.folder,)), source, _declared(root))
        for number, thing in enumerate(root.findall("object"), 1):
            name = f"object {number}"
            if self.difficult is Difficult.SKIP and _text(thing, "difficult") not in ("", "0"):
                annotation.passed_over += 1
                continue
            try:
                annotation.rows.append((name, self._row(thing)))
            except ValueError as error:
                annotation.broken.append(f"{name}: {error}")
        if annotation.passed_over:
            self.skipped[annotation.key] = annotation.passed_over
        return annotation

    def summarise(self, files: Sequence[Path]) -> None:
        """Sentences about the data set as a whole."""
        if self.skipped:
            count = sum(self.skipped.values())
            self.problems.append(passed_over_sentence("difficult boxes", list(self.skipped), count))
        if self.from_zero:
            self.problems.append(
                f"{self.from_zero} boxes begin at pixel 0, so this data set may not count from 1 as VOC does; if so, "
                "read it with first_pixel=0 (boxes are half a pixel off on average otherwise)."
            )
        alone = self._finder.unused({file.stem for file in files})
        if alone:
            self.problems.append(f"{len(alone)} images have no annotation and are left out ({told(alone, ', ')}).")

    def _row(self, thing: Element) -> Row:
        name = _text(thing, "name")
        if name not in self._position:
            expected = told(self.classes, ", ") or "none"
            raise ValueError(f"class {name!r}, expected one of {expected}" if name else "no class name")
        box = thing.find("bndbox")
        if box is None:
            raise ValueError("no bndbox")
        left, top, right, bottom = (_number(box, tag) for tag in ("xmin", "ymin", "xmax", "ymax"))
        if self.first_pixel == 1:
            self.from_zero += min(left, top) == 0
            left, top = left - 1, top - 1
        return self._position[name], left, top, right, bottom


def _declared(root: Element) -> tuple[int, int] | None:
    """Height and width as the file gives them; some tools write zeros where they do not know."""
    size = root.find("size")
    if size is None:
        return None
    try:
        height, width = (int(_number(size, tag)) for tag in ("height", "width"))
    except (ValueError, OverflowError):
        return None  # the image knows its size; the declared one is only a check
    return (height, width) if height > 0 and width > 0 else None


def _number(parent: Element, tag: str) -> float:
    text = _text(parent, tag)
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{tag} is {text[:40]!r}, expected a number" if text else f"no {tag}") from None


def _text(parent: Element, tag: str) -> str:
    return (parent.findtext(tag) or "").strip()
