"""A person stops what runs, on a real Label Studio with all processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from al_backend.jobs.cancel import cancel
from al_backend.jobs.client import overview, request_ranking
from al_backend.jobs.queues import QueueName
from model.data.reef import SPECIES
from tests.al_backend.main_job.conftest import MIN_LABELS, TRAIN_EVERY
from tests.al_backend.main_job.reef_project import ReefProject, Site, create_reef_project

pytestmark = [pytest.mark.labelstudio, pytest.mark.redis, pytest.mark.slow, pytest.mark.timeout(1200)]


@contextmanager
def inference_paused(project: ReefProject) -> Iterator[None]:
    workers = overview(project.site.backend.queues)["queues"][QueueName.SCORE.value]["workers"]
    for worker in workers:
        os.kill(worker["pid"], signal.SIGSTOP)
    try:
        yield
    finally:
        for worker in workers:
            os.kill(worker["pid"], signal.SIGCONT)


def jobs(project: ReefProject, kind: str) -> list[dict[str, object]]:
    found = overview(project.site.backend.queues)["jobs"]
    return [job for job in found if job["project"] == project.id and job["kind"] == kind]


def metrics(site: Site) -> str:
    return httpx.get(f"{site.settings.own_url}/metrics").text


def stop(project: ReefProject) -> tuple[str | None, str | None]:
    report = cancel(project.site.backend.queues, project.site.registry, project.id)
    return report.training, report.ranking


def test_a_cancelled_training_ends_and_starts_again_for_a_new_reason_only(site: Site, tmp_path: Path) -> None:
    project = create_reef_project(
        site,
        tmp_path,
        "Endless training",
        SPECIES[:2],
        images=MIN_LABELS + TRAIN_EVERY,
        labelled=MIN_LABELS,
        seed=5,
        overrides={"iterations": 100_000},
    )
    try:
        training = project.wait_for(
            "the training's steps",
            lambda: [job for job in jobs(project, "train") if (job["progress"] or {}).get("phase") == "train"],  # type: ignore[attr-defined]
        )
        project.wait_for(
            "its loss in /metrics", lambda: f'al_backend_training_loss{{project="{project.id}"}}' in metrics(site)
        )
        assert stop(project) == ("running", None)
        assert stop(project)[0] in ("stopping", None)
        project.wait_for("the end of the training", lambda: not jobs(project, "train"), patience=20)
        assert training
        assert project.versions() == []
        project.look()
        project.look()
        assert jobs(project, "train") == [], "the next look started what was cancelled"
        status = project.status()
        assert status["training"]["status"] == "cancelled by hand"
        assert status["training"]["error"] is None
        assert status["labels"]["missing_until_training"] == TRAIN_EVERY
        assert any("cancelled by hand" in note for note in status["notes"])

        project.label_next(TRAIN_EVERY)
        project.wait_for("a training on the new labels", lambda: jobs(project, "train"))
        assert project.status()["training"]["status"] != "cancelled by hand"
        assert stop(project)[0] in ("running", "waiting")
        project.wait_for("the end of the second training", lambda: not jobs(project, "train"), patience=60)
    finally:
        project.close()


def test_a_cancelled_ranking_leaves_the_published_order(north: ReefProject) -> None:
    before = north.wait_until_settled()
    with inference_paused(north):
        request = request_ranking(north.site.registry, north.site.backend.queues, north.id)
        north.wait_for("the shards of the ranking", lambda: jobs(north, "score"))
        newest = north.site.registry.rankings(north.id)[-1].id
        assert newest != before["ranking"]
        assert stop(north) == (None, newest)
        assert stop(north) == (None, None)
    assert north.request_status(request) == "canceled"
    north.look()
    north.look()
    assert jobs(north, "score") == []
    assert north.published() == before
    assert north.model_version() == before["model_version"]
    assert any(newest in note for note in north.status()["notes"])

    again = request_ranking(north.site.registry, north.site.backend.queues, north.id)
    north.wait_for("the ranking that was asked for again", lambda: north.request_status(again) == "finished")
    assert north.wait_until_settled()["ranking"] != before["ranking"]
