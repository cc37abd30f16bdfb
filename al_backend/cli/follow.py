"""Waits for a training or a ranking that was asked for, and shows how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from al_backend.cli.output import Doors
from al_backend.errors import BackendError, NoWorker, WrongUse
from al_backend.jobs.client import error_key, job_status, overview
from al_backend.jobs.documents import RANK_REQUEST, TRAIN_REQUEST, read_attempt, requested_at
from al_backend.jobs.queues import QueueName
from al_backend.registry import Phase
from model.names import STRATEGIES

if TYPE_CHECKING:
    from rich.console import Console

_LOOK_EVERY = 0.5
_WORKER_GRACE = 10.0
"""Seconds that a worker may be away, because the supervisor starts a dead one again."""

_LINE_EVERY = 10.0


@dataclass(frozen=True)
class Step:
    """How far a piece of work is; `total` is None while nobody knows it."""

    phase: str
    done: int = 0
    total: int | None = None


def check_rankable(doors: Doors, project: int, strategy: str | None) -> None:
    """Refuse a ranking that could never come.

    Raises:
        WrongUse: there is no such strategy.
        BackendError: there is no version that could measure the pool, or none that the strategy could ask.
    """
    if strategy is not None and strategy not in STRATEGIES:
        raise WrongUse(f"strategy is {strategy!r}, expected one of: {', '.join(STRATEGIES)}")
    version = doors.registry.active_version(project)
    if version is None:
        raise BackendError(
            f"Project {project} has no version yet that could rank: a running backend makes one by itself "
            f"(`al-backend up`), and so does `al-backend train {project}` once images are labelled."
        )
    if strategy is None:
        return
    from al_backend.jobs.strategies import WITHOUT_A_HEAD  # brings polars

    if version.knows == () and strategy not in WITHOUT_A_HEAD:
        raise BackendError(
            f"Nothing is trained yet in project {project}, and what {strategy} would ask the detector is noise: until "
            f"the first training there are {', '.join(WITHOUT_A_HEAD)}."
        )


def follow_training(doors: Doors, project: int, job: str, console: Console) -> dict[str, Any]:
    """Wait for the training behind `job`.

    Returns:
        The new version in short, and whether the gate promoted it.

    Raises:
        BackendError: the training failed, the message is its error; or somebody cancelled it.
        NoWorker: nobody is there who would train.
    """
    asked = requested_at(doors.registry.read_document(project, TRAIN_REQUEST))
    status = _follow(doors, project, job, (QueueName.RECONCILE, QueueName.TRAIN), _training_step, console)
    _refuse_cancelled(status, project, "training", "train")
    if status == "failed":
        attempt = read_attempt(doors.registry, project)
        raise BackendError(f"The training failed: {attempt.error if attempt else 'nobody kept the reason'}")
    made = [version for version in doors.registry.versions(project) if asked is None or version.snapshot_at >= asked]
    if not made:
        raise BackendError("The training ended, but another request took its place; look at `al-backend status`.")
    version = made[-1]
    return {
        "job": job,
        "status": status,
        "version": version.name,
        "promoted": version.gate.promoted,
        "reason": version.gate.reason,
        "train_images": version.train_images,
        "validation_images": version.validation_images,
        "metrics": version.metrics,
    }


def follow_ranking(doors: Doors, project: int, job: str, console: Console) -> dict[str, Any]:
    """Wait for the ranking behind `job` until Label Studio has it.

    Returns:
        The ranking in short.

    Raises:
        BackendError: another request took its place, or somebody cancelled it.
        NoWorker: nobody is there who would rank or publish.
    """
    asked = requested_at(doors.registry.read_document(project, RANK_REQUEST))
    queues = (QueueName.RECONCILE, QueueName.SCORE, QueueName.PUBLISH)
    status = _follow(doors, project, job, queues, _ranking_step(asked), console)
    _refuse_cancelled(status, project, "ranking", "rank")
    published = doors.registry.read_document(project, "published") or {}
    if "ranking" not in published:
        raise BackendError("The ranking ended, but nothing is published; look at `al-backend status`.")
    ranking = doors.registry.ranking(project, published["ranking"])
    return {
        "job": job,
        "status": status,
        "ranking": ranking.id,
        "model_version": ranking.model_version,
        "version": ranking.version,
        "strategy": ranking.strategy,
        "tasks": ranking.tasks,
    }


def _follow(
    doors: Doors,
    project: int,
    job: str,
    needed: tuple[QueueName, ...],
    step: Callable[[Doors, int, dict[str, Any]], Step],
    console: Console,
) -> str:
    lonely_since: float | None = None
    error_before = _last_error(doors, project)
    with _display(console) as show:
        try:
            while True:
                status = job_status(doors.registry, doors.queues, job)
                if status in ("finished", "failed", "canceled"):
                    return status
                if status is None:
                    raise BackendError("A newer request has taken the place of this one; look at `al-backend status`.")
                live = overview(doors.queues)
                missing = [name.value for name in needed if not live["queues"][name.value]["workers"]]
                lonely_since = (lonely_since or time.monotonic()) if missing else None
                if lonely_since is not None and time.monotonic() - lonely_since > _WORKER_GRACE:
                    raise NoWorker(
                        f"Nobody takes the queues {', '.join(missing)}. The request is kept; "
                        "start `al-backend up` or `al-backend worker`."
                    )
                error = _last_error(doors, project)
                if error is not None and error != error_before:
                    console.print(f"The backend cannot go on, it tries again: {error}", markup=False)
                error_before = error
                show(step(doors, project, live))
                time.sleep(_LOOK_EVERY)
        except KeyboardInterrupt:
            raise BackendError(
                f"No longer waiting; the work goes on. `al-backend status {project}` shows it."
            ) from None


def _refuse_cancelled(status: str, project: int, what: str, command: str) -> None:
    if status == "canceled":
        raise BackendError(f"The {what} was cancelled by hand; `al-backend {command} {project}` starts another.")


def _last_error(doors: Doors, project: int) -> str | None:
    """Why the backend's last look at the project failed; None when it did not."""
    stored = doors.queues.connection.get(error_key(project))
    return stored.decode() if isinstance(stored, bytes) else stored


