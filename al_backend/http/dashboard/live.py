"""What happens now: jobs and workers as Redis has them, or a sentence that says why nobody knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import redis

from al_backend.errors import BackendError
from al_backend.http.services import Services
from al_backend.jobs import liveness
from al_backend.jobs.client import last_error, overview
from al_backend.jobs.context import job_name
from al_backend.jobs.load import loads
from al_backend.jobs.log_tail import log_tail
from al_backend.jobs.queues import QueueName, Queues

_TITLES = {
    "train": "Training",
    "cold_start": "Preparing the first order",
    "score": "Measuring the pool",
    "choose": "Choosing images for a closer look",
    "publish": "Publishing the order",
    "score_new": "Measuring new tasks",
    "retire": "Removing old predictions",
    "reconcile": "Looking at the project",
    "predict": "Predicting for an annotator",
}
_PHASES = {
    "labels": "reading labels",
    "images": "fetching images",
    "train": "training",
    "autoencoder": "training the autoencoder",
    "evaluate": "evaluating",
    "publish": "importing predictions",
}


@dataclass(frozen=True, slots=True)
class Work:
    """One job, or all the shards of one ranking.

    Attributes:
        done: share that is done, in [0, 1]; None while nobody knows.
        detail: how far it is, in words.
        log: last lines, oldest first.
    """

    id: str
    kind: str
    title: str
    project: int | None
    running: bool
    phase: str
    done: float | None
    detail: str
    eta_seconds: float | None
    started_at: str | None
    enqueued_at: str | None
    log: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Worker:
    """A living worker process and what it uses."""

    kind: str
    machine: str
    pid: int
    device: str
    queues: tuple[str, ...]
    load: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Live:
    """What Redis says at this moment.

    Attributes:
        trouble: why nothing is known; "" when it is.
        depths: waiting jobs by queue.
        errors: why the last look at a project failed, by project.
    """

    trouble: str = ""
    works: tuple[Work, ...] = ()
    workers: tuple[Worker, ...] = ()
    depths: Mapping[str, int] = field(default_factory=dict)
    errors: Mapping[int, str] = field(default_factory=dict)

    def of(self, project_id: int) -> tuple[Work, ...]:
        """What works for a project; looks at it and answers to annotators come and go too fast to show."""
        return tuple(
            work for work in self.works if work.project == project_id and work.kind not in ("reconcile", "predict")
        )

    @property
    def idle_queues(self) -> tuple[str, ...]:
        """Queues that no living worker takes."""
        taken = {name for worker in self.workers for name in worker.queues}
        return tuple(name.value for name in QueueName if name.value not in taken)


def look(here: Services, projects: tuple[int, ...] = (), *, log_lines: int = 0) -> Live:
    """Ask Redis; it answers soon or is not waited for.

    Args:
        here: of the process.
        projects: whose last error is wanted.
        log_lines: last lines of each job that keeps some.
    """
    try:
        return _look(here, here.queues, projects, log_lines)
    except (BackendError, redis.RedisError) as error:
        return Live(trouble=f"Nobody knows what runs: {str(error) or type(error).__name__}")


def _look(here: Services, queues: Queues, projects: tuple[int, ...], log_lines: int) -> Live:
    found = overview(queues)
    living = liveness.workers(queues.connection)
    shards: dict[str, list[dict[str, Any]]] = {}
    works = []
    for job in found["jobs"]:
        if job["kind"] == "score":
            shards.setdefault(f"{job['project']} {_ranking_of(job['id'], job['project'])}", []).append(job)
        else:
            works.append(_work(queues, job, log_lines))
    works += [_shards(here, group, found["queues"]["score"]["depth"]) for group in shards.values()]
    workers = [
        Worker(
            kind=str(entry.get("kind", "worker")),
            machine=str(entry["place"]).partition("/")[0],
            pid=int(entry["pid"]),
            device=str(entry.get("device", "")),
            queues=tuple(entry["queues"]),
            load=load,
        )
        for entry, load in zip(living, loads(queues.connection, living), strict=True)
    ]
    errors = {project: error for project in projects if (error := last_error(queues, project)) is not None}
    return Live(
        works=tuple(sorted(works, key=lambda work: (not work.running, work.kind != "train", work.title))),
        workers=tuple(sorted(workers, key=lambda worker: (worker.machine, worker.kind, worker.pid))),
        depths={name: entry["depth"] for name, entry in found["queues"].items()},
        errors=errors,
    )


def training_log(here: Services, project_id: int, lines: int = 60) -> list[str]:
    """The last lines of a project's training, also of one that has ended; empty when nobody knows any."""
    try:
        return log_tail(here.queues, job_name("train", project_id), lines)
    except (BackendError, redis.RedisError):
        return []


