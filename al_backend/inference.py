"""Detections for tasks: images fetched, decoded and predicted in batches by a detector that stays warm."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
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
from model.images import load_image
from model.read_ahead import read_ahead

logger = logging.getLogger(__name__)

BATCH = 16
"""Images that are decoded and predicted together."""

_WARM_DETECTORS = 4


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one task: detections per view, or the reason why there are none, which may be a passing one."""

    task_id: int
    detections: Mapping[View, Detections] | None
    error: str | None = None
    passing: bool = False


@dataclass(frozen=True, slots=True)
class _Missing:
    reason: str
    passing: bool = False


class Inference:
    """Predicts tasks with versions of the registry; the last few detectors stay in memory."""

    def __init__(self, settings: Settings, registry: Registry, images: ImageSource) -> None:
        self._settings = settings
        self._registry = registry
        self._images = images
        self._warm: OrderedDict[tuple[int, str], Detector] = OrderedDict()

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
                self._warm.popitem(last=False)
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
        detector = self.detector(project_id, version)
        batches = [items[start : start + BATCH] for start in range(0, len(items), BATCH)]
        for batch, decoded in zip(batches, read_ahead(self._decode, batches), strict=True):
            readable = [(task, image) for task, image in decoded.items() if not isinstance(image, _Missing)]
            predicted = detector.predict([image for _, image in readable], views, min_score=min_score)
            detections = {task: found for (task, _), found in zip(readable, predicted, strict=True)}
            for task, _ in batch:
                image = decoded[task]
                if isinstance(image, _Missing):
                    yield Outcome(task, None, image.reason, image.passing)
                else:
                    yield Outcome(task, detections[task])

    def _decode(self, items: Sequence[tuple[int, str | None]]) -> dict[int, Image | _Missing]:
        """The decoded image of each task, or the reason why there is none."""
        named = [(task, value) for task, value in items if value is not None]
        files = self._images.fetch_many(named)
        result: dict[int, Image | _Missing] = {
            task: _Missing("The task's data names no image under the key that the labelling config expects.")
            for task, value in items
            if value is None
        }
        with ThreadPoolExecutor(max_workers=4) as pool:
            result.update(zip(files, pool.map(_decode_one, files.values()), strict=True))
        return result


def image_value(data: Mapping[str, Any], config: LabelingConfig) -> str | None:
    """The address of a task's image; None where the data has none."""
    value = data.get(config.data_key)
    return value if isinstance(value, str) and value else None


def _decode_one(file: Path | ImageUnavailable) -> Image | _Missing:
    if isinstance(file, ImageUnavailable):
        return _Missing(str(file), file.passing)
    try:
        return load_image(file)
    except ImageUnreadable as error:
        return _Missing(str(error))
