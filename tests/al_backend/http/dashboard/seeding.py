"""Projects as the backend leaves them, made by its own jobs; only Label Studio and the network are made up."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
from rq.job import Job, JobStatus

from al_backend import cycle
from al_backend.inference import Outcome
from al_backend.jobs.candidates import choose
from al_backend.jobs.context import Context, job_name
from al_backend.jobs.current import newest_ranking
from al_backend.jobs.documents import now
from al_backend.jobs.liveness import ensure_job, living_worker, running_job
from al_backend.jobs.load import telling_load
from al_backend.jobs.log_tail import log_key
from al_backend.jobs.observe import Observation, read_state
from al_backend.jobs.observed import note_observation
from al_backend.jobs.perform import perform
from al_backend.jobs.publish import publish
from al_backend.jobs.queues import QueueName, Queues
from al_backend.jobs.ranking import score_shard
from al_backend.jobs.workers import GROUPS
from al_backend.labelstudio.labeling_config import parse_labeling_config
from al_backend.labelstudio.records import Task
from al_backend.registry import GateVerdict, Registry, Version
from al_backend.settings import Settings
from model.data.dataset import LabelledImage
from model.data.reef import SPECIES, write_reef
from model.detections import Detections
from model.detectors.base import View
from model.training.evaluation import score
from model.training.intervals import quality_intervals

CLASSES = SPECIES[:6]
LABEL_CONFIG = (
    '<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image">'
    + "".join(f'<Label value="{name}"/>' for name in CLASSES)
    + "</RectangleLabels></View>"
)
SIZE = (192, 256)
START = datetime(2026, 3, 2, 9, 0, tzinfo=timezone.utc)
FIRST_TASK = 1001
LOCKED = "The image at /data/upload/5/locked.jpg answered 403; check the storage of the project."


@dataclass(frozen=True)
class Step:
    """A training: labels, how well the detector then sees (in [0, 1]), and whether the gate let it pass."""

    labels: int
    skill: float
    promoted: bool = True


STEPS = (Step(20, 0.35), Step(40, 0.5), Step(60, 0.45, promoted=False), Step(80, 0.66), Step(100, 0.72))


@dataclass
class Seeded:
    """A project that was made, and the world in which its jobs run."""

    here: Context
    project: int
    label_studio: MadeUpLabelStudio
    truth: Mapping[int, LabelledImage]
    versions: list[Version] = field(default_factory=list)


class MadeUpLabelStudio:
    """Takes predictions for open tasks and remembers what it was told."""

    def __init__(self, tasks: Mapping[int, Mapping[str, Any]], labelled: Sequence[int]) -> None:
        self.tasks = tasks
        self.labelled = set(labelled)
        self.counts: dict[str, int] = {}
        self.model_version = ""

    def open_tasks(self, project_id: int) -> list[Task]:
        return [Task(task, data) for task, data in self.tasks.items() if task not in self.labelled]

    def open_task_ids(self, project_id: int) -> set[int]:
        return {task.id for task in self.open_tasks(project_id)}

    def labelled_tasks(self, project_id: int) -> list[Task]:
        return [Task(task, data) for task, data in self.tasks.items() if task in self.labelled]

    def predictions_of(self, project_id: int, model_version: str) -> list[Any]:
        return []

    def delete_predictions(self, ids: Sequence[int]) -> int:
        return 0

    def model_versions(self, project_id: int) -> dict[str, int]:
        return self.counts

    def publish_model_version(self, project_id: int, name: str) -> None:
        self.model_version = name

    def ensure_queue_tab(self, project_id: int) -> int:
        return 1

    def import_predictions(self, project_id: int, items: Sequence[Mapping[str, Any]], **_: Any) -> SimpleNamespace:
        for item in items:
            self.counts[item["model_version"]] = self.counts.get(item["model_version"], 0) + 1
        return SimpleNamespace(created=len(items), dropped=())


class MadeUpInference:
    """Sees the true boxes as well as it is told to; images without truth cannot be read."""

    def __init__(self, truth: Mapping[int, LabelledImage], skill: float) -> None:
        self._truth = truth
        self._skill = skill

    def detect(
        self,
        project_id: int,
        version: str,
        items: Sequence[tuple[int, str | None]],
        *,
        views: Sequence[View] = (View.ORIGINAL,),
        min_score: float,
    ) -> Iterator[Outcome]:
        for task, _ in items:
            if task not in self._truth:
                yield Outcome(task, None, LOCKED)
                continue
            found = {view: sight(self._truth[task], task, view, self._skill) for view in views}
            yield Outcome(task, {view: item.select(item.score >= min_score) for view, item in found.items()})


def sight(image: LabelledImage, task: int, view: View, skill: float) -> Detections:
    """What a detector of that skill sees: some boxes missed, some named wrongly, some that are not there."""
    random = np.random.default_rng([task, list(View).index(view), int(1000 * skill)])
    height, width = SIZE
    seen = np.flatnonzero(random.random(len(image.label)) < 0.35 + 0.65 * skill)
    extra = random.poisson(1.2 * (1 - skill))
    corner = random.uniform(0, 0.7, (extra, 2)) * (width, height)
    wrong = np.concatenate([corner, corner + random.uniform(20, 60, (extra, 2))], axis=1)
    boxes = np.concatenate([image.xyxy[seen] + random.normal(0, 5 * (1 - skill), (len(seen), 4)), wrong])
    boxes = np.clip(boxes, 0, (width, height, width, height)).astype(np.float32)
    likely = np.concatenate([image.label[seen], random.integers(0, len(CLASSES), extra)]).astype(int)
    probs = np.full((len(boxes), len(CLASSES) + 1), 0.02, np.float64)
    certainty = np.concatenate([random.beta(2 + 6 * skill, 2, len(seen)), random.beta(1.5, 4, extra)])
    named = np.where(
        random.random(len(boxes)) < 0.55 + 0.45 * skill, likely, random.integers(0, len(CLASSES), len(boxes))
    )
    probs[np.arange(len(boxes)), named] += 1.5 * certainty
    probs[:, -1] += 0.8 * (1 - certainty)
    probs /= probs.sum(axis=1, keepdims=True)
    return Detections(
        xyxy=boxes,
        score=probs[:, :-1].max(axis=1).astype(np.float32),
        label=probs[:, :-1].argmax(axis=1).astype(np.int64),
        probs=probs.astype(np.float32),
        height=height,
        width=width,
        embedding=np.random.default_rng(task % 7).normal(size=(len(boxes), 16)).astype(np.float32),
        image_embedding=np.random.default_rng(task % 9).normal(size=32).astype(np.float32),
    )


def seed_project(
    settings: Settings,
    registry: Registry,
    queues: Queues,
    folder: Path,
    *,
    project: int = 5,
    title: str = "Reef survey, north station",
    images: int = 150,
    unreadable: int = 2,
    steps: Sequence[Step] = STEPS,
    overrides: Mapping[str, Any] | None = None,
) -> Seeded:
    """A project with trained versions and a published order.

    Args:
        settings: of the backend.
        registry: where it goes.
        queues: of a Redis of the tests alone; what the jobs enqueue stays there.
        folder: for drawn images.
        project: its id.
        title: in Label Studio.
        images: drawn scenes, of which as many are labelled as the last step says.
        unreadable: further tasks whose image cannot be had.
        steps: trainings, oldest first; none leaves the project without a version.
        overrides: learning settings of the project.
    """
    drawn = write_reef(folder / "scenes", images, seed=3, size=SIZE, species=CLASSES, empty_share=0.05)
    ids = range(FIRST_TASK, FIRST_TASK + images)
    truth = dict(zip(ids, drawn.images, strict=True))
    data = {task: {"image": _data_uri(image.path)} for task, image in truth.items()}
    data |= {
        ids.stop + number: {"image": f"/data/upload/{project}/locked-{number}.jpg"} for number in range(unreadable)
    }
    labelled = list(ids)[: steps[-1].labels] if steps else list(ids)[:6]
    label_studio = MadeUpLabelStudio(data, labelled)
    here = Context(settings)
    vars(here).update(
        registry=registry,
        queues=queues,
        label_studio=label_studio,
        inference=MadeUpInference(truth, steps[-1].skill if steps else 0.0),
    )
    registry.register_project(project, label_config=LABEL_CONFIG, overrides=dict(overrides or {}))
    seeded = Seeded(here, project, label_studio, truth)
    for number, step in enumerate(steps, start=1):
        seeded.versions.append(_train(seeded, number, step, folder))
    if steps:
        rank_and_publish(seeded)
    look(seeded, title)
    return seeded


def rank_and_publish(seeded: Seeded) -> str:
    """Measure the pool by the active version, order and publish it; returns the ranking's id."""
    here, project = seeded.here, seeded.project
    active = here.registry.active(project)
    assert active is not None
    with mock.patch("al_backend.jobs.context.context", return_value=here):
        action = cycle.StartRanking(active.version)
        perform(here, project, action, _observation(seeded, ""), here.learning(project), now())
        ranking = newest_ranking(here.registry.rankings(project), active.version)
        assert ranking is not None
        for index in range(ranking.shards):
            score_shard(project, ranking.id, index)
        if here.learning(project).strategy in ("huale", "ppal", "core_set") or here.learning(project).diversity:
            choose(project, ranking.id)
            listed = here.registry.closer_tasks(project, ranking.id)
            assert listed is not None
            for index in sorted(set(listed["shard"])):
                score_shard(project, ranking.id, index, closer=True)
        publish(project, ranking.id)
    return ranking.id


