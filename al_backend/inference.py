"""Detections for tasks: images fetched, decoded and predicted in batches by a detector that stays warm."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from al_backend.errors import ImageUnavailable
from al_backend.labelstudio.images import ImageSource
from al_backend.labelstudio.labeling_config import LabelingConfig
from al_backend.registry import Registry
from al_backend.settings import Settings
from model.detections import Detections
from model.detectors.base import Detector, Image, View
from model.errors import ImageUnreadable
from model.images import image_size, load_image
from model.read_ahead import read_ahead

logger = logging.getLogger(__name__)

BATCH = 16
"""Images that are decoded and predicted together, if they are not too large for that."""

PIXELS = 200_000_000
"""Of the images that are decoded together: 16 of a good camera, two of the largest that are read. Three bytes each, and
the next images are decoded while these are predicted."""

TURN = 0.25
"""Seconds that one prediction of a batch may take: a person's `/predict` waits for its end."""

_WARM_DETECTORS = 4


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one task: detections per view, or the reason why there are none; see `ImageUnavailable`."""

    task_id: int
    detections: Mapping[View, Detections] | None
    error: str | None = None
    passing: bool = False
    lost: bool = False


@dataclass(frozen=True, slots=True)
class _Missing:
    reason: str
    passing: bool = False
    lost: bool = False


@dataclass(frozen=True, slots=True)
class _Found:
    task_id: int
    file: Path | _Missing
    pixels: int = 0


class Inference:
    """Predicts tasks with versions of the registry; the last few detectors stay in memory."""

    def __init__(self, settings: Settings, registry: Registry, images: ImageSource) -> None:
        self._settings = settings
        self._registry = registry
        self._images = images
        self._warm: OrderedDict[tuple[int, str], Detector] = OrderedDict()
        self._seconds: dict[tuple[int, str], float] = {}  # that one view of an image took lately

    def detector(self, project_id: int, version: str) -> Detector:
        """The detector of a version, loaded on first use; with the autoencoder that the version may have."""
        # These bring torch, which only processes that predict need.
        from model.acquisition.novelty import NoveltyDetector
        from model.acquisition.vae import has_vae, load_vae
        from model.detectors.factory import load, resolve_device

        key = (project_id, version)
        if key not in self._warm:
            folder = self._registry.fetch_version(project_id, version)
            detector = load(folder, device=self._settings.device)
            if has_vae(folder):
                detector = NoveltyDetector(detector, load_vae(folder, device=resolve_device(self._settings.device)))
            self._warm[key] = detector
            logger.info("Loaded %s of project %d", version, project_id)
            while len(self._warm) > _WARM_DETECTORS:
                cold, _ = self._warm.popitem(last=False)
                self._seconds.pop(cold, None)
        self._warm.move_to_end(key)
        return self._warm[key]

    def detect(
        self,
        project_id: int,
        version: str,
        items: Sequence[tuple[int, str | None]],
        *,
        views: Sequence[View] = (View.ORIGINAL,),
        min_score: float,
    ) -> Iterator[Outcome]:
        """One outcome per task, in the order of `items`.

        Args:
            project_id: owner of the version.
            version: of the registry.
            items: task id and the task's image value; None where the task names no image.
            views: that are predicted of each image.
            min_score: least confidence of a box.
        """
        detector, key = self.detector(project_id, version), (project_id, version)
        batches = [items[start : start + BATCH] for start in range(0, len(items), BATCH)]
        # One thread downloads ahead, another decodes ahead: neither waits for the other, nor the detector for both.
        groups = self._groups(read_ahead(self._fetch, batches), lambda: self._at_once(key, len(views)))
        for decoded in read_ahead(self._decode, groups):
            readable = [image for _, image in decoded if not isinstance(image, _Missing)]
            began = time.perf_counter()
            predicted = iter(detector.predict(readable, views, min_score=min_score) if readable else ())
            if readable:
                self._seconds[key] = (time.perf_counter() - began) / (len(readable) * len(views))
            for task, image in decoded:
                if isinstance(image, _Missing):
                    yield Outcome(task, None, image.reason, image.passing, image.lost)
                else:
                    yield Outcome(task, next(predicted))

    def _at_once(self, key: tuple[int, str], views: int) -> int:
        """Images that a detector gets through in a `TURN`, at least one. On a processor more are no faster anyway."""
        seconds = self._seconds.get(key, 0.0) * views
        return max(1, min(BATCH, int(TURN / seconds))) if seconds else BATCH

    def _fetch(self, items: Sequence[tuple[int, str | None]]) -> list[_Found]:
        """The file of each task with its number of pixels, or the reason why there is none."""
        files = self._images.fetch_many([(task, value) for task, value in items if value is not None])
        unnamed = _Missing("The task's data names no image under the key that the labelling config expects.")
        return [_measured(task, unnamed if value is None else files[task]) for task, value in items]

    @staticmethod
    def _groups(batches: Iterable[list[_Found]], at_once: Callable[[], int]) -> Iterator[list[_Found]]:
        """The same in their order, no more at a time than `at_once` says, and than may be in memory as pixels."""
        for batch in batches:
            group: list[_Found] = []
            for found in batch:
                too_large = sum(other.pixels for other in group) + found.pixels > PIXELS
                if group and (too_large or len(group) >= at_once()):
                    yield group
                    group = []
                group.append(found)
            yield group

    @staticmethod
    def _decode(group: Sequence[_Found]) -> list[tuple[int, Image | _Missing]]:
        with ThreadPoolExecutor(max_workers=4) as pool:
            return [(found.task_id, image) for found, image in zip(group, pool.map(_decode_one, group), strict=True)]


def image_value(data: Mapping[str, Any], config: LabelingConfig) -> str | None:
    """The address of a task's image; None where the data has none."""
    value = data.get(config.data_key)
    return value if isinstance(value, str) and value else None


def _measured(task_id: int, file: Path | ImageUnavailable | _Missing) -> _Found:
    if isinstance(file, ImageUnavailable):
        return _Found(task_id, _Missing(str(file), file.passing, file.lost))
    if isinstance(file, _Missing):
        return _Found(task_id, file)
    try:
        height, width = image_size(file)
    except ImageUnreadable as error:
        return _Found(task_id, _Missing(str(error)))
    return _Found(task_id, file, height * width)


def _decode_one(found: _Found) -> Image | _Missing:
    if isinstance(found.file, _Missing):
        return found.file
    try:
        return load_image(found.file)
    except ImageUnreadable as error:
        return _Missing(str(error))
    except Exception as error:  # One image must not cost the others their place in the queue.
        logger.exception("The image of task %d cannot be decoded", found.task_id)
        return _Missing(f"The image cannot be decoded: {type(error).__name__}: {error}.")
