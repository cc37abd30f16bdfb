"""Measuring many images, with an ear for people who wait for the answer about one, and what is measured of an image."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from al_backend.inference import Outcome
from al_backend.jobs.context import INTERLUDE, Context
from al_backend.jobs.measuring import measure
from model.detectors.base import View
from tests.al_backend.jobs.test_candidates import BROKEN, POOL, PROJECT, MadeUpInference, here, seen, step
from tests.al_backend.jobs.test_tries import SETTINGS

__all__ = ["here"]

pytestmark = pytest.mark.redis


class InBatches(MadeUpInference):
    """Takes its time before every fourth image, as for a batch."""

    def outcome(self, task: int, views: Sequence[View]) -> Outcome:
        if len(self.asked) % 4 == 1:
            time.sleep(0.11)
        return super().outcome(task, views)


def test_who_waits_is_looked_for_after_each_batch(here: Context) -> None:
    vars(here).update(inference=InBatches())
    step(here, SETTINGS)
    (ranking,) = here.registry.rankings(PROJECT)
    items = [(task, f"{task}.jpg") for task in list(POOL)[:20]]
    looks: list[float] = []
    token = INTERLUDE.set(lambda: looks.append(time.monotonic()))
    try:
        measured = measure(here, ranking, items, closer=False)
    finally:
        INTERLUDE.reset(token)
    assert measured.frame["task_id"].to_list() == [task for task, _ in items]
    assert len(looks) >= 5, "once for four images, however many are measured in all"


class Reporting(MadeUpInference):
    """Reports what its detector is at least so sure of, as a real one does."""

    def detect(self, *args: Any, min_score: float, **options: Any) -> Iterator[Outcome]:
        for outcome in super().detect(*args, min_score=min_score, **options):
            if outcome.detections is None:
                yield outcome
            else:
                found = {view: boxes.select(boxes.score >= min_score) for view, boxes in outcome.detections.items()}
                yield Outcome(outcome.task_id, found)


@pytest.mark.parametrize("shown_from", [0.0, 0.35, 0.6])
def test_pre_annotations_and_strategies_have_thresholds_of_their_own(here: Context, shown_from: float) -> None:
    vars(here).update(inference=Reporting())
    step(here, SETTINGS.overridden({"measure_threshold": 0.5, "score_threshold": shown_from, "box_overlap": 1}))
    (ranking,) = here.registry.rankings(PROJECT)
    tasks = [task for task in POOL if task != BROKEN]
    frame = measure(here, ranking, [(task, f"{task}.jpg") for task in tasks], closer=False).frame
    boxes = [seen(task, View.ORIGINAL).score for task in tasks]
    assert frame["boxes"].to_list() == [int((score >= 0.5).sum()) for score in boxes]
    assert [len(json.loads(regions)) for regions in frame["regions"]] == [
        int((score >= shown_from).sum()) for score in boxes
    ]


def test_a_detector_that_knows_none_of_the_labels_pre_annotates_nothing(here: Context) -> None:
    vars(here).update(inference=Reporting())
    step(here, SETTINGS.overridden({"measure_threshold": 1.0, "score_threshold": 0.0}))
    (ranking,) = here.registry.rankings(PROJECT)
    frame = measure(here, ranking, [(task, f"{task}.jpg") for task in POOL if task != BROKEN], closer=False).frame
    assert set(frame["regions"]) == {"[]"}