def look(seeded: Seeded, title: str) -> None:
    """One look at the project, as a reconcile keeps it."""
    here, project = seeded.here, seeded.project
    note_observation(here, project, _observation(seeded, title), read_state(here, project), here.learning(project))


def _observation(seeded: Seeded, title: str) -> Observation:
    client = seeded.label_studio
    pool = client.open_tasks(seeded.project)
    shown = {task.id for task in pool} if client.model_version else set()
    labels = {task: f"digest-{task}" for task in sorted(client.labelled)}
    snapshot = cycle.Snapshot(
        CLASSES, labels, tuple(t.id for t in pool), client.model_version, frozenset(), {}, frozenset(shown), (), START
    )
    return Observation(snapshot, pool, parse_labeling_config(LABEL_CONFIG), title)


def _train(seeded: Seeded, number: int, step: Step, folder: Path) -> Version:
    registry, project = seeded.here.registry, seeded.project
    tasks = list(seeded.truth)[: step.labels]
    held_out = tasks[::4]
    pictures = [seeded.truth[task] for task in held_out]
    found = [sight(image, task, View.ORIGINAL, step.skill) for task, image in zip(held_out, pictures, strict=True)]
    counts = np.bincount(
        np.concatenate([seeded.truth[task].label for task in tasks if task not in held_out]), minlength=len(CLASSES)
    )
    evaluation = score(pictures, found, CLASSES)
    # The first version is one of an older release, which counted no intervals.
    intervals = {} if number == 1 else {"intervals": quality_intervals(pictures, found, CLASSES)}
    active = registry.active(project)
    before = next((item for item in seeded.versions if active and item.name == active.version), None)
    name, _ = registry.next_version_name(project, "yolov5n", f"{number * 7919:06x}")
    made = START + timedelta(days=number, minutes=7 * number)
    reason = "The first version of the project."
    if before is not None and before.metrics is not None:
        reason = (
            f"mAP50 {evaluation.map50:.3f} against {before.metrics['map50']:.3f} of {before.name} "
            f"on {len(held_out)} held-out images{'' if step.promoted else ': a drop of more than 0.042'}."
        )
    version = Version(
        name=name,
        number=number,
        project=project,
        detector="yolov5n",
        classes=CLASSES,
        created_at=made,
        snapshot_at=made - timedelta(minutes=6),
        parent=None if active is None else active.version,
        labels={str(task): f"digest-{task}" for task in tasks},
        label_counts=dict(zip(CLASSES, counts.tolist(), strict=True)),
        train_images=step.labels - len(held_out),
        validation_images=len(held_out),
        boxes=int(counts.sum()),
        metrics={**evaluation.as_dict(), **intervals},
        training={"seconds": 240.0 + 30 * number},
        settings={},
        gate=GateVerdict(promoted=step.promoted, reason=reason),
        problems=("Task 1007: Region r1 has the label 'whale', which the config lacks.",) if number == 2 else (),
    )
    weights = folder / f"weights-{project}-{number}"
    weights.mkdir(parents=True, exist_ok=True)
    (weights / "weights.safetensors").write_bytes(b"w" * (4000 * number))
    registry.add_version(version, weights)
    if step.promoted:
        registry.promote(project, name, reason=reason)
    return version


