"""The labels of a Label Studio project as a data set that detectors can train on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from al_backend.cycle import is_validation
from al_backend.errors import ImageUnavailable
from al_backend.inference import image_value
from al_backend.jobs.kept_images import KeptImages
from al_backend.labelstudio.client import LabelledTask
from al_backend.labelstudio.codec import choose_annotation, count_objects, from_annotation, label_digest
from al_backend.labelstudio.images import ImageSource
from al_backend.labelstudio.labeling_config import LabelingConfig
from model.data.dataset import DetectionDataset, LabelledImage
from model.errors import ImageUnreadable
from model.images import image_size


@dataclass(frozen=True, slots=True)
class ProjectLabels:
    """Labels of a project at one moment.

    Attributes:
        digests: digest of the chosen annotation per task id, also of tasks whose image could not be read.
        train: images to learn from.
        validation: images held out by task id; may be empty.
        postponed: tasks whose image could not be had for a passing reason: their labels were not used.
    """

    digests: Mapping[int, str]
    train: DetectionDataset
    validation: DetectionDataset
    postponed: frozenset[int] = frozenset()

    @property
    def used(self) -> dict[int, str]:
        """The digests of the labels that count as seen: all but those that another training may still use."""
        return {task: digest for task, digest in self.digests.items() if task not in self.postponed}


def read_labels(
    tasks: Sequence[LabelledTask],
    config: LabelingConfig,
    images: ImageSource,
    *,
    validation_share: float,
    seed: int,
    kept: KeptImages | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> ProjectLabels:
    """Fetch the images of labelled tasks and turn their regions into boxes.

    Regions with a label that the config does not name, and tasks whose image cannot be had, are left out and named in
    the data sets' `problems`, and so is an image of whose boxes none can be used. A submitted annotation without boxes
    is an image without objects.

    Args:
        tasks: with at least one submitted annotation each.
        config: names the classes, in order.
        images: where files come from.
        validation_share: share of tasks that is held out.
        seed: of the held-out choice.
        kept: where the files stay for as long as they are needed; None leaves them in the cache.
        on_progress: called with images done and images in all.
    """
    index = {name: position for position, name in enumerate(config.labels)}
    postponed: set[int] = set()
    parts: dict[bool, list[LabelledImage]] = {False: [], True: []}
    problems: dict[bool, list[str]] = {False: [], True: []}
    chunk = 64
    for start in range(0, len(tasks), chunk):
        batch = tasks[start : start + chunk]
        files = images.fetch_many([(task.id, value) for task in batch if (value := image_value(task.data, config))])
        for task in batch:
            annotation = choose_annotation(task.annotations)
            if annotation is None:
                continue
            held_out = is_validation(task.id, validation_share, seed)
            file = files.get(task.id)
            if isinstance(file, Path) and kept is not None:
                file = _kept(kept, task.id, file)
            if isinstance(file, ImageUnavailable) and file.passing:
                postponed.add(task.id)
            image, trouble = _labelled_image(task.id, annotation["result"], file, config, index)
            problems[held_out] += trouble
            if image is not None:
                parts[held_out].append(image)
        if on_progress is not None:
            on_progress(min(start + chunk, len(tasks)), len(tasks))
    return ProjectLabels(
        label_digests(tasks),
        DetectionDataset(config.labels, parts[False], tuple(problems[False])),
        DetectionDataset(config.labels, parts[True], tuple(problems[True])),
        frozenset(postponed),
    )


def label_digests(tasks: Sequence[LabelledTask]) -> dict[int, str]:
    """Digest of the chosen annotation per task id; tasks without one are left out."""
    chosen = ((task.id, choose_annotation(task.annotations)) for task in tasks)
    return {task_id: label_digest(annotation) for task_id, annotation in chosen if annotation is not None}


def _kept(kept: KeptImages, task_id: int, file: Path) -> Path | ImageUnavailable:
    try:
        return kept.keep(task_id, file)
    except FileNotFoundError:
        return ImageUnavailable("The cache had no room for its image (AL_CACHE_MB).", passing=True)


def _labelled_image(
    task: int,
    result: list[dict[str, object]],
    file: Path | ImageUnavailable | None,
    config: LabelingConfig,
    index: Mapping[str, int],
) -> tuple[LabelledImage | None, list[str]]:
    if file is None:
        return None, [f"Task {task}: its data names no image under {config.data_key!r}."]
    if isinstance(file, ImageUnavailable):
        return None, [f"Task {task}: {file}"]
    try:
        height, width = image_size(file)
    except ImageUnreadable as error:
        return None, [f"Task {task}: {error}"]
    boxes, trouble = from_annotation(result, config, (height, width))
    known = [(label, box) for label, box in boxes if label in index]
    objects = 0 if known else count_objects(result, config)
    if objects:  # as background it would teach that nothing is there
        trouble.append(f"left out, because none of its {objects} box{'es' * (objects > 1)} can be used.")
        return None, [f"Task {task}: {problem}" for problem in trouble]
    return (
        LabelledImage(
            key=str(task),
            path=file,
            xyxy=np.array([box for _, box in known], np.float32).reshape(-1, 4),
            label=np.array([index[label] for label, _ in known], np.int64),
        ),
        [f"Task {task}: {problem}" for problem in trouble],
    )
