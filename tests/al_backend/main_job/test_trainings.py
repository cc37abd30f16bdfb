"""Trainings that are asked for while one runs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from al_backend.jobs.client import overview
from al_backend.jobs.documents import now
from tests.al_backend.main_job.reef_project import ReefProject

pytestmark = [pytest.mark.labelstudio, pytest.mark.redis, pytest.mark.slow, pytest.mark.timeout(1200)]


def trainings(project: ReefProject) -> list[dict[str, object]]:
    jobs = overview(project.site.backend.queues)["jobs"]
    return [job for job in jobs if job["project"] == project.id and job["kind"] == "train"]


def test_requests_during_a_training_are_served_by_a_later_one(north: ReefProject) -> None:
    north.wait_until_settled()
    before = len(north.versions())
    client = north.site.client
    (connection,) = client.ml_backends(north.id)

    client.train(connection["id"])  # "Start training" in Label Studio
    north.wait_for("the start of the training", lambda: [job for job in trainings(north) if job["progress"]])
    asked = now()
    with ThreadPoolExecutor(2) as people:
        pressed = people.submit(client.train, connection["id"])
        request = people.submit(north.request_training).result()
        pressed.result()
    assert len(north.versions()) == before, "the first training was over too early for this test"
    assert north.request_status(request) == "queued"
    assert len(trainings(north)) == 1

    counts = []

    def served() -> bool:
        counts.append(len(trainings(north)))
        return north.request_status(request) == "finished"

    north.wait_for("a training for the later requests", served)
    assert max(counts) == 1, "never two trainings of a project at once"
    first, second, *_ = north.versions()[before:]
    assert first.snapshot_at < asked <= second.snapshot_at
    north.wait_until_settled()
    # Both later requests came during the first training, so that one more served both.
    assert [version.number for version in north.versions()[before:]] == [before + 1, before + 2]
