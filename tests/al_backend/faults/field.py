"""A running backend to break: small projects, and the promises that have to hold after every fault."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import psutil

from al_backend.connect import connect
from al_backend.demo.backend import RunningBackend, local_settings
from al_backend.demo.sample import label_config
from al_backend.demo.server import LabelStudioServer
from al_backend.jobs.client import last_error, overview
from al_backend.jobs.documents import PUBLISHED
from al_backend.jobs.liveness import job_key, workers
from al_backend.labelstudio.client import LabelStudio
from al_backend.labelstudio.codec import to_regions
from al_backend.labelstudio.labeling_config import parse_labeling_config
from al_backend.registry import Registry
from al_backend.settings import Settings
from model.data.dataset import LabelledImage
from model.data.reef import SPECIES, write_reef
from model.detections import Detections
from model.detectors.factory import load

SIZE = (96, 96)
POOL = 60
LABELLED = 8

Seen = TypeVar("Seen")


class Field:
    """One Label Studio and one backend for all faults; every fault gets a project of its own."""

    def __init__(self, server: LabelStudioServer, folder: Path) -> None:
        self.settings = fast_settings(server, folder)
        self.backend = RunningBackend(self.settings, folder / "backend.log")
        self.client = LabelStudio(server.url, server.token)
        self.registry = Registry(self.settings.model_dir)
        self.images = write_reef(folder / "scenes", POOL, seed=3, size=SIZE, species=SPECIES).images
        self._tabs: dict[int, int] = {}

    def project(
        self, title: str, *, before_connecting: Callable[[int], object] = lambda _: None, **overrides: Any
    ) -> int:
        """A connected project with `LABELLED` labels; `overrides` are its own learning settings."""
        client = self.client
        project_id = client.create_project(title, label_config(SPECIES)).id
        before_connecting(project_id)
        ids = client.upload_images(project_id, [image.path for image in self.images])
        for task, image in zip(ids[:LABELLED], self.images, strict=False):
            client.submit_annotation(task, regions(image))
        client.add_ml_backend(project_id, self.settings.own_url, "Active learning", extra_params=overrides)
        self._tabs[project_id] = connect(
            self.settings, client, self.registry, project_id, queues=self.backend.queues
        ).tab
        return project_id

    def label_more(self, project_id: int, count: int) -> None:
        """Label the next open tasks; image `i` of the scenes is the project's task number `i`."""
        tasks = self.client.task_ids(project_id)
        position = {task: index for index, task in enumerate(sorted(tasks))}
        for task in [task.id for task in self.client.open_tasks(project_id)][:count]:
            self.client.submit_annotation(task, regions(self.images[position[task]]))

    def worker(self, kind: str) -> int:
        """Process id of the living worker of a kind."""
        self.until(f"a living {kind} worker", lambda: self._workers(kind), 60)
        return self._workers(kind)[0]

    def _workers(self, kind: str) -> list[int]:
        return [int(worker["pid"]) for worker in workers(self.backend.queues.connection) if worker["kind"] == kind]

    def web(self) -> int:
        """Process id of the web server's first process."""
        ours = [child for child in psutil.Process().children(recursive=True) if _serves(child)]
        (first,) = [child.pid for child in ours if child.ppid() not in {other.pid for other in ours}]
        return first

    def jobs(self, project_id: int, kind: str) -> list[dict[str, Any]]:
        """The project's jobs of a kind that wait or run."""
        found = overview(self.backend.queues)["jobs"]
        return [job for job in found if job["project"] == project_id and job["kind"] == kind]

    def runner(self, project_id: int, kind: str) -> int | None:
        """Process id that works on a job of a kind now."""
        for job in self.jobs(project_id, kind):
            entry = self.backend.queues.connection.get(job_key(job["id"]))
            if isinstance(entry, bytes):
                return int(json.loads(entry)["pid"])
        return None

    def published(self, project_id: int) -> dict[str, Any] | None:
        """What was published last."""
        return self.registry.read_document(project_id, PUBLISHED)

    def wait_published(self, project_id: int, *, number: int, seconds: float = 120) -> dict[str, Any]:
        """Wait until a version with this number is published and nothing more is to be done."""

        def look() -> dict[str, Any] | None:
            document = self.published(project_id)
            if document is None or self.registry.version(project_id, document["version"]).number != number:
                return None
            busy = [job for job in overview(self.backend.queues)["jobs"] if job["project"] == project_id]
            return None if [job for job in busy if job["kind"] != "reconcile"] else document

        return self.until(f"version {number} of project {project_id} published", look, seconds)

    def until(self, what: str, look: Callable[[], Seen | None], seconds: float, every: float = 0.05) -> Seen:
        """Poll until `look` gives something."""
        deadline = time.monotonic() + seconds
        while not (seen := look()):
            if time.monotonic() > deadline:
                errors = {project: last_error(self.backend.queues, project) for project in self.registry.projects()}
                raise AssertionError(
                    f"Not within {seconds:.0f} s: {what}. Errors: {errors}\n"
                    f"{overview(self.backend.queues)['jobs']}\n{self.backend.log_tail(60)}"
                )
            time.sleep(every)
        return seen

    def check(self, project_id: int, *, versions: int, stream: bool = True) -> None:
        """The promises: whole versions only, one prediction per open task, the order exact.

        Args:
            project_id: the project.
            versions: that there have to be.
            stream: whether to ask for the next task, too. It is locked for us then and comes first in every later
                order, so only a project's last check may do that.
        """
        stored = self.registry.versions(project_id)
        assert [version.number for version in stored] == list(range(1, versions + 1))
        for version in stored:
            assert load(self.registry.fetch_version(project_id, version.name), device="cpu").classes == SPECIES
        document = self.published(project_id)
        assert document is not None
        assert document["version"] == stored[-1].name
        name = document["model_version"]
        open_tasks = {task.id for task in self.client.open_tasks(project_id)}
        rows = [row for row in self.client.predictions(project_id) if row.model_version == name]
        assert {task: count for task, count in Counter(row.task for row in rows).items() if count != 1} == {}
        assert open_tasks - {row.task for row in rows} == set()
        order = self.registry.read_order(project_id, document["ranking"])
        assert order is not None
        expected = [task for task in order["task_id"].to_list() if task in open_tasks]
        assert set(expected) == open_tasks
        assert [task for task, _ in self.client.queue(project_id, self._tabs[project_id], POOL)] == expected
        project = self.client.project(project_id)
        assert (project.model_version, project.sampling) == (name, "Uncertainty sampling")
        if not stream:
            return
        first = self.client.next_task(project_id)
        assert first is not None
        assert first["id"] == expected[0]

    def close(self, project_id: int) -> None:
        """Take a project away, so that it does not cost the next fault time."""
        self.registry.forget_project(project_id)
        self.client.delete_project(project_id)

    def healthy(self) -> bool:
        """Whether the web server answers."""
        try:
            return httpx.get(f"{self.settings.own_url}/health", timeout=2).is_success
        except httpx.HTTPError:
            return False


def fast_settings(server: LabelStudioServer, folder: Path) -> Settings:
    """Small images, few steps, frequent looks: a cycle takes seconds."""
    return local_settings(
        server,
        folder,
        device="cpu",
        reconcile_every=2.0,
        min_labels=6,
        train_every=4,
        image_size=96,
        batch_size=4,
        iterations=3,
        publish_chunk=8,
    )


def regions(image: LabelledImage) -> list[dict[str, Any]]:
    """The true boxes of a scene as an annotator would draw them."""
    certain = np.zeros((len(image.label), len(SPECIES) + 1), np.float32)
    certain[np.arange(len(image.label)), image.label] = 1
    boxes = Detections(image.xyxy, np.ones(len(image.label), np.float32), image.label, certain, *SIZE)
    return to_regions(boxes, SPECIES, parse_labeling_config(label_config(SPECIES)), threshold=0)


def _serves(process: psutil.Process) -> bool:
    try:
        return "al_backend.http.serve" in process.cmdline()
    except psutil.NoSuchProcess:
        return False


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be collected does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
