"""Detections for image files: while the network looks at one batch, the next is decoded."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from model.detections import Detections
from model.detectors.base import Detector, Image, View
from model.errors import ImageUnreadable
from model.images import load_image
from model.read_ahead import read_ahead

BATCH = 16
"""Files that are decoded and predicted together; the pixels of two batches are in memory at a time."""
READERS = 4
"""Threads that decode."""


def predict_files(
    detector: Detector,
    files: Sequence[Path | bytes],
    views: Sequence[View] = (View.ORIGINAL,),
    *,
    min_score: float = 0.05,
    batch: int = BATCH,
) -> Generator[Mapping[View, Detections] | ImageUnreadable | OSError, None, None]:
    """What `Detector.predict` says about each file, in order; for one that cannot be read, why.

    Args:
        detector: that predicts.
        files: image files or their content.
        views: as of `Detector.predict`.
        min_score: likewise.
        batch: files that are predicted together, at least 1.
    """
    chunks = [files[start : start + batch] for start in range(0, len(files), batch)]

    def decode(chunk: Sequence[Path | bytes]) -> list[Image | ImageUnreadable | OSError]:
        return list(pool.map(_decode, chunk))

    with ThreadPoolExecutor(READERS, thread_name_prefix="decode") as pool, closing(read_ahead(decode, chunks)) as made:
        for decoded in made:
            images = [image for image in decoded if not isinstance(image, (ImageUnreadable, OSError))]
            found = iter(detector.predict(images, views, min_score=min_score))
            for image in decoded:
                yield image if isinstance(image, (ImageUnreadable, OSError)) else next(found)


def _decode(file: Path | bytes) -> Image | ImageUnreadable | OSError:
    try:
        return load_image(file)
    except (ImageUnreadable, OSError) as error:
        return error
