"""A Label Studio project that is labelled already, as data for a simulation."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from al_backend.errors import BackendError
from al_backend.jobs.dataset import read_labels
from al_backend.labelstudio.images import ImageSource
from al_backend.labelstudio.labeling_config import parse_labeling_config
from al_backend.settings import LearningSettings, Settings
from model.simulation.data import SimulationData

if TYPE_CHECKING:
    from al_backend.labelstudio.client import LabelStudio


def read_project(
    settings: Settings,
    learning: LearningSettings,
    label_studio: LabelStudio,
    project: int,
    folder: Path,
    progress: Callable[[int, int], None],
) -> SimulationData:
    """The labels of a project as a training would read them; the same tasks are held out.

    Args:
        settings: for fetching images.
        learning: of the project; `validation_share` and `seed` apply.
        label_studio: where the project is.
        project: its id.
        folder: where its images are kept, all of them for as long as the folder is.
        progress: called with tasks read and tasks in all.

    Raises:
        BackendError: it has no labelled task, or its labelling config is not one that we serve.
        NotEnoughLabels: there is no box to learn from, or none to measure on.
    """
    found = label_studio.project(project)
    config = parse_labeling_config(found.label_config)
    tasks = sorted(label_studio.labelled_tasks(project), key=lambda task: task.id)
    if not tasks:
        raise BackendError(f"Project {project} has no labelled task; a simulation needs labels that it can withhold.")
    # An image that a limited cache has dropped in the middle of an experiment would count as unreadable.
    images = ImageSource(label_studio, settings.model_copy(update={"cache_mb": math.inf}), folder)
    try:
        labels = read_labels(
            tasks,
            config,
            images,
            validation_share=learning.validation_share,
            seed=learning.seed,
            on_progress=progress,
        )
    finally:
        images.close()
    held_out = f"the {learning.validation_share:.0%} that a training would hold out"
    return SimulationData(project_name(project), labels.train, labels.validation, held_out)


def project_name(project: int) -> str:
    """What the data of a project are called."""
    return f"project {project}"
