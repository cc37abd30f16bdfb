"""The job behind `/predict`: tasks that Label Studio asks for while an annotator waits."""

from __future__ import annotations

import json
from typing import Any

from al_backend.cycle import UNTRAINED
from al_backend.inference import image_value
from al_backend.jobs.context import context
from al_backend.jobs.documents import PUBLISHED
from al_backend.jobs.ranking import measure_live
from al_backend.labelstudio.codec import to_regions
from model.detectors.base import View

MIDDLE = 0.5
"""Order score of a task while there is no ranking to place it in."""


def predict(project_id: int, tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Job: one prediction per task, always; a task whose image cannot be read gets an empty one at the end.

    Before the first training every task gets an empty prediction of the model version `untrained`.
    """
    here = context()
    config = here.labeling_config(project_id)
    published = here.registry.read_document(project_id, PUBLISHED)
    active = here.registry.active(project_id)
    items = [(position, image_value(task.get("data") or {}, config)) for position, task in enumerate(tasks)]
    if published is not None:
        ranking = here.registry.ranking(project_id, published["ranking"])
        ids = [int(task["id"]) if task.get("id") is not None else -1 - position for position, task in enumerate(tasks)]
        frame = measure_live(here, ranking, [(ids[position], value) for position, value in items])
        rows = {row["task_id"]: row for row in frame.iter_rows(named=True)}
        return [
            {
                "result": json.loads(rows[task]["regions"]),
                "score": rows[task]["order_score"],
                "model_version": ranking.model_version,
            }
            for task in ids
        ]
    if active is None or config.skip:
        return [{"result": [], "score": MIDDLE, "model_version": UNTRAINED} for _ in tasks]
    version = here.registry.version(project_id, active.version)
    if version.knows == ():  # what its head says is noise
        return [{"result": [], "score": MIDDLE, "model_version": version.name} for _ in tasks]
    settings = here.learning(project_id)
    threshold = config.shown_from(settings.score_threshold)
    return [
        {
            "result": []
            if outcome.detections is None
            else to_regions(
                outcome.detections[View.ORIGINAL],
                version.classes,
                config,
                threshold=threshold,
                overlap=settings.box_overlap,
            ),
            "score": MIDDLE,
            "model_version": version.name,
        }
        for outcome in here.inference.detect(project_id, version.name, items, min_score=threshold)
    ]
