"""The one decision point: look at Label Studio, the registry and the queues, decide, enqueue.

Webhooks, timers, the command line and Start Training all end here. Whatever was lost on the way (an event, a queue, a
worker) is noticed by the next look.
"""

from __future__ import annotations

import logging

import polars as pl

from al_backend import cycle
from al_backend.errors import LabelConfigError
from al_backend.inference import image_value
from al_backend.jobs import publish, ranking
from al_backend.jobs.client import error_key, pending_key
from al_backend.jobs.context import Context, job_name, job_running
from al_backend.jobs.documents import (
    RANK_REQUEST,
    THROUGHPUT,
    TRAIN_REQUEST,
    now,
    published_model_version,
    read_attempt,
    requested_at,
)
from al_backend.jobs.liveness import ensure_job, in_flight
from al_backend.jobs.queues import QueueName
from al_backend.labelstudio.client import Task
from al_backend.labelstudio.codec import choose_annotation, label_digest
from al_backend.labelstudio.labeling_config import LabelingConfig, parse_labeling_config
from al_backend.registry import Ranking, Version
from al_backend.settings import LearningSettings
from model.acquisition.strategy import RankingContext

logger = logging.getLogger(__name__)

SHARD_SECONDS = 5.0
"""Work in one shard, so that a live `/predict` never waits long behind it."""

_FIRST_SHARD = 16
_LARGEST_SHARD = 512
_SCORE_TIMEOUT = 900
_PUBLISH_TIMEOUT = 6 * 3600


def reconcile(project_id: int, reason: str) -> list[str]:
    """Job: bring a project one step further.

    Returns:
        What was started, for the log.
    """
    with job_running() as here:
        connection = here.queues.connection
        # From here on a new event needs a new look: this one may already have read what the event is about.
        connection.delete(pending_key(project_id))
        with connection.lock(f"al:lock:reconcile:{project_id}", timeout=300, blocking_timeout=300):
            try:
                started = _reconcile(here, project_id)
            except Exception as error:
                connection.set(error_key(project_id), f"{type(error).__name__}: {error}", ex=3600)
                raise
            connection.delete(error_key(project_id))
    if started:
        logger.info("Project %d (%s): %s", project_id, reason, ", ".join(started))
    return started


def _reconcile(here: Context, project_id: int) -> list[str]:
    record = here.project(project_id)
    project = here.label_studio.project(project_id)
    if project.label_config != record.label_config:
        here.registry.register_project(project_id, label_config=project.label_config, overrides=record.overrides)
    try:
        config = parse_labeling_config(project.label_config)
    except LabelConfigError:
        logger.warning("Project %d has a labelling config that cannot be served; nothing is done for it", project_id)
        raise
    if config.skip:
        return []
    settings = here.learning(project_id)
    taken_at = now()
    labels = {
        task.id: label_digest(chosen)
        for task in here.label_studio.labelled_tasks(project_id)
        if (chosen := choose_annotation(task.annotations)) is not None
    }
    pool = here.label_studio.open_tasks(project_id)
    published = published_model_version(here.registry, project_id)
    scored: set[int] = set()
    duplicates: list[int] = []
    stored: dict[str, int] = {}
    for row in sorted(here.label_studio.predictions(project_id), key=lambda row: -row.id):
        stored[row.model_version or ""] = stored.get(row.model_version or "", 0) + 1
        if row.model_version == published:
            if row.task in scored:
                duplicates.append(row.id)
            scored.add(row.task)
    snapshot = cycle.Snapshot(
        classes=config.labels,
        labels=labels,
        pool=tuple(task.id for task in pool),
        model_version=project.model_version or "",
        titles=frozenset(str(backend.get("title")) for backend in here.label_studio.ml_backends(project_id)),
        stored=stored,
        scored=frozenset(scored),
        duplicates=tuple(duplicates),
        taken_at=taken_at,
    )
    state = _state(here, project_id, published)
    return [
        _perform(here, project_id, action, pool, config, settings, snapshot)
        for action in cycle.decide(snapshot, state, settings)
    ]


def trained_on(versions: list[Version]) -> cycle.TrainedOn | None:
    """What the newest version has seen; None before the first training."""
    if not versions:
        return None
    newest = max(versions, key=lambda version: version.number)
    return cycle.TrainedOn(newest.name, newest.labels, newest.snapshot_at)


def _state(here: Context, project_id: int, published: str | None) -> cycle.State:
    registry, queues = here.registry, here.queues
    versions = registry.versions(project_id)
    active = registry.active(project_id)
    train_request = registry.read_document(project_id, TRAIN_REQUEST)
    state = None
    current = ranking.newest_ranking(registry.rankings(project_id), active.version if active else None)
    if current is not None:
        unfinished = set(range(current.shards)) - registry.finished_shards(project_id, current.id)
        state = cycle.RankingState(
            id=current.id,
            created_at=current.created_at,
            missing=tuple(
                index
                for index in sorted(unfinished)
                if not in_flight(queues, QueueName.SCORE, job_name("score", project_id, current.id, index))
            ),
            unfinished=len(unfinished),
            published=current.id == published,
            unranked=_unranked(here, current),
        )
    return cycle.State(
        active=active.version if active else None,
        trained_on=trained_on(versions),
        versions=tuple(version.name for version in versions),
        ranking=state,
        published=published,
        training=in_flight(queues, QueueName.TRAIN, job_name("train", project_id)),
        publishing=in_flight(queues, QueueName.PUBLISH, job_name("publish", project_id)),
        retiring=in_flight(queues, QueueName.PUBLISH, job_name("retire", project_id)),
        scoring_new=in_flight(queues, QueueName.SCORE, job_name("score-new", project_id)),
        train_requested_at=requested_at(train_request),
        train_from_scratch=bool((train_request or {}).get("from_scratch")),
        rank_requested_at=requested_at(registry.read_document(project_id, RANK_REQUEST)),
        attempt=read_attempt(registry, project_id),
    )


