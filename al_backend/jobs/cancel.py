"""Stops what a person no longer wants: a training, a ranking, or the request for one.

A cancellation is a document in the registry, so that it outlives Redis. Whoever does the work looks at it: a training
after every step, a publication after every chunk, and the reconcile before it starts the same again.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import Job

from al_backend.cycle import MAX_ATTEMPTS, CancelledTraining
from al_backend.errors import RegistryError
from al_backend.jobs.client import enqueue_reconcile
from al_backend.jobs.context import job_name
from al_backend.jobs.current import (
    cancelled_ranking,
    is_cancelled,
    mark_of,
    newest_ranking,
    owed_ranking,
    training_cancelled_at,
)
from al_backend.jobs.documents import (
    PUBLISHED,
    RANK_CANCEL,
    TRAIN_CANCEL,
    TRAIN_CANCEL_LABELS,
    TRAIN_REQUEST,
    now,
    read_attempt,
    requested_at,
)
from al_backend.jobs.liveness import in_flight
from al_backend.jobs.queues import QueueName, Queues
from al_backend.registry import Registry
from model.errors import TrainingCancelled

logger = logging.getLogger(__name__)

_SHARE = 0.02  # of a training's time that looking for a cancellation may take


@dataclass(frozen=True, slots=True)
class CancelReport:
    """What `cancel` found and stopped.

    Attributes:
        project: Label Studio's project id.
        training: `running` (it stops after its step), `stopping` (it was told so before), `waiting` (taken out of the
            queue), `requested` or `retry` (it will not start); None when there was none.
        ranking: id of the ranking that was in work, `requested` when it was only asked for; None when there was none.
        removed_jobs: jobs taken out of the queues.
    """

    project: int
    training: str | None
    ranking: str | None
    removed_jobs: int

    def __str__(self) -> str:
        """What happened, for people."""
        sentences = []
        if self.training is not None:
            sentences.append(_TRAINING[self.training])
        if self.ranking == "requested":
            sentences.append("The ranking that was asked for does not start.")
        elif self.ranking is not None:
            sentences.append(f"The ranking {self.ranking} is cancelled; the order that was published before stays.")
        if not sentences:
            return f"Nothing to cancel: project {self.project} has no training and no ranking in work."
        return " ".join([*sentences, f"`al-backend train {self.project}` and `rank {self.project}` start anew."])


_TRAINING = {
    "running": "The training stops after the step that it is at; the active version stays.",
    "stopping": "The training was cancelled before and is about to stop.",
    "waiting": "The training was waiting and is taken out of the queue.",
    "requested": "The training that was asked for does not start.",
    "retry": "The training that had failed is not tried again.",
}


def cancel(
    queues: Queues, registry: Registry, project_id: int, *, training: bool = True, ranking: bool = True
) -> CancelReport:
    """Stop a project's training and ranking. Nothing that is published or active changes; repeating it is harmless.

    The next training starts when a person asks for one, or after `AL_TRAIN_EVERY` labels that are newer than this. The
    next ranking starts when a person asks for one or another version becomes active.

    Args:
        queues: where waiting jobs are taken out.
        registry: keeps that it was cancelled.
        project_id: the project.
        training: whether to stop a training.
        ranking: whether to stop a ranking.
    """
    stopped, removed = _cancel_training(queues, registry, project_id) if training else (None, 0)
    ranked, more = _cancel_ranking(queues, registry, project_id) if ranking else (None, 0)
    report = CancelReport(project_id, stopped, ranked, removed + more)
    if stopped not in (None, "stopping") or ranked is not None:
        logger.info("Project %d, cancelled by hand: %s", project_id, report)
        enqueue_reconcile(queues, project_id, "cancelled by hand")
    return report


def note_labels(registry: Registry, project_id: int, cancelled: CancelledTraining, labels: dict[int, str]) -> None:
    """Remember which labels there were when a training was cancelled: only later ones are a reason for the next."""
    registry.write_document(
        project_id,
        TRAIN_CANCEL_LABELS,
        {
            "cancelled_at": cancelled.at.isoformat(),
            "labels": {str(task): digest for task, digest in labels.items()},
        },
    )


class TrainingWatch:
    """Tells a training, from inside, that a person has cancelled it.

    The registry is asked so often that this costs 2 percent of the time at most: after every step where it is a local
    disk, about every second where it is an object store.

    Args:
        registry: that keeps cancellations.
        project_id: the project.
        since: when the training was decided on; older cancellations meant another one.
        clock: seconds, monotonic.
    """

    def __init__(
        self, registry: Registry, project_id: int, since: datetime, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._registry = registry
        self._project_id = project_id
        self._since = since
        self._clock = clock
        self._next = float("-inf")

    def check(self, *, always: bool = False) -> None:
        """Look, unless that was done a moment ago and `always` is not set.

        Raises:
            TrainingCancelled: a person wants it to stop.
        """
        started = self._clock()
        if started < self._next and not always:
            return
        try:
            at = training_cancelled_at(self._registry, self._project_id)
        except RegistryError as error:
            logger.warning("Cannot see whether the training is cancelled, it goes on: %s", error)
            at = None
        ended = self._clock()
        self._next = ended + (ended - started) / _SHARE
        if at is not None and at > self._since:
            raise TrainingCancelled(f"Project {self._project_id}: the training was cancelled by hand.")


def _cancel_training(queues: Queues, registry: Registry, project_id: int) -> tuple[str | None, int]:
    """What there was to stop, and how many jobs were removed."""
    job_id = job_name("train", project_id)
    before = training_cancelled_at(registry, project_id)
    if in_flight(queues, QueueName.TRAIN, job_id):
        decided = _decided_at(queues, job_id)
        if before is not None and decided is not None and decided <= before:
            return "stopping", 0
        # Written first: a worker that takes the job in this moment finds it when the training begins.
        _write(queues, registry, project_id, TRAIN_CANCEL, {})
        removed = _remove(queues, QueueName.TRAIN, [job_id])
        return ("waiting" if removed else "running"), removed
    what = _about_to_train(registry, project_id, before)
    if what is not None:
        _write(queues, registry, project_id, TRAIN_CANCEL, {})
    return what, 0


def _about_to_train(registry: Registry, project_id: int, cancelled_at: datetime | None) -> str | None:
    """`requested`, or `retry` after a failure; None when no training would come without new labels."""
    versions = registry.versions(project_id)
    attempt = read_attempt(registry, project_id)
    if attempt is not None:
        over = any(version.created_at >= attempt.started_at for version in versions)
        void = cancelled_at is not None and cancelled_at >= attempt.started_at
        if not over and not void and attempt.count < MAX_ATTEMPTS:
            return "retry"
    asked = requested_at(registry.read_document(project_id, TRAIN_REQUEST))
    if asked is None or (cancelled_at is not None and cancelled_at >= asked):
        return None
    served = any(version.snapshot_at >= asked for version in versions)
    given_up = attempt is not None and attempt.started_at >= asked and attempt.count >= MAX_ATTEMPTS
    return None if served or given_up else "requested"


def _cancel_ranking(queues: Queues, registry: Registry, project_id: int) -> tuple[str | None, int]:
    pointer = registry.active(project_id)
    rankings = registry.rankings(project_id)
    current = newest_ranking(rankings, pointer.version if pointer else None)
    published = (registry.read_document(project_id, PUBLISHED) or {}).get("ranking")
    if current is not None and current.id != published and not is_cancelled(registry, current, pointer):
        _write(queues, registry, project_id, RANK_CANCEL, {"ranking": current.id, "pointer": mark_of(pointer)})
        return current.id, _remove_ranking_jobs(queues, project_id, current.id)
    if owed_ranking(registry, project_id, rankings) is None:
        return None, 0
    before = cancelled_ranking(registry, project_id)
    ranking, mark = (None, None) if before is None else (before.ranking, before.pointer)
    _write(queues, registry, project_id, RANK_CANCEL, {"ranking": ranking, "pointer": mark})
    return "requested", 0


def _remove_ranking_jobs(queues: Queues, project_id: int, ranking_id: str) -> int:
    prefixes = tuple(job_name(kind, project_id, ranking_id, "") for kind in ("score", "closer"))
    shards = [job_id for job_id in queues.queue(QueueName.SCORE).get_job_ids() if job_id.startswith(prefixes)]
    others = [job_name("choose", project_id, ranking_id), job_name("publish", project_id)]
    return _remove(queues, QueueName.SCORE, shards) + _remove(queues, QueueName.PUBLISH, others)


def _remove(queues: Queues, name: QueueName, job_ids: Sequence[str]) -> int:
    """Take waiting jobs out of a queue; what a worker has taken already is left to it. Returns how many were taken."""
    pipeline = queues.connection.pipeline(transaction=False)
    for job_id in job_ids:
        pipeline.lrem(queues.queue(name).key, 1, job_id)
    taken = [job_id for job_id, removed in zip(job_ids, pipeline.execute(), strict=True) if removed]
    for job_id in taken:
        with contextlib.suppress(NoSuchJobError, InvalidJobOperation):  # expired by itself
            Job.fetch(job_id, connection=queues.connection, serializer=queues.serializer).delete()
    return len(taken)


def _decided_at(queues: Queues, job_id: str) -> datetime | None:
    """When a job in flight was decided on; None when Redis was emptied since."""
    try:
        job = Job.fetch(job_id, connection=queues.connection, serializer=queues.serializer)
    except NoSuchJobError:
        return None
    decided = job.meta.get("decided_at")
    return None if decided is None else datetime.fromisoformat(decided)


def _write(queues: Queues, registry: Registry, project_id: int, name: str, fields: dict[str, str | None]) -> None:
    registry.write_document(project_id, name, {"cancelled_at": now(queues.connection).isoformat(), **fields})
