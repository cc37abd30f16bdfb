"""Jobs that write into Label Studio: a new order by the measured recipe, and the slow removal of old predictions."""

from __future__ import annotations

import logging
import time

import polars as pl

from al_backend import metrics
from al_backend.cycle import UNTRAINED, version_of
from al_backend.errors import BackendError
from al_backend.jobs import telemetry
from al_backend.jobs.client import look_later
from al_backend.jobs.context import Context, job_running, report_progress
from al_backend.jobs.current import current_ranking, is_cancelled
from al_backend.jobs.documents import PUBLISHED, now, published_model_version
from al_backend.jobs.doubt import require_readable
from al_backend.jobs.importing import import_rows
from al_backend.jobs.pool_memory import superseded
from al_backend.jobs.ranking import order, placement_of
from al_backend.jobs.sizes import BLOCK, RETIRE_SLICE
from al_backend.registry import Ranking

logger = logging.getLogger(__name__)


def publish(project_id: int, ranking_id: str) -> int:
    """Job: order a measured ranking, import it, and only then make Label Studio serve it.

    One of which no task is open any more is removed instead, so that the present pool is ranked. One whose images could
    not be read is put off, see `doubt.py`. May be killed and run again: what was imported before is read back and not
    imported twice. One that a person cancels ends after its chunk; what it has imported is retired as the predictions
    of former versions are.

    Returns:
        Predictions imported by this run.
    """
    with job_running() as here:
        ranking = here.registry.ranking(project_id, ranking_id)
        if _is_of_the_past(here, ranking):
            logger.info(
                "Project %d: no task of %s is open any more; the present ones are ranked", project_id, ranking_id
            )
            here.registry.delete_ranking(project_id, ranking_id)
            look_later(here.queues, project_id, f"{ranking_id} is of the past")
            return 0
        if here.registry.read_order(project_id, ranking_id, ("task_id",)) is None and (
            here.registry.closer_tasks(project_id, ranking_id) is None
        ):
            require_readable(here, ranking)  # else that was asked before the closer look
        tasks = order(here, ranking).height
        ordered_at = now()
        started = time.monotonic()
        with here.writing(project_id):
            try:
                created = _import(here, ranking)
                _stop_if_cancelled(here, ranking)
            except _PublicationCancelled:
                logger.info("Project %d: publishing %s was cancelled by hand", project_id, ranking_id)
                look_later(here.queues, project_id, f"{ranking_id} is cancelled")
                return 0
            counts = here.label_studio.model_versions(project_id)
            if counts.get(ranking.model_version, 0) == 0:
                logger.info("Project %d: no open task is left to publish %s for", project_id, ranking_id)
                return 0
            here.label_studio.publish_model_version(project_id, ranking.model_version)
            here.label_studio.ensure_queue_tab(project_id)
            here.registry.write_document(
                project_id,
                PUBLISHED,
                {
                    "ranking": ranking.id,
                    "version": ranking.version,
                    "model_version": ranking.model_version,
                    "tasks": tasks,
                    "published_at": now().isoformat(),
                    "rank_seconds": round((ordered_at - ranking.created_at).total_seconds(), 2),
                    "publish_seconds": round(time.monotonic() - started, 2),
                },
            )
        telemetry.add(here.queues.connection, metrics.RANKINGS, project=project_id)
        logger.info("Project %d: Label Studio serves %d tasks by %s", project_id, tasks, ranking_id)
        look_later(here.queues, project_id, f"{ranking_id} is published")
        return created


def retire(project_id: int) -> int:
    """Job: delete a slice of the predictions that neither the published nor the coming order needs.

    Returns:
        Predictions deleted.
    """
    with job_running() as here, here.writing(project_id):
        deleted = here.label_studio.delete_predictions(_obsolete(here, project_id, RETIRE_SLICE))
        telemetry.add(here.queues.connection, metrics.PREDICTIONS_DELETED, deleted, project=project_id)
        look_later(here.queues, project_id, f"{deleted} old predictions are deleted")
        return deleted


def _is_of_the_past(here: Context, ranking: Ranking) -> bool:
    """Whether all tasks of a ranking are labelled or deleted, and others wait."""
    if published_model_version(here.registry, ranking.project) == ranking.model_version:
        return False
    open_tasks = here.label_studio.open_task_ids(ranking.project)
    listed = here.registry.ranking_tasks(ranking.project, ranking.id)
    return bool(open_tasks) and open_tasks.isdisjoint(listed.filter(pl.col("shard") >= 0)["task_id"].to_list())


class _PublicationCancelled(BackendError):
    """A person cancelled the ranking that is being published."""


def _stop_if_cancelled(here: Context, ranking: Ranking) -> None:
    if is_cancelled(here.registry, ranking, here.registry.active(ranking.project)):
        raise _PublicationCancelled(ranking.id)


def _import(here: Context, ranking: Ranking) -> int:
    """Import what is still open and not there yet, most informative first, a block of the order at a time."""
    _stop_if_cancelled(here, ranking)
    project_id = ranking.project
    client = here.label_studio
    open_tasks = client.open_task_ids(project_id)
    missing = open_tasks - _stored(here, ranking)
    created = done = 0
    for block in here.registry.order_blocks(project_id, ranking.id, BLOCK):
        todo = block.filter(pl.col("task_id").is_in(list(missing)))

        def look(count: int, before: int = done) -> None:
            report_progress(phase="publish", iteration=before + count, iterations=len(missing))
            _stop_if_cancelled(here, ranking)

        some, still = import_rows(here, ranking, todo, absent=True, on_progress=look)
        if still:
            logger.error("Project %d: Label Studio takes no prediction for tasks %s", project_id, list(still)[:20])
        created += some
        done += len(todo)
    return created


def _stored(here: Context, ranking: Ranking) -> set[int]:
    """Tasks that hold a prediction of the ranking already, after those were deleted that do not belong there."""
    project_id, client = ranking.project, here.label_studio
    if not client.model_versions(project_id).get(ranking.model_version):
        return set()
    have: set[int] = set()
    stray: list[int] = []
    placement = here.rankings.placement(ranking, lambda: placement_of(here, ranking))
    for rows in client.predictions_of(project_id, ranking.model_version):
        for row in rows:
            if row.model_version != ranking.model_version:
                continue
            # Label Studio may have stored a live answer under this name before there was an order; its score means
            # nothing.
            if placement.score_of(row.task) in (None, row.score):
                have.add(row.task)
            else:
                stray.append(row.id)
    client.delete_predictions(stray)
    return have


def _obsolete(here: Context, project_id: int, limit: int) -> list[int]:
    """Ids of our predictions of former model versions, then of superseded duplicates, no more than a slice of them.

    Which these are is read anew for each slice, but never more of it than the slice needs.
    """
    registry, client = here.registry, here.label_studio
    ours = {version.name for version in registry.all_versions(project_id)} | {UNTRAINED}
    published = published_model_version(registry, project_id)
    if published is None:
        return []
    coming = current_ranking(registry, project_id).ranking
    kept = {published, None if coming is None else coming.id}
    stored = client.model_versions(project_id)
    doomed: list[int] = []
    for name in sorted(stored):
        if version_of(name) not in ours or name in kept or not stored[name]:
            continue
        for rows in client.predictions_of(project_id, name):
            doomed += [row.id for row in rows if row.model_version == name]
            if len(doomed) >= limit:
                return doomed[:limit]
    return (doomed + superseded(client, project_id, published, stored.get(published, 0), limit))[:limit]
