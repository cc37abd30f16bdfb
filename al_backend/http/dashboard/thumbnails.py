"""Small copies of tasks' images: fetched as the workers fetch them, kept, and never more than a few at a time."""

from __future__ import annotations

import io
import threading
from pathlib import Path

from PIL import Image

from al_backend.errors import ConfigError, ImageUnavailable
from al_backend.http.errors import Unavailable
from al_backend.labelstudio.client import LabelStudio
from al_backend.labelstudio.image_cache import ImageCache
from al_backend.labelstudio.images import ImageSource
from al_backend.settings import Settings
from model.errors import ImageUnreadable
from model.images import load_image

WIDTH = 640
"""Pixels of the longer side: twice what a card of the gallery shows, for fine screens."""

_CACHE_BYTES = 256_000_000
_PATIENCE = 3.0


class Thumbnails:
    """Makes and keeps small copies.

    Args:
        settings: where images come from, and where they are kept.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._cache = ImageCache(settings.data_dir / "thumbnails", _CACHE_BYTES)
        # A gallery asks for many at once: the other threads have to answer Label Studio within its second.
        self._slots = threading.BoundedSemaphore(max(1, settings.threads // 4))
        self._source: ImageSource | None = None
        self._guard = threading.Lock()

    def get(self, task_id: int, value: str) -> Path:
        """The file of a small JPEG.

        Args:
            task_id: of the task.
            value: its image value.

        Raises:
            ImageUnavailable: the image cannot be had or read; the message is a sentence about why.
            Unavailable: too many are made at this moment.
        """
        key = f"{WIDTH} {task_id if '://' in value and not value.startswith('http') else ''} {value}"
        kept = self._cache.find(key)
        if kept is not None:
            return kept
        if not self._slots.acquire(timeout=_PATIENCE):
            raise Unavailable("Too many images are being fetched; try again in a moment.")
        try:
            return self._make(key, task_id, value)
        finally:
            self._slots.release()

    def _make(self, key: str, task_id: int, value: str) -> Path:
        source = self._images().fetch(value, task_id=task_id)
        try:
            pixels = load_image(source)
        except ImageUnreadable as error:
            raise ImageUnavailable(str(error)) from error
        picture = Image.fromarray(pixels)
        picture.thumbnail((WIDTH, WIDTH))
        content = io.BytesIO()
        picture.save(content, "JPEG", quality=82)
        with self._cache.writing(key) as (file, path):
            file.write(content.getvalue())
        return path

    def _images(self) -> ImageSource:
        with self._guard:
            if self._source is None:
                try:
                    label_studio = LabelStudio.from_settings(self._settings)
                except ConfigError:
                    label_studio = None  # what other hosts serve, and data URIs, can be had without a key
                self._source = ImageSource(label_studio, self._settings, self._settings.data_dir / "images")
            return self._source