def _unranked(here: Context, current: Ranking) -> frozenset[int]:
    if not current.strategy.get("pool_size"):
        return frozenset()
    tasks = here.registry.ranking_tasks(current.project, current.id)
    return frozenset(tasks.filter(pl.col("shard") < 0)["task_id"].to_list())


def _perform(
    here: Context,
    project_id: int,
    action: cycle.Action,
    pool: list[Task],
    config: LabelingConfig,
    settings: LearningSettings,
    snapshot: cycle.Snapshot,
) -> str:
    """Enqueue what an action asks for; the sentence goes to the log."""
    queues = here.queues
    meta = {"project": project_id}
    if isinstance(action, cycle.Train):
        ensure_job(
            queues,
            QueueName.TRAIN,
            job_name("train", project_id),
            "al_backend.jobs.training.train",
            project_id,
            action.from_scratch,
            timeout=here.settings.train_timeout,
            meta=meta | {"kind": "train", "reason": action.reason},
        )
        return f"training ({action.reason})"
    if isinstance(action, cycle.StartRanking):
        created = _create_ranking(here, project_id, action.version, pool, config, settings)
        _enqueue_shards(here, project_id, created.id, range(created.shards))
        return f"ranking {created.id} of {created.tasks} tasks in {created.shards} shards"
    if isinstance(action, cycle.ScoreShards):
        _enqueue_shards(here, project_id, action.ranking, action.shards)
        return f"{len(action.shards)} missing shards of {action.ranking}"
    if isinstance(action, cycle.Publish):
        ensure_job(
            queues,
            QueueName.PUBLISH,
            job_name("publish", project_id),
            publish.publish,
            project_id,
            action.ranking,
            timeout=_PUBLISH_TIMEOUT,
            meta=meta | {"kind": "publish", "ranking": action.ranking},
        )
        return f"publishing {action.ranking}"
    if isinstance(action, cycle.ScoreNew):
        size = _shard_size(here, project_id)
        tasks = [[task.id, image_value(task.data, config)] for task in pool if task.id in set(action.tasks[:size])]
        ensure_job(
            queues,
            QueueName.SCORE,
            job_name("score-new", project_id),
            ranking.score_new,
            project_id,
            action.ranking,
            tasks,
            timeout=_SCORE_TIMEOUT,
            meta=meta | {"kind": "score_new", "ranking": action.ranking, "tasks": len(tasks)},
        )
        return f"scoring {len(tasks)} of {len(action.tasks)} new tasks"
    if isinstance(action, cycle.Repoint):
        here.label_studio.publish_model_version(project_id, action.model_version)
        return f"model version was {snapshot.model_version!r}, set back to {action.model_version}"
    ensure_job(
        queues,
        QueueName.PUBLISH,
        job_name("retire", project_id),
        publish.retire,
        project_id,
        timeout=_PUBLISH_TIMEOUT,
        meta=meta | {"kind": "retire", "model_versions": list(action.model_versions)},
    )
    return f"retiring {', '.join(action.model_versions) or 'duplicates'}"


def _enqueue_shards(here: Context, project_id: int, ranking_id: str, shards: range | tuple[int, ...]) -> None:
    for index in shards:
        ensure_job(
            here.queues,
            QueueName.SCORE,
            job_name("score", project_id, ranking_id, index),
            ranking.score_shard,
            project_id,
            ranking_id,
            index,
            timeout=_SCORE_TIMEOUT,
            meta={"project": project_id, "kind": "score", "ranking": ranking_id, "shard": index},
        )


def _create_ranking(
    here: Context,
    project_id: int,
    version_name: str,
    pool: list[Task],
    config: LabelingConfig,
    settings: LearningSettings,
) -> Ranking:
    version = here.registry.version(project_id, version_name)
    request = here.registry.read_document(project_id, RANK_REQUEST) or {}
    newest = ranking.newest_ranking(here.registry.rankings(project_id), version_name)
    asked_at = requested_at(request or None)
    pending = asked_at is not None and (newest is None or asked_at > newest.created_at)
    if pending and request.get("overrides"):
        settings = settings.overridden(request["overrides"])
    size = _shard_size(here, project_id)
    chosen = ranking.draw_pool([task.id for task in pool], settings.pool_size, settings.seed)
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
    earlier = [item.id for item in here.registry.rankings(project_id)]
    ranking_context = RankingContext(
        classes=version.classes,
        label_counts=tuple(version.label_counts.get(name, 0) for name in version.classes),
        seed=settings.seed,
    )
    name = cycle.published_name(version_name, earlier)
    created = Ranking(
        id=name,
        project=project_id,
        version=version_name,
        model_version=name,
        strategy=ranking.strategy_fields(settings),
        context={
            "classes": list(ranking_context.classes),
            "label_counts": list(ranking_context.label_counts),
            "seed": ranking_context.seed,
        },
        created_at=now(),
        tasks=len(rows),
        shard_size=size,
        shards=-(-len(position) // size),
    )
    here.registry.create_ranking(created, tasks)
    return created


def _shard_size(here: Context, project_id: int) -> int:
    """Images that the last measured throughput gets through in about `SHARD_SECONDS`."""
    measured = here.registry.read_document(project_id, THROUGHPUT)
    if measured is None:
        return _FIRST_SHARD
    return int(min(_LARGEST_SHARD, max(4, round(SHARD_SECONDS * float(measured["images_per_second"])))))