def _data_uri(path: Path) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode()


def reopened(made: Seeded, settings: Settings, registry: Registry, queues: Queues) -> Seeded:
    """The same project in a copy of its registry."""
    old = made.label_studio
    client = MadeUpLabelStudio(old.tasks, sorted(old.labelled))
    client.counts, client.model_version = dict(old.counts), old.model_version
    here = Context(settings)
    vars(here).update(registry=registry, queues=queues, label_studio=client, inference=made.here.inference)
    return Seeded(here, made.project, client, made.truth, list(made.versions))


@contextmanager
def running_training(queues: Queues, project: int, **progress: Any) -> Iterator[Callable[..., None]]:
    """A training that says how far it is, without training anything; gives a function that changes what it says."""
    job_id = job_name("train", project)
    meta = {"project": project, "kind": "train", "reason": "asked for"}
    ensure_job(
        queues, QueueName.TRAIN, job_id, "al_backend.jobs.training.train", project, False, timeout=600, meta=meta
    )
    queue = queues.queue(QueueName.TRAIN)
    queue.remove(job_id)
    job = Job.fetch(job_id, connection=queues.connection, serializer=queues.serializer)
    job.set_status(JobStatus.STARTED)
    job.started_at = now()
    queues.connection.zadd(queue.started_job_registry.key, {job_id: time.time() + 600})

    def say(**values: Any) -> None:
        job.meta["progress"] = values
        job.save()

    say(**progress)
    queues.connection.lpush(
        log_key(job_id), "10:00:01 INFO 80 labelled images read", "10:00:11 INFO train: 120 of 600, loss 1.93"
    )
    with running_job(queues.connection, job_id):
        yield say
    queues.connection.zrem(queue.started_job_registry.key, job_id)
    job.delete()


@contextmanager
def living_workers(queues: Queues) -> Iterator[None]:
    """Heartbeats of one worker of each kind."""
    with ExitStack() as stack:
        for kind, names in GROUPS.items():
            stack.enter_context(living_worker(queues.connection, names, kind=kind, device="cpu"))
        stack.enter_context(telling_load(queues.connection))
        yield
