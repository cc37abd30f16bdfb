"""A backend under load: a simulated Label Studio, projects with a version each, an annotator, and what it all costs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import psutil

from al_backend.demo.backend import RunningBackend, free_port
from al_backend.demo.sample import label_config
from al_backend.errors import BackendError
from al_backend.jobs.client import enqueue_reconcile
from al_backend.jobs.documents import PUBLISHED
from al_backend.jobs.liveness import has_worker
from al_backend.jobs.queues import QueueName
from al_backend.labelstudio.client import LabelStudio
from al_backend.registry import GateVerdict, Registry, Version
from al_backend.settings import Settings, load_settings
from benchmarks._label_studio.server import TOKEN, SimulatedLabelStudio
from benchmarks._report import percentile
from model.data.reef import SPECIES, write_reef
from model.detectors.factory import create, find_base

ARCHITECTURE = "yolov5n"
IMAGE_SIZE = 64
SCENES = 50
_SAMPLE_EVERY = 0.5


@dataclass
class Latencies:
    """Seconds that requests took, by what was asked."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def row(self, phase: str, name: str) -> dict[str, Any]:
        """For a table."""
        values = [1000 * value for value in self.seconds.get(name, [])]
        shares = {f"p{share}": percentile(values, share) if values else None for share in (50, 95, 99)}
        return {"what": name, "phase": phase, "count": len(values), **shares, "unit": "ms"}


class LoadField:
    """Simulated Label Studio, registry with versions, and a running backend, for as long as the `with` block runs.

    Args:
        folder: takes everything.
        settings: of the backend besides addresses and folders.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        scenes = write_reef(folder / "scenes", SCENES, seed=11, size=(IMAGE_SIZE, IMAGE_SIZE), species=SPECIES)
        self.label_studio = SimulatedLabelStudio(label_config(SPECIES), scenes.images[0].path.parent)
        self._folder = folder
        self._options = settings
        self.settings = Settings()
        self.client = LabelStudio("http://127.0.0.1", TOKEN)
        self.backend: RunningBackend
        self.registry: Registry
        self.peaks: dict[str, float] = {}
        self._stop = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> LoadField:
        self.label_studio.__enter__()
        port = free_port()
        self.settings = load_settings(
            **self._options
            | {
                "label_studio_url": self.label_studio.url,
                "label_studio_api_key": TOKEN,
                "redis_url": None,
                "model_dir": str(self._folder / "models"),
                "data_dir": self._folder / "data",
                "host": "127.0.0.1",
                "port": port,
                "public_url": f"http://127.0.0.1:{port}",
                "detector": ARCHITECTURE,
                "image_size": IMAGE_SIZE,
                # Nobody trains here: what is measured is everything else.
                "train_every": 1_000_000,
                "min_labels": 1_000_000,
            }
        )
        self.client = LabelStudio(self.label_studio.url, TOKEN)
        self.registry = Registry(self.settings.model_dir)
        self.backend = RunningBackend(self.settings, self._folder / "backend.log")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self.backend.stop()
        self.client.close()
        self.label_studio.__exit__(kind, error, trace)

    def add_project(self, tasks: int) -> int:
        """A connected project with an active version and so many open tasks; returns its id."""
        project = self.label_studio.add_project(tasks)
        add_version(self.registry, project, self._folder / "weights")
        self.registry.register_project(project, label_config=label_config(SPECIES), overrides={})
        return project

    def start(self) -> None:
        """Start the backend and wait for its workers."""
        self.backend.start()
        self._sampler.start()
        for name in QueueName:
            self.wait(f"a worker for {name}", lambda name=name: has_worker(self.backend.queues.connection, name), 180)

    def rank(self, projects: Sequence[int]) -> None:
        """Ask for the first look at each project."""
        for project in projects:
            enqueue_reconcile(self.backend.queues, project, "load")

    def published(self, project: int) -> dict[str, Any] | None:
        """What was published last of a project."""
        return self.registry.read_document(project, PUBLISHED)

    def wait(self, what: str, look: Any, seconds: float, every: float = 0.2) -> None:
        """Wait until `look` gives something.

        Raises:
            BackendError: it does not within `seconds`; with the end of the backend's log.
        """
        deadline = time.monotonic() + seconds
        while not look():
            if time.monotonic() > deadline:
                raise BackendError(f"Not within {seconds:.0f} s: {what}.\n{self.backend.log_tail(40)}")
            time.sleep(every)

    def order_is_served(self, project: int) -> bool:
        """Whether every open task has one prediction of the published ranking, in the ranking's order."""
        document = self.published(project)
        if document is None:
            return False
        order = self.registry.read_order(project, document["ranking"], ("task_id",))
        if order is None:
            return False
        open_tasks = self.client.open_task_ids(project)
        expected = [task for task in order["task_id"].to_list() if task in open_tasks]
        served = [task for task, _ in self.client.queue(project, 1, len(open_tasks) + 1)]
        return served == expected and self.client.project(project).model_version == document["model_version"]

    @contextmanager
    def annotator(self, project: int, every: float) -> Iterator[Latencies]:
        """Somebody who labels one task after the other while the block runs.

        Of each task Label Studio asks the backend for a prediction, as it does for one that has none; the annotation
        is sent to the backend as an event. Both are timed, and so is what Label Studio itself is asked.
        """
        found, stop = Latencies(), threading.Event()
        thread = threading.Thread(target=self._annotate, args=(project, every, found, stop), daemon=True)
        thread.start()
        try:
            yield found
        finally:
            stop.set()
            thread.join(timeout=120)

    def _annotate(self, project: int, every: float, found: Latencies, stop: threading.Event) -> None:
        config = label_config(SPECIES)
        own = self.settings.own_url
        with httpx.Client(timeout=100, trust_env=False) as http:

            def timed(name: str, call: Any) -> Any:
                started = time.perf_counter()
                try:
                    answer = call()
                    if isinstance(answer, httpx.Response):
                        answer.raise_for_status()
                except (httpx.HTTPError, BackendError) as error:
                    found.failures.append(f"{name}: {error}")
                    return None
                found.seconds.setdefault(name, []).append(time.perf_counter() - started)
                return answer

            while not stop.wait(every):
                task = timed("Label Studio: next task", lambda: self.client.next_task(project))
                if task is None:
                    continue
                data = {"image": f"/data/upload/{project}/{task['id']}.jpg"}
                body = {"tasks": [{"id": task["id"], "data": data}], "project": f"{project}.1", "label_config": config}
                timed("/predict of one task", lambda body=body: http.post(f"{own}/predict", json=body))
                made = timed("Label Studio: submit", lambda task=task: self.client.submit_annotation(task["id"], []))
                event = {"action": "ANNOTATION_CREATED", "project": {"id": project}, "annotation": made}
                timed("/webhook", lambda event=event: http.post(f"{own}/webhook", json=event))

    def _sample(self) -> None:
        """The largest resident memory of each process, in megabytes."""
        while not self._stop.wait(_SAMPLE_EVERY):
            for process in psutil.Process().children(recursive=True):
                try:
                    name, size = _name(process.cmdline()), process.memory_info().rss / 1e6
                except psutil.Error:
                    continue
                if name is not None:
                    self.peaks[name] = max(self.peaks.get(name, 0.0), size)