def _training_step(doors: Doors, project: int, live: dict[str, Any]) -> Step:
    return _job_step(project, live, "train") or Step("waiting to train")


def _ranking_step(asked: datetime | None) -> Callable[[Doors, int, dict[str, Any]], Step]:
    def step(doors: Doors, project: int, live: dict[str, Any]) -> Step:
        publishing = _job_step(project, live, "publish")
        if publishing is not None:
            return publishing
        made = [item for item in doors.registry.rankings(project) if asked is None or item.created_at >= asked]
        if not made:
            return Step("waiting to rank")
        ranking = made[-1]
        listed = doors.registry.closer_tasks(project, ranking.id)
        if listed is not None:
            looked = len(doors.registry.finished_shards(project, ranking.id, Phase.CLOSER))
            return Step("looking closer", looked, listed["shard"].n_unique())
        finished = doors.registry.finished_shards(project, ranking.id)
        done = sum(1 for index in finished if index < ranking.shards)
        return Step("measuring", done, ranking.shards)

    return step


def _job_step(project: int, live: dict[str, Any], kind: str) -> Step | None:
    for job in live["jobs"]:
        if job["project"] == project and job["kind"] == kind:
            progress = job["progress"] or {}
            return Step(progress.get("phase", kind), progress.get("iteration", 0), progress.get("iterations"))
    return None


@contextmanager
def _display(console: Console) -> Iterator[Callable[[Step], None]]:
    """A moving bar on a terminal; a line now and then where the output is kept."""
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("waiting", total=1)
        phase = ""

        def show(step: Step) -> None:
            nonlocal phase
            if step.phase != phase:
                phase = step.phase
                progress.reset(bar)
            progress.update(bar, description=step.phase, completed=step.done, total=step.total or 1)

        yield show


def _lines(console: Console) -> Callable[[Step], None]:
    last = Step("")
    printed_at = 0.0

    def show(step: Step) -> None:
        nonlocal last, printed_at
        now = time.monotonic()
        if step.phase == last.phase and (step == last or now - printed_at < _LINE_EVERY):
            return
        last, printed_at = step, now
        count = f" {step.done}/{step.total}" if step.total else ""
        console.print(f"{step.phase}{count}", markup=False, highlight=False)

    return show
