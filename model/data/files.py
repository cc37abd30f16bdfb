"""What all readers and writers of data sets share: which files are images, keys, file names, sentences."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from model.data.dataset import LabelledImage

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2", ".ppm"})
"""Lower-case endings of the files that count as images in a folder."""

VALIDATION = ("val", "valid", "validation")
"""Names of one and the same split."""
SPLITS = ("train", *VALIDATION, "test")
"""Names that mean a split wherever they stand."""
_NAMED = 3
"""Things that a problem's sentence tells one by one; the others are counted."""


def is_image(path: Path) -> bool:
    """Whether `path` is a file that counts as an image, by its name; hidden files do not."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def key_of(path: Path, roots: Sequence[Path]) -> str:
    """`path` relative to the first of `roots` that holds it, else as it is; with forward slashes."""
    for root in roots:
        if path.resolve().is_relative_to(root.resolve()):
            return path.resolve().relative_to(root.resolve()).as_posix()
    return path.as_posix()


def told(things: Sequence[str], separator: str = "; ") -> str:
    """The first few of `things` in words, and how many more there are."""
    rest = len(things) - _NAMED
    return separator.join(things[:_NAMED]) + (f"{separator}and {rest} more" if rest > 0 else "")


def split_names(split: str) -> tuple[str, ...]:
    """`split`, then the other names that it goes by."""
    return tuple(dict.fromkeys((split, *(VALIDATION if split in VALIDATION else ()))))


def file_names(images: Sequence[LabelledImage]) -> Iterator[str]:
    """A safe file name per image, from its key; label files must differ too, so the ending does not count."""
    used: set[str] = set()
    for image in images:
        suffix = image.path.suffix.lower()
        stem = re.sub(r"[^\w.-]+", "_", image.key.removesuffix(image.path.suffix)).strip(".") or "image"
        unique, number = stem, 2
        while unique.lower() in used:
            unique, number = f"{stem}-{number}", number + 1
        used.add(unique.lower())
        yield f"{unique}{suffix}"


def copy_image(source: Path, target: Path) -> None:
    """Copy an image file, unless it is where it should be already."""
    if source.resolve() != target.resolve():
        shutil.copyfile(source, target)