def add_version(registry: Registry, project: int, folder: Path, *, image_size: int = IMAGE_SIZE) -> Version:
    """A small detector as the active version of a project; the files in `folder` are made once."""
    if not folder.exists():
        folder.mkdir(parents=True)
        base = find_base(ARCHITECTURE, None)
        create(ARCHITECTURE, SPECIES, image_size=image_size, device="cpu", base=base).save(folder)
    moment = datetime.now(timezone.utc)
    version = Version(
        name=f"{ARCHITECTURE}-v1-load00",
        number=1,
        project=project,
        detector=ARCHITECTURE,
        classes=SPECIES,
        created_at=moment,
        snapshot_at=moment,
        labels={},
        label_counts=dict.fromkeys(SPECIES, 1),
        train_images=1,
        validation_images=0,
        boxes=1,
        training={},
        settings={},
        gate=GateVerdict(promoted=True, reason="made for a measurement"),
    )
    registry.add_version(version, folder)
    registry.promote(project, version.name, reason="made for a measurement")
    return version


def busiest(writes: Sequence[tuple[float, str, int]], kind: str, seconds: float) -> tuple[int, int]:
    """The most items, and the most requests, of a kind of write in any time of so many seconds."""
    chosen = [(at, items) for at, name, items in writes if name == kind]
    most_items = most_requests = start = items = 0
    for position, (at, count) in enumerate(chosen):
        items += count
        while chosen[start][0] <= at - seconds:
            items -= chosen[start][1]
            start += 1
        most_items, most_requests = max(most_items, items), max(most_requests, position - start + 1)
    return most_items, most_requests


def _name(command: Sequence[str]) -> str | None:
    """What a process of the backend is called; None for any other."""
    text = " ".join(command)
    if "al_backend.jobs.workers" in text:
        return {"predict,score": "inference", "reconcile": "cycle"}.get(command[-1], command[-1])
    if "al_backend.http.serve" in text:
        return "web"
    if "redis-server" in text:
        return "redis"
    return "simulated Label Studio" if "_label_studio" in text else None
