"""Carrying out what a reconcile decided: as jobs with an identity, so that asking twice is harmless."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import polars as pl

from al_backend import cycle
from al_backend.inference import image_value
from al_backend.jobs.client import look_later
from al_backend.jobs.context import Context, job_name
from al_backend.jobs.current import cancelled_ranking, owed_ranking
from al_backend.jobs.documents import THROUGHPUT, now
from al_backend.jobs.liveness import ensure_job
from al_backend.jobs.observe import Observation
from al_backend.jobs.queues import QueueName
from al_backend.jobs.sizes import WINDOW
from al_backend.jobs.strategies import context_fields, strategy_fields, strategy_of, substitutes
from al_backend.labelstudio.client import Task
from al_backend.labelstudio.labeling_config import LabelingConfig
from al_backend.registry import Ranking
from al_backend.settings import LearningSettings
from model.acquisition.random_sampling import draw_pool

SHARD_SECONDS = 5.0
"""Work in one shard, so that a live `/predict` never waits long behind it."""

_FIRST_SHARD, _LARGEST_FIRST_SHARD = 16, 128
_FIRST_SHARDS = 500
"""How many shards a pool is cut into while nobody knows how fast they go: each one costs the queue something, too."""
_LEAST_SHARDS = 24
"""Of a pool whose speed is known, so that several workers end at about the same time."""
_LARGEST_SHARD = 512
_NEW_JOBS = 16
"""Jobs with new tasks that are enqueued at one look: other projects wait behind them."""
_SCORE_TIMEOUT = 900
_PUBLISH_TIMEOUT = 6 * 3600


def perform(
    here: Context,
    project_id: int,
    action: cycle.Action,
    seen: Observation,
    settings: LearningSettings,
    decided_at: datetime,
) -> str:
    """Enqueue what an action asks for, unless it is in flight.

    Args:
        here: of this process.
        project_id: the project.
        action: what was decided.
        seen: on what.
        settings: of the project.
        decided_at: when the state was read; a training notices what is cancelled after that.

    Returns:
        What was started, for the log; "" where it is in flight, or failed a moment ago and is put off.
    """
    pool, config = seen.pool, seen.config
    match action:
        case cycle.Promote():
            verdict = here.registry.version(project_id, action.version).gate
            here.registry.promote(project_id, action.version, reason=verdict.reason)
            look_later(here.queues, project_id, f"{action.version} is active")
            return f"promoting {action.version}, whose training ended before it did"
        case cycle.StartRanking():
            cancelled = cancelled_ranking(here.registry, project_id)
            if cancelled is not None and cancelled.at > decided_at:
                return f"no ranking with {action.version}: it was cancelled in this moment"
            created = _create_ranking(here, project_id, action.version, pool, config, settings)
            _enqueue_shards(here, project_id, created.id, range(min(created.shards, WINDOW)))
            return f"ranking {created.id} of {created.tasks} tasks in {created.shards} shards"
        case cycle.ScoreShards():
            count = _enqueue_shards(here, project_id, action.ranking, action.shards, closer=action.closer)
            kind = "shards of a closer look" if action.closer else "missing shards"
            return f"{count} {kind} of {action.ranking}" if count else ""
        case cycle.ScoreNew():
            wanted = set(action.tasks)
            tasks = [(task.id, image_value(task.data, config)) for task in pool if task.id in wanted]
            count = _enqueue_new(here, project_id, action.ranking, tasks)
            return f"scoring {count} of {len(tasks)} new tasks" if count else ""
        case cycle.Repoint():
            here.label_studio.publish_model_version(project_id, action.model_version)
            return f"model version was {seen.snapshot.model_version!r}, set back to {action.model_version}"
    job = _job(here, action, decided_at)
    started = ensure_job(
        here.queues,
        job.queue,
        job_name(job.kind.replace("_", "-"), project_id, *job.part),
        job.function,
        project_id,
        *job.args,
        timeout=job.timeout,
        meta={"project": project_id, "kind": job.kind, **job.meta},
    )
    return job.said if started else ""


@dataclass(frozen=True)
class _Job:
    """What an action asks for, where that is one job; `part` tells its identity from others of its kind."""

    kind: str
    queue: QueueName
    function: str
    said: str
    timeout: int = _PUBLISH_TIMEOUT
    args: tuple[Any, ...] = ()
    part: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)


def _job(
    here: Context,
    action: cycle.Train | cycle.ColdStart | cycle.Choose | cycle.Publish | cycle.Tidy | cycle.Retire,
    decided_at: datetime,
) -> _Job:
    match action:
        case cycle.Train():
            return _Job(
                "train",
                QueueName.TRAIN,
                "al_backend.jobs.training.train",
                f"training ({action.reason})",
                here.settings.train_timeout,
                args=(action.from_scratch,),
                meta={"reason": action.reason, "decided_at": decided_at.isoformat()},
            )
        case cycle.ColdStart():
            said = "a cold start: nothing is trained yet"
            return _Job("cold_start", QueueName.SCORE, "al_backend.jobs.cold_start.cold_start", said, _SCORE_TIMEOUT)
        case cycle.Choose():
            return _Job(
                "choose",
                QueueName.PUBLISH,
                "al_backend.jobs.candidates.choose",
                f"choosing images of {action.ranking} for a closer look",
                _SCORE_TIMEOUT,
                args=(action.ranking,),
                part=(action.ranking,),
                meta={"ranking": action.ranking},
            )
        case cycle.Publish():
            return _Job(
                "publish",
                QueueName.PUBLISH,
                "al_backend.jobs.publish.publish",
                f"publishing {action.ranking}",
                args=(action.ranking,),
                meta={"ranking": action.ranking},
            )
        case cycle.Tidy():
            return _Job(
                "tidy", QueueName.PUBLISH, "al_backend.jobs.tidy.tidy", "making room among versions and rankings"
            )
        case cycle.Retire():
            said = f"retiring {', '.join(action.model_versions) or 'duplicates'}"
            meta = {"model_versions": list(action.model_versions)}
            return _Job("retire", QueueName.PUBLISH, "al_backend.jobs.publish.retire", said, meta=meta)


def _enqueue_shards(
    here: Context, project_id: int, ranking_id: str, shards: range | tuple[int, ...], *, closer: bool = False
) -> int:
    return sum(
        ensure_job(
            here.queues,
            QueueName.SCORE,
            job_name("closer" if closer else "score", project_id, ranking_id, index),
            "al_backend.jobs.ranking.score_shard",
            project_id,
            ranking_id,
            index,
            closer,
            timeout=_SCORE_TIMEOUT,
            meta={"project": project_id, "kind": "score", "ranking": ranking_id, "shard": index},
        )
        for index in shards
    )


def _enqueue_new(here: Context, project_id: int, ranking_id: str, tasks: list[tuple[int, str | None]]) -> int:
    """Enqueue as many tasks as `_NEW_JOBS` take, the others are left to a later look; returns how many."""
    size = _shard_size(here, project_id)
    parts = [tasks[start : start + size] for start in range(0, len(tasks), size)]
    count = jobs = 0
    for part in parts:
        if jobs == _NEW_JOBS:
            break
        enqueued = ensure_job(
            here.queues,
            QueueName.SCORE,
            job_name("score-new", project_id, part[0][0]),
            "al_backend.jobs.ranking.score_new",
            project_id,
            ranking_id,
            part,
            timeout=_SCORE_TIMEOUT,
            meta={"project": project_id, "kind": "score_new", "ranking": ranking_id, "tasks": len(part)},
        )
        jobs += enqueued
        count += len(part) * enqueued
    return count


def _create_ranking(
    here: Context,
    project_id: int,
    version_name: str,
    pool: list[Task],
    config: LabelingConfig,
    settings: LearningSettings,
) -> Ranking:
    version = here.registry.version(project_id, version_name)
    rankings = here.registry.rankings(project_id)
    request = owed_ranking(here.registry, project_id, rankings)
    if request is not None and request.overrides:
        settings = settings.overridden(request.overrides)
    chosen = draw_pool([task.id for task in pool], settings.pool_size, settings.seed)
    size = _shard_size(here, project_id, len(chosen))
    rows = [(task.id, image_value(task.data, config)) for task in sorted(pool, key=lambda task: task.id)]
    position = {task: index for index, task in enumerate(sorted(chosen))}
    tasks = pl.DataFrame(
        {
            "task_id": [task for task, _ in rows],
            "image": [value for _, value in rows],
            "shard": [position[task] // size if task in position else -1 for task, _ in rows],
        },
        schema={"task_id": pl.Int64, "image": pl.String, "shard": pl.Int64},
    )
    name = cycle.published_name(version_name, [item.id for item in rankings])
    created = Ranking(
        id=name,
        project=project_id,
        version=version_name,
        model_version=name,
        strategy=strategy_fields(settings, version.detector) | substitutes(settings, version, config),
        context=context_fields(version, settings),
        created_at=now(),
        tasks=len(rows),
        shard_size=size,
        shards=-(-len(position) // size),
    )
    strategy_of(created)  # a setting that no strategy takes is refused here, not in every shard
    here.registry.create_ranking(created, tasks)
    return created


def _shard_size(here: Context, project_id: int, images: int = 0) -> int:
    """Images that the last measured throughput gets through in about `SHARD_SECONDS`; a guess before that."""
    measured = here.registry.read_document(project_id, THROUGHPUT)
    if measured is None:
        return min(_LARGEST_FIRST_SHARD, max(_FIRST_SHARD, images // _FIRST_SHARDS))
    most = min(_LARGEST_SHARD, max(_FIRST_SHARD, -(-images // _LEAST_SHARDS))) if images else _LARGEST_SHARD
    return int(min(most, max(4, round(SHARD_SECONDS * float(measured["images_per_second"])))))
