"""Several projects at one backend."""

from __future__ import annotations

import pytest

from al_backend.labelstudio.labeling_config import parse_labeling_config
from tests.al_backend.main_job.reef_project import ReefProject, assert_order_is_exact

pytestmark = [pytest.mark.labelstudio, pytest.mark.redis, pytest.mark.slow, pytest.mark.timeout(1200)]


def test_two_projects_have_versions_classes_and_orders_of_their_own(north: ReefProject, south: ReefProject) -> None:
    assert north.versions()[0].classes == north.classes
    assert south.versions()[0].classes == (*south.classes, "Ghost")
    for project in (north, south):
        published = project.wait_until_settled()
        names = [version.name for version in project.versions()]
        assert published["version"] in names
        assert all(version.project == project.id for version in project.versions())
        assert all({int(task) for task in version.labels} <= project.truth.keys() for version in project.versions())
        open_tasks = set(project.open_tasks())
        assert set(assert_order_is_exact(project)) <= open_tasks
        assert set(project.tab()) == open_tasks
        _assert_regions_fit(project, published["model_version"])
    both = set(north.site.client.model_versions(north.id)) & set(south.site.client.model_versions(south.id))
    assert not both, "a version of one project must not show up in the other"


def _assert_regions_fit(project: ReefProject, model_version: str) -> None:
    config = parse_labeling_config(project.site.client.project(project.id).label_config)
    bodies = [body for body in project.prediction_bodies() if body["model_version"] == model_version]
    regions = [region for body in bodies for region in body["result"]]
    assert regions, f"{model_version} pre-annotates nothing at all, so that this test sees nothing"
    assert {(region["from_name"], region["to_name"]) for region in regions} == {(config.from_name, config.to_name)}
    labels = {label for region in regions for label in region["value"]["rectanglelabels"]}
    assert labels <= set(config.labels)
