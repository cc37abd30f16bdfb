"""A project of generated scenes in a real Label Studio, and the questions that the tests ask about it."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest

from al_backend.connect import TITLE, connect
from al_backend.cycle import UNTRAINED, version_of
from al_backend.demo.backend import RunningBackend
from al_backend.jobs.client import enqueue_reconcile, job_status, overview, pending_key, request_training
from al_backend.jobs.documents import PUBLISHED
from al_backend.jobs.ranking import newest_ranking
from al_backend.labelstudio.client import LabelStudio
from al_backend.labelstudio.codec import to_regions
from al_backend.labelstudio.labeling_config import parse_labeling_config
from al_backend.labelstudio.records import PredictionRow
from al_backend.registry import Registry, Version
from al_backend.settings import Settings
from al_backend.status import project_status
from model.data.dataset import LabelledImage
from model.data.reef import write_reef
from model.detections import Detections

SIZE = (96, 128)
"""Height and width of the scenes."""

PATIENCE = 300.0
"""Seconds until something that has to happen counts as not happening; twenty times what it takes on an idle machine."""

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Site:
    """One Label Studio and one backend for it."""

    client: LabelStudio
    backend: RunningBackend
    registry: Registry

    @property
    def settings(self) -> Settings:
        """Of the backend."""
        return self.backend.settings


class ReefProject:
    """A connected project whose true boxes are known."""

    def __init__(
        self,
        site: Site,
        project_id: int,
        truth: dict[int, LabelledImage],
        classes: tuple[str, ...],
        size: tuple[int, int] = SIZE,
    ) -> None:
        self.site = site
        self.size = size
        self.id = project_id
        self.truth = truth
        self.classes = classes

    # Looking

    def status(self) -> dict[str, Any]:
        site = self.site
        return project_status(site.settings, site.registry, site.client, site.backend.queues, self.id)

    def published(self) -> dict[str, Any] | None:
        return self.site.registry.read_document(self.id, PUBLISHED)

    def versions(self) -> list[Version]:
        return self.site.registry.versions(self.id)

    def active(self) -> str | None:
        pointer = self.site.registry.active(self.id)
        return None if pointer is None else pointer.version

    def model_version(self) -> str:
        """That Label Studio shows and orders by."""
        return self.site.client.project(self.id).model_version

    def open_tasks(self) -> list[int]:
        return [task.id for task in self.site.client.open_tasks(self.id)]

    def predictions(self) -> list[PredictionRow]:
        return self.site.client.predictions(self.id)

    def prediction_bodies(self) -> list[dict[str, Any]]:
        return list(self.site.client.request("GET", "/api/predictions/", params={"project": self.id}))

    def order(self) -> list[int]:
        """The open tasks in the order of the published ranking, as the registry keeps it.

        Tasks that came after the ranking stand where their own prediction's score puts them.
        """
        published = self.published()
        assert published is not None, "nothing is published"
        order = self.site.registry.read_order(self.id, published["ranking"])
        assert order is not None, f"the registry has no order for {published['ranking']}"
        scores = dict(zip(order["task_id"].to_list(), order["order_score"].to_list(), strict=True))
        still_open = set(self.open_tasks())
        for row in self.predictions():
            if row.model_version == published["model_version"] and row.task in still_open - scores.keys():
                assert row.score is not None, row
                scores[row.task] = row.score
        return sorted(still_open & scores.keys(), key=lambda task: scores[task])

    def tab(self) -> list[int]:
        """Tasks in the order of the Data Manager's queue tab."""
        return [task for task, _ in self.tab_rows()]

    def tab_rows(self) -> list[tuple[int, float | None]]:
        client = self.site.client
        return client.queue(self.id, client.ensure_queue_tab(self.id), 1000)

    # Doing

    def true_regions(self, task: int) -> list[dict[str, Any]]:
        image = self.truth[task]
        certain = np.zeros((len(image.label), len(self.classes) + 1), np.float32)
        certain[np.arange(len(image.label)), image.label] = 1
        boxes = Detections(image.xyxy, np.ones(len(image.label), np.float32), image.label, certain, *self.size)
        config = parse_labeling_config(self.site.client.project(self.id).label_config)
        return to_regions(boxes, self.classes, config, threshold=0)

    def label(self, task: int) -> int:
        """Submit the true boxes; returns the annotation's id."""
        return int(self.site.client.submit_annotation(task, self.true_regions(task))["id"])

    def label_next(self, count: int) -> list[int]:
        """Label what Label Studio serves; returns the tasks in the order served."""
        served: list[int] = []
        for _ in range(count):
            task = self.site.client.next_task(self.id)
            assert task is not None, f"Label Studio served nothing after {served}"
            served.append(int(task["id"]))
            self.label(served[-1])
        return served

    def look(self) -> None:
        """Let the backend look at the project once more, and wait until it has."""
        queues = self.site.backend.queues
        enqueue_reconcile(queues, self.id, "the test asks")  # one that waits already starts after this moment, too

        def looked() -> bool:
            jobs = [job for job in overview(queues)["jobs"] if job["project"] == self.id]
            return not queues.connection.exists(pending_key(self.id)) and not any(
                job["kind"] == "reconcile" for job in jobs
            )

        self.wait_for("a look at the project", looked)

    def request_training(self) -> str:
        """Ask for a training; returns the id for `request_status`."""
        return request_training(self.site.registry, self.site.backend.queues, self.id)

    def request_status(self, request: str) -> str | None:
        return job_status(self.site.registry, self.site.backend.queues, request)

    def train(self) -> Version:
        """A training on all labels, promoted and published; returns its version."""
        request = self.request_training()
        self.wait_for("the requested training", lambda: self.request_status(request) == "finished")
        version = self.versions()[-1]
        assert version.gate.promoted, version.gate.reason
        self.wait_until_settled(version=version.name)
        return version

    def close(self) -> None:
        """Take it away, so that nobody looks at it any more."""
        self.site.registry.forget_project(self.id)
        self.site.client.delete_project(self.id)

    # Waiting

    def wait_for(self, what: str, probe: Callable[[], Answer | None], *, patience: float = PATIENCE) -> Answer:
        """The first answer of `probe` that is true."""
        deadline = time.monotonic() + patience
        while True:
            answer = probe()
            if answer:
                return answer
            if time.monotonic() > deadline:
                pytest.fail(
                    f"project {self.id}: {what} did not happen within {patience:.0f} s; {self._facts()}\n"
                    f"The backend's log ends:\n{self.site.backend.log_tail(40)}"
                )
            time.sleep(0.3)

    def wait_until_settled(self, *, version: str | None = None) -> dict[str, Any]:
        """Wait until the active version is ranked and published, and nothing of former ones is left.

        Args:
            version: that has to be the active one; None takes any.

        Returns:
            The publication.
        """
        self.wait_for(
            f"a settled publication of {version or 'the active version'}", lambda: not self.unsettled(version)
        )
        published = self.published()
        assert published is not None
        return published

    def wait_for_versions(self, count: int) -> Version:
        """Wait until there are `count` versions and the newest was promoted or refused; returns the newest."""

        def decided() -> bool:
            jobs = overview(self.site.backend.queues)["jobs"]
            return len(self.versions()) >= count and not any(
                job["project"] == self.id and job["kind"] == "train" for job in jobs
            )

        self.wait_for(f"training number {count}", decided)
        return self.versions()[-1]

    def unsettled(self, version: str | None = None) -> list[str]:
        """What is still to be done, one phrase each."""
        published, active = self.published(), self.active()
        if published is None or published["version"] != active or version not in (None, active):
            return [f"active is {active}, published is {published and published['ranking']}"]
        newest = newest_ranking(self.site.registry.rankings(self.id), active)
        if newest is None or newest.id != published["ranking"]:
            return [f"the newest ranking is {newest and newest.id}, published is {published['ranking']}"]
        found = []
        shown = self.model_version()
        if shown != published["model_version"]:
            found.append(f"Label Studio shows {shown!r}, published is {published['model_version']}")
        found += self.stray_predictions(published["model_version"])
        jobs = [job["kind"] for job in overview(self.site.backend.queues)["jobs"] if job["project"] == self.id]
        return found + [f"{kind} is in flight" for kind in jobs if kind != "reconcile"]

    def stray_predictions(self, model_version: str) -> list[str]:
        """Where our predictions differ from exactly one of `model_version` per open task; [] when they do not."""
        ours = {item.name for item in self.site.registry.all_versions(self.id)} | {UNTRAINED}
        rows = self.predictions()
        old = Counter(row.model_version for row in rows if version_of(row.model_version) in ours)
        current = Counter(row.task for row in rows if row.model_version == model_version)
        del old[model_version]
        found = [f"{count} predictions of {name}" for name, count in old.items()]
        found += [f"task {task} has {current[task]}" for task in self.open_tasks() if current[task] != 1]
        return found + [f"task {task} has {count}" for task, count in current.items() if count > 1]

    def _facts(self) -> str:
        status = self.status()
        return (
            f"unsettled: {self.unsettled()}; labels {status['labels']}; training {status['training']}; "
            f"versions {[version.name for version in self.versions()]}; jobs {status['jobs']}; notes {status['notes']}"
        )


