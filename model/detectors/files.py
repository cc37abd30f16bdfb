"""Detections for image files: while the network looks at one batch, the next is decoded."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from model.detections import Detections
from model.detectors.base import Detector, Image, View
from model.errors import ImageUnreadable
from model.images import load_image

BATCH = 16
"""Files that are decoded and predicted together."""
READERS = 2
"""Threads that decode; the pixels of at most two batches are in memory at any time."""


def predict_files(
    detector: Detector,
    files: Sequence[Path | bytes],
    views: Sequence[View] = (View.ORIGINAL,),
    *,
    min_score: float = 0.05,
    batch: int = BATCH,
    readers: int = READERS,
) -> Iterator[Mapping[View, Detections] | ImageUnreadable]:
    """What `Detector.predict` says about each file, in order; for one that is no image, why.

    Args:
        detector: that predicts.
        files: image files or their content.
        views: as of `Detector.predict`.
        min_score: likewise.
        batch: files that are predicted together, at least 1.
        readers: threads that decode ahead, at least 1.
    """
    chunks = [files[start : start + batch] for start in range(0, len(files), batch)]
    pool = ThreadPoolExecutor(readers, thread_name_prefix="decode")
    try:
        pending: deque[list[Future[Image | ImageUnreadable]]] = deque()
        for number in range(len(chunks) + 1):
            if number < len(chunks):
                pending.append([pool.submit(_decode, file) for file in chunks[number]])
            if number == 0:
                continue
            decoded = [future.result() for future in pending.popleft()]
            images = [image for image in decoded if not isinstance(image, ImageUnreadable)]
            found = iter(detector.predict(images, views, min_score=min_score))
            for image in decoded:
                yield image if isinstance(image, ImageUnreadable) else next(found)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _decode(file: Path | bytes) -> Image | ImageUnreadable:
    try:
        return load_image(file)
    except ImageUnreadable as error:
        return error
