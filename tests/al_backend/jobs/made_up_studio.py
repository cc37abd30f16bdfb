"""A Label Studio of one project that keeps predictions in memory, and a backend that works on it without waiting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from rq.job import Job

from al_backend import cycle
from al_backend.inference import Outcome
from al_backend.jobs.context import Context
from al_backend.jobs.documents import published_model_version
from al_backend.jobs.observe import Observation, read_state
from al_backend.jobs.perform import perform
from al_backend.jobs.queues import QueueName
from al_backend.jobs.rq_workers import WarmWorker
from al_backend.labelstudio.client import Task
from al_backend.labelstudio.labeling_config import parse_labeling_config
from al_backend.labelstudio.records import ImportReport
from al_backend.settings import LearningSettings
from model.detectors.base import View
from tests.al_backend.jobs.test_candidates import CONFIG, NOON, PROJECT, MadeUpInference

SETTINGS = LearningSettings(strategy="uncertainty", cold_start=False)


class Studio:
    """Attributes: open tasks, predictions by task and version, what it serves, and which tasks' boxes it refuses."""

    def __init__(self, tasks: Iterable[int]) -> None:
        self.open = set(tasks)
        self.stored: dict[tuple[int, str], dict[str, Any]] = {}
        self.serves = ""
        self.refuses_boxes: set[int] = set()
        self.refuses: set[int] = set()

    def project(self, project_id: int) -> SimpleNamespace:
        return SimpleNamespace(id=project_id, title="Made up", label_config=CONFIG)

    def open_tasks(self, project_id: int) -> list[Task]:
        return [Task(id=task, data={"image": f"/{task}.png"}) for task in sorted(self.open)]

    def open_task_ids(self, project_id: int) -> set[int]:
        return set(self.open)

    def task_ids(self, project_id: int, *, first: int, last: int) -> set[int]:
        return {task for task in self.open if first <= task <= last}

    def model_versions(self, project_id: int) -> dict[str, int]:
        return dict(Counter(version for task, version in self.stored if task in self.open))

    def tasks_with_version(self, project_id: int, model_version: str, **_: Any) -> set[int]:
        return {task for task, version in self.stored if version == model_version}

    def predictions_of(self, project_id: int, model_version: str, **_: Any) -> Iterator[list[SimpleNamespace]]:
        yield [
            SimpleNamespace(id=0, task=task, model_version=version, score=item["score"])
            for (task, version), item in self.stored.items()
            if version == model_version
        ]

    def import_predictions(self, project_id: int, items: Sequence[dict[str, Any]], **_: Any) -> ImportReport:
        dropped = []
        for item in items:
            task = item["task"]
            if task not in self.open or task in self.refuses or (task in self.refuses_boxes and item["result"]):
                dropped.append(task)
            else:
                self.stored[task, item["model_version"]] = item
        return ImportReport(len(items), len(items) - len(dropped), dropped=tuple(dropped))

    def delete_predictions(self, ids: Iterable[int]) -> int:
        return len(list(ids))

    def publish_model_version(self, project_id: int, model_version: str) -> None:
        self.serves = model_version

    def ensure_queue_tab(self, project_id: int) -> int:
        return 1

    def labelled_tasks(self, project_id: int) -> list[SimpleNamespace]:
        return []


class Storage(MadeUpInference):
    """Detections; `broken` says why the image of a task cannot be had."""

    def __init__(self) -> None:
        super().__init__()
        self.broken: Callable[[int], Mapping[str, Any] | None] = lambda task: None

    def outcome(self, task: int, views: Sequence[View]) -> Outcome:
        why = self.broken(task)
        return super().outcome(task, views) if why is None else Outcome(task, None, **why)


def look(here: Context, settings: LearningSettings = SETTINGS) -> list[cycle.Action]:
    """One look at the project: what was decided is enqueued."""
    studio: Any = here.label_studio
    config = parse_labeling_config(CONFIG)
    published = published_model_version(here.registry, PROJECT)
    stored = studio.model_versions(PROJECT)
    scored = studio.tasks_with_version(PROJECT, published) if published in stored else set()
    snapshot = cycle.Snapshot(
        config.labels, {}, tuple(sorted(studio.open)), studio.serves, frozenset(), stored, frozenset(scored), (), NOON
    )
    pool = studio.open_tasks(PROJECT)
    decided = cycle.decide(snapshot, read_state(here, PROJECT), settings)
    for action in decided:
        perform(here, PROJECT, action, Observation(snapshot, pool, config), settings, NOON)
    return decided


def work(here: Context) -> None:
    """Do what waits in the queues."""
    queues = here.queues
    WarmWorker(
        [queues.queue(QueueName.SCORE), queues.queue(QueueName.PUBLISH)],
        connection=queues.connection,
        serializer=queues.serializer,
    ).work(burst=True, logging_level="CRITICAL")


def looks(here: Context, most: int = 12) -> list[str]:
    """Look and work until nothing is decided any more; the kinds of what was decided."""
    kinds: list[str] = []
    for _ in range(most):
        decided = [type(action).__name__ for action in look(here) if not isinstance(action, cycle.Retire)]
        if not decided:
            return kinds
        kinds += decided
        work(here)
    return kinds


def jobs(here: Context, kind: str) -> list[Job]:
    """Waiting jobs of a kind."""
    queues = here.queues
    ids = [job for name in QueueName for job in queues.queue(name).get_job_ids()]
    found = Job.fetch_many(ids, connection=queues.connection, serializer=queues.serializer)
    return [job for job in found if job is not None and job.meta.get("kind") == kind]
