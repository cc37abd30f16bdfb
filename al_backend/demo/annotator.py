"""An annotator who never errs: asks Label Studio for the next task and submits the true boxes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from al_backend.demo.sample import SampleProject
from al_backend.errors import LabelStudioError
from al_backend.labelstudio.client import LabelStudio


@dataclass(frozen=True, slots=True)
class Labelled:
    """What one sitting brought.

    Attributes:
        served: task ids in the order in which Label Studio served them.
        boxes: drawn.
    """

    served: tuple[int, ...]
    boxes: int


def label_next(
    label_studio: LabelStudio, sample: SampleProject, count: int, on_task: Callable[[int], None] | None = None
) -> Labelled:
    """Label the next `count` tasks, fewer when the project runs out of them.

    Raises:
        LabelStudioError: Label Studio served a task that is not of the sample.
    """
    served: list[int] = []
    boxes = 0
    for _ in range(count):
        task = label_studio.next_task(sample.project_id)
        if task is None:
            break
        task_id = int(task["id"])
        if task_id not in sample.truth:
            raise LabelStudioError(f"Label Studio served task {task_id}, which is not one of the sample's.")
        regions = sample.true_regions(task_id)
        label_studio.submit_annotation(task_id, regions)
        served.append(task_id)
        boxes += len(regions)
        if on_task is not None:
            on_task(len(served))
    return Labelled(tuple(served), boxes)
