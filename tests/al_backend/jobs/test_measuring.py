"""Measuring many images, with an ear for people who wait for the answer about one."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from al_backend.inference import Outcome
from al_backend.jobs.context import INTERLUDE, Context
from al_backend.jobs.measuring import measure
from model.detectors.base import View
from tests.al_backend.jobs.test_candidates import POOL, PROJECT, MadeUpInference, here, step
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
