"""Which image file an annotation in the VOC layout belongs to: names differ in ending, folder and Unicode spelling."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path

from model.data.files import is_image, key_of, told

IMAGE_FOLDERS = ("JPEGImages", "images", "Images", "imgs")
"""Where images are looked for when they do not lie beside their annotation."""


def normal(name: str) -> str:
    """`name` with its Unicode spelled in one way; archives and file systems change it."""
    return unicodedata.normalize("NFC", name)


class ImageFinder:
    """Finds images below one data set's folder, which it lists once.

    Args:
        folder: of the data set.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._listings: dict[Path, dict[str, list[Path]]] = {}
        self._used: set[Path] = set()

    def find(self, file: Path, named: str, problems: list[str]) -> Path:
        """The image that the annotation in `file` belongs to.

        Args:
            file: of the annotation, in the data set's folder.
            named: its `filename`, with or without folders of the machine it was made on; may be empty.
            problems: gets a sentence when `named` is another image than the one that is taken.

        Raises:
            ValueError: there is none, or there are several and nothing says which.
        """
        wanted = named.replace("\\", "/").rsplit("/", 1)[-1]
        own = self._by_stem(file, file.stem, wanted)
        other = self._by_stem(file, Path(wanted).stem, wanted) if wanted else None
        found = own or other
        if found is None:
            raise ValueError(f"its image {wanted or file.stem!r} is missing")
        if other is not None and other != found:
            problems.append(
                f"{key_of(file, (self._folder,))}: names the image {wanted!r}, but {found.name!r} bears its own "
                "name and is taken."
            )
        self._used.add(found)
        return found

    def unused(self, annotated: Iterable[str]) -> list[str]:
        """Keys of the images beside those found that no annotation has been found for.

        Args:
            annotated: names without ending of all annotations, also of those that were not asked for.
        """
        stems = {normal(stem) for stem in annotated}
        paths = [
            path
            for listing in self._listings.values()
            for stem in listing
            if stem not in stems
            for path in listing[stem]
        ]
        return sorted(key_of(path, (self._folder,)) for path in paths if path not in self._used)

    def _by_stem(self, file: Path, stem: str, wanted: str) -> Path | None:
        for place in self._places(file):
            choices = self._listing(place).get(normal(stem), [])
            exact = [path for path in choices if normal(path.name) == normal(wanted)]
            if len(choices) == 1 or len(exact) == 1:
                return (exact or choices)[0]
            if choices:
                raise ValueError(f"its image could be any of {told([path.name for path in choices], ', ')}")
        return None

    def _places(self, file: Path) -> dict[Path, None]:
        inner = file.parent.relative_to(self._folder)
        inner = inner.relative_to("Annotations") if inner.parts[:1] == ("Annotations",) else inner
        places = [file.parent, *(self._folder / name / inner for name in IMAGE_FOLDERS)]
        return dict.fromkeys([*places, *(self._folder / name for name in IMAGE_FOLDERS)])

    def _listing(self, place: Path) -> dict[str, list[Path]]:
        """The images of one folder by name without ending."""
        if place not in self._listings:
            listing: dict[str, list[Path]] = {}
            for path in sorted(place.iterdir()) if place.is_dir() else ():
                if is_image(path):
                    listing.setdefault(normal(path.stem), []).append(path)
            self._listings[place] = listing
        return self._listings[place]