def assert_order_is_exact(project: ReefProject) -> list[int]:
    """The queue tab shows the open tasks in the published ranking's order, each with a score above the former's.

    A few tasks may come out in the order of their ids by chance, which shows without a ranking, too: hence the scores.

    Returns:
        That order.
    """
    expected, rows = project.order(), project.tab_rows()
    shown, scores = [task for task, _ in rows], [score for _, score in rows if score is not None]
    assert shown == expected, f"the tab shows {shown}, the ranking {project.published()} says {expected}"
    assert len(scores) == len(rows), f"tasks without a score: {rows}"
    assert all(first < second for first, second in itertools.pairwise(scores)), f"not sorted by score: {rows}"
    return expected


def label_config(classes: Sequence[str], *, from_name: str, to_name: str, key: str) -> str:
    labels = "".join(f"<Label value={quoteattr(name)}/>" for name in classes)
    return (
        f'<View><Image name="{to_name}" value="${key}"/>'
        f'<RectangleLabels name="{from_name}" toName="{to_name}">{labels}</RectangleLabels></View>'
    )


def create_reef_project(
    site: Site,
    folder: Path,
    title: str,
    classes: tuple[str, ...],
    *,
    images: int,
    labelled: int,
    seed: int,
    names: tuple[str, str, str] = ("label", "image", "image"),
    spare_labels: tuple[str, ...] = (),
    overrides: dict[str, Any] | None = None,
    before_connecting: Callable[[ReefProject, Path], None] | None = None,
) -> ReefProject:
    """Draw, upload, label the first `labelled` scenes, and connect.

    Args:
        site: where.
        folder: for the drawn files.
        title: of the project.
        classes: species that are drawn, the first labels of the config.
        images: scenes in all.
        labelled: of them, with their true boxes.
        seed: of the drawing.
        names: of the config's control tag, its image tag, and the image's key in the task data.
        spare_labels: labels of the config that are never drawn.
        overrides: extra params of the model connection.
        before_connecting: called with the project and the folder.
    """
    from_name, to_name, key = names
    config = label_config((*classes, *spare_labels), from_name=from_name, to_name=to_name, key=key)
    drawn = write_reef(folder, images, seed=seed, size=SIZE, species=classes, empty_share=0.0)
    made = site.client.create_project(title, config)
    ids = site.client.upload_images(made.id, [image.path for image in drawn.images])
    project = ReefProject(site, made.id, dict(zip(ids, drawn.images, strict=True)), classes)
    for task in ids[:labelled]:
        project.label(task)
    if before_connecting is not None:
        before_connecting(project, folder)
    if overrides:
        site.client.add_ml_backend(made.id, site.settings.own_url, TITLE, extra_params=overrides)
    connect(site.settings, site.client, site.registry, made.id, queues=site.backend.queues)
    return project
