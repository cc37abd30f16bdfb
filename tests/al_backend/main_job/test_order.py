"""The order of the ranking is the order in which Label Studio serves and shows the tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from al_backend.jobs.client import enqueue_reconcile, request_ranking
from model.data.reef import SPECIES
from tests.al_backend.main_job.conftest import MIN_LABELS, TRAIN_EVERY
from tests.al_backend.main_job.reef_project import ReefProject, Site, assert_order_is_exact, create_reef_project

pytestmark = [pytest.mark.labelstudio, pytest.mark.redis, pytest.mark.slow, pytest.mark.timeout(1200)]


def test_without_a_single_label_typical_images_come_first_in_the_exact_order(site: Site, tmp_path: Path) -> None:
    project = create_reef_project(
        site, tmp_path, "New reef", SPECIES[:3], images=12, labelled=0, seed=7, overrides={"budget": 4}
    )
    published = project.wait_until_settled()
    assert published["model_version"].startswith("yolov5n-v0-")
    assert project.versions() == []
    order = assert_order_is_exact(project)
    assert project.label_next(2) == order[:2]
    bodies = project.prediction_bodies()
    assert {tuple(body["result"]) for body in bodies} == {()}, "nothing is pre-annotated by a head that knows nothing"
    notes = " ".join(project.status()["notes"])
    assert "Nothing is trained yet: the queue shows the most typical images first" in notes
    assert f"{MIN_LABELS - 2} more labelled images start the first training" in notes
    version = project.train()
    assert (version.number, version.parent, version.gate.baseline) == (1, None, None)
    assert published["model_version"] not in site.client.model_versions(project.id)
    assert_order_is_exact(project)


def test_the_order_is_exact_before_and_after_a_new_version(site: Site, tmp_path: Path) -> None:
    project = create_reef_project(site, tmp_path, "Rolling reef", SPECIES[3:6], images=24, labelled=MIN_LABELS, seed=3)
    first = project.wait_until_settled()
    (version,) = project.versions()
    assert first["version"] == version.name
    assert set(version.labels) == {str(task) for task in sorted(project.truth)[:MIN_LABELS]}
    order = assert_order_is_exact(project)
    assert len(order) == 24 - MIN_LABELS

    served = project.label_next(TRAIN_EVERY)
    assert served == order[:TRAIN_EVERY]

    project.wait_for_versions(2)
    second = project.wait_until_settled()
    version = project.versions()[-1]
    assert (second["version"], second["model_version"]) == (version.name, version.name)
    assert version.number == 2
    assert version.parent == first["version"]
    assert set(version.labels) == {str(task) for task in [*sorted(project.truth)[:MIN_LABELS], *served]}
    assert version.train_images + version.validation_images == MIN_LABELS + TRAIN_EVERY

    # Settled: nothing is left of the first version, and every open task has one prediction of the second.
    assert first["model_version"] not in site.client.model_versions(project.id)
    order = assert_order_is_exact(project)
    assert len(order) == 24 - MIN_LABELS - TRAIN_EVERY
    assert project.label_next(3) == order[:3]
    assert project.tab() == order[3:]


def test_ranking_again_at_random_is_published_under_a_name_of_its_own(north: ReefProject) -> None:
    before = north.wait_until_settled()
    old_order = north.order()
    request = request_ranking(north.site.registry, north.site.backend.queues, north.id, strategy="random")
    north.wait_for("the requested ranking", lambda: north.request_status(request) == "finished")
    after = north.wait_until_settled()
    ranking = north.site.registry.ranking(north.id, after["ranking"])
    assert ranking.strategy["name"] == "random"
    assert ranking.version == before["version"], "no version was trained for it"
    assert after["model_version"].startswith(f"{before['version']}+r"), after
    assert after["model_version"] != before["model_version"]
    assert before["model_version"] not in north.site.client.model_versions(north.id), "old predictions are retired"
    order = assert_order_is_exact(north)
    assert set(order) == set(old_order)
    assert order != old_order
    assert north.label_next(2) == order[:2]


def test_rolling_back_serves_the_older_versions_order_again(north: ReefProject) -> None:
    north.wait_until_settled()
    registry, queues = north.site.registry, north.site.backend.queues
    older = north.active()
    newer = north.train()
    at_newer = north.published()
    assert at_newer is not None

    pointer = registry.rollback(north.id)
    enqueue_reconcile(queues, north.id, "rolled back")
    assert pointer.version == older
    at_older = north.wait_until_settled(version=older)
    assert north.model_version() == at_older["model_version"] != at_newer["model_version"]
    assert registry.ranking(north.id, at_older["ranking"]).version == older
    order = assert_order_is_exact(north)
    assert north.label_next(1) == order[:1]
    assert north.versions()[-1].name == newer.name, "going back trains nothing"