def _work(queues: Queues, job: Mapping[str, Any], log_lines: int) -> Work:
    progress = job["progress"] or {}
    iteration, iterations = progress.get("iteration"), progress.get("iterations")
    done = iteration / iterations if iteration is not None and iterations else None
    phase = str(progress.get("phase") or "")
    parts = []
    if done is not None and iterations and iterations > 1:
        parts.append(f"{iteration:,} of {iterations:,}")
    if phase == "train" and progress.get("epoch") is not None:
        parts.append(f"epoch {progress['epoch']:.1f}")
    if progress.get("loss") is not None:
        parts.append(f"loss {progress['loss']:.3g}")
    return Work(
        id=job["id"],
        kind=str(job["kind"]),
        title=_TITLES.get(str(job["kind"]), str(job["kind"])),
        project=job["project"],
        running=job["status"] == "started",
        phase=_PHASES.get(phase, phase),
        done=done,
        detail=", ".join(parts),
        eta_seconds=progress.get("eta_seconds"),
        started_at=job["started_at"],
        enqueued_at=job["enqueued_at"],
        log=tuple(log_tail(queues, job["id"], log_lines)) if log_lines and job["kind"] == "train" else (),
    )


def _shards(here: Services, jobs: list[dict[str, Any]], waiting: int) -> Work:
    """All shards of a ranking as one: a hundred lines would say no more."""
    project, name = jobs[0]["project"], _ranking_of(jobs[0]["id"], jobs[0]["project"])
    closer = jobs[0]["id"].startswith("closer-")
    done, detail = None, f"{max(len(jobs), waiting):,} shards left"
    if not closer:
        done, detail = _measured(here, project, name) or (done, detail)
    return Work(
        id=f"score-{project}-{name}",
        kind="score",
        title="Looking closer at the candidates" if closer else _TITLES["score"],
        project=project,
        running=any(job["status"] == "started" for job in jobs),
        phase="",
        done=done,
        detail=detail,
        eta_seconds=None,
        started_at=min((job["started_at"] for job in jobs if job["started_at"]), default=None),
        enqueued_at=min((job["enqueued_at"] for job in jobs if job["enqueued_at"]), default=None),
    )


def _measured(here: Services, project: int, job_ranking: str) -> tuple[float, str] | None:
    """How much of a ranking is measured; its job knows the name only as a job's name may have it."""
    registry = here.registry
    observed = registry.read_document(project, "observed") or {}
    name = observed.get("ranking")
    if not name or job_name("score", project, name) != f"score-{project}-{job_ranking}":
        return None
    try:
        ranking = registry.ranking(project, name)
    except BackendError:
        return None  # removed in this moment
    finished = sum(index < ranking.shards for index in registry.finished_shards(project, name))
    images = min(ranking.tasks, finished * ranking.shard_size)
    return finished / max(1, ranking.shards), f"{images:,} of {ranking.tasks:,} images"


def _ranking_of(job_id: str, project: int) -> str:
    """`score-5-yolov5n-v1-abc-12` is shard 12 of `yolov5n-v1-abc`."""
    return job_id.partition(f"-{project}-")[2].rpartition("-")[0]
