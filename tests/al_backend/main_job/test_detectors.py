"""The main job with detectors of the other families: what a user gets who sets `AL_DETECTOR`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from al_backend.jobs.client import last_error
from model.data.reef import SPECIES
from tests.al_backend.main_job.conftest import MIN_LABELS
from tests.al_backend.main_job.reef_project import (
    ReefProject,
    Site,
    assert_order_is_exact,
    create_reef_project,
    label_config,
)

pytestmark = [pytest.mark.labelstudio, pytest.mark.redis, pytest.mark.slow, pytest.mark.timeout(1200)]

SSDLITE, FASTER_RCNN = "ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_fpn"
IMAGES = 12
CLASSES = SPECIES[:2]


@pytest.fixture(scope="module")
def projects(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ReefProject]]:
    """One project for each, connected together and settled; they train on request only."""
    made = {
        detector: create_reef_project(
            site,
            tmp_path_factory.mktemp(detector),
            f"Reef of {detector}",
            CLASSES,
            images=IMAGES,
            labelled=MIN_LABELS,
            seed=5,
            # After three steps Faster R-CNN's boxes have scores below a hundredth.
            overrides={"detector": detector, "train_every": 1000, "score_threshold": 0.002},
        )
        for detector in (SSDLITE, FASTER_RCNN)
    }
    for project in made.values():
        project.wait_until_settled()
    yield made
    for project in made.values():
        project.close()


@pytest.mark.parametrize("detector", [SSDLITE, FASTER_RCNN])
def test_a_project_is_trained_ranked_and_published(projects: dict[str, ReefProject], detector: str) -> None:
    project = projects[detector]
    (version,) = project.versions()
    assert (version.detector, version.classes) == (detector, CLASSES)
    published = project.published()
    assert published is not None
    assert published["version"] == version.name == project.active()
    assert project.model_version() == published["model_version"]
    assert last_error(project.site.backend.queues, project.id) is None
    order = assert_order_is_exact(project)
    assert len(order) == IMAGES - MIN_LABELS
    assert sum(len(body["result"]) for body in project.prediction_bodies()) > 0, "nothing is pre-annotated"
    assert project.label_next(2) == order[:2]


def test_a_label_added_to_the_config_reaches_the_next_version(projects: dict[str, ReefProject]) -> None:
    project = projects[SSDLITE]
    old = project.versions()[-1]
    wanted = (*CLASSES, "Newcomer")
    new_config = label_config(wanted, from_name="label", to_name="image", key="image")
    project.site.client.request("PATCH", f"/api/projects/{project.id}/", body={"label_config": new_config})
    version = project.train()
    assert (version.parent, version.detector, version.classes) == (old.name, SSDLITE, wanted)
    assert_order_is_exact(project)
    assert last_error(project.site.backend.queues, project.id) is None
