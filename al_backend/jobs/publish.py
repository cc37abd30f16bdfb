"""Jobs that write into Label Studio: a new order by the measured recipe, and the slow removal of old predictions."""

from __future__ import annotations

import json
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
from al_backend.jobs.ranking import order, prediction_items
from al_backend.registry import Ranking

logger = logging.getLogger(__name__)

RETIRE_SLICE = 50
"""Predictions deleted in one job: about five seconds, so that a reconcile behind it does not wait long."""


def publish(project_id: int, ranking_id: str) -> int:
    """Job: order a measured ranking, import it, and only then make Label Studio serve it.

    May be killed and run again: what was imported before is read back and not imported twice. One that a person
    cancels ends after its chunk; what it has imported is retired as the predictions of former versions are.

    Returns:
        Predictions imported by this run.
    """
    with job_running() as here:
        ranking = here.registry.ranking(project_id, ranking_id)
        complete = order(here, ranking)
        ordered_at = now()
        started = time.monotonic()
        with here.writing(project_id):
            try:
                created = _import(here, ranking, complete)
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
                    "tasks": len(complete),
                    "published_at": now().isoformat(),
                    "rank_seconds": round((ordered_at - ranking.created_at).total_seconds(), 2),
                    "publish_seconds": round(time.monotonic() - started, 2),
                },
            )
        telemetry.add(here.queues.connection, metrics.RANKINGS, project=project_id)
        logger.info("Project %d: Label Studio serves %d tasks by %s", project_id, len(complete), ranking_id)
        look_later(here.queues, project_id, f"{ranking_id} is published")
        return created


def retire(project_id: int) -> int:
    """Job: delete a slice of the predictions that neither the published nor the coming order needs.

    Returns:
        Predictions deleted.
    """
    with job_running() as here, here.writing(project_id):
        doomed = _obsolete(here, project_id)
        deleted = here.label_studio.delete_predictions(doomed[:RETIRE_SLICE])
        telemetry.add(here.queues.connection, metrics.PREDICTIONS_DELETED, deleted, project=project_id)
        look_later(here.queues, project_id, f"{deleted} old predictions are deleted")
        return deleted


class _PublicationCancelled(BackendError):
    """A person cancelled the ranking that is being published."""


def _stop_if_cancelled(here: Context, ranking: Ranking) -> None:
    if is_cancelled(here.registry, ranking, here.registry.active(ranking.project)):
        raise _PublicationCancelled(ranking.id)


def _import(here: Context, ranking: Ranking, complete: pl.DataFrame) -> int:
    """Import what is still open and not there yet, most informative first."""
    project_id = ranking.project
    client = here.label_studio
    open_tasks = {task.id for task in client.open_tasks(project_id)}
    score_of = dict(zip(complete["task_id"], complete["order_score"], strict=True))
    stored = [row for row in client.predictions(project_id) if row.model_version == ranking.model_version]
    # Label Studio may have stored a live answer under this name before there was an order; its score means nothing.
    stray = [row.id for row in stored if row.task in score_of and row.score != score_of[row.task]]
    client.delete_predictions(stray)
    have = {row.task for row in stored} - {row.task for row in stored if row.id in set(stray)}
    todo = complete.filter(pl.col("task_id").is_in(list(open_tasks - have)))

    def look(done: int) -> None:
        report_progress(phase="publish", iteration=done, iterations=len(todo))
        _stop_if_cancelled(here, ranking)

    _stop_if_cancelled(here, ranking)

    def importing(frame: pl.DataFrame) -> tuple[int, tuple[int, ...]]:
        report = client.import_predictions(
            project_id,
            prediction_items(frame, ranking.model_version),
            chunk=here.settings.publish_chunk,
            pause=here.settings.publish_pause,
            on_progress=look,
        )
        connection = here.queues.connection
        telemetry.add(connection, metrics.PREDICTIONS_WRITTEN, report.created, project=project_id)
        telemetry.add(connection, metrics.PREDICTIONS_DROPPED, len(report.dropped), project=project_id)
        return report.created, report.dropped

    created, dropped = importing(todo)
    if dropped:
        logger.warning("Project %d: Label Studio dropped the boxes of tasks %s", project_id, list(dropped)[:20])
        # A task must not fall out of the queue because of its boxes: it keeps its place without them.
        bare = todo.filter(pl.col("task_id").is_in(list(dropped))).with_columns(pl.lit(json.dumps([])).alias("regions"))
        again, still = importing(bare)
        created += again
        if still:
            logger.error("Project %d: Label Studio takes no prediction for tasks %s", project_id, list(still)[:20])
    return created


def _obsolete(here: Context, project_id: int) -> list[int]:
    """Ids of our predictions of former model versions, then of superseded duplicates, oldest first."""
    registry = here.registry
    ours = {version.name for version in registry.versions(project_id)} | {UNTRAINED}
    published = published_model_version(registry, project_id)
    if published is None:
        return []
    coming = current_ranking(registry, project_id).ranking
    kept = None if coming is None else coming.id
    newest: set[int] = set()
    doomed: list[int] = []
    for row in sorted(here.label_studio.predictions(project_id), key=lambda row: -row.id):
        name = row.model_version or ""
        if name == published:
            if row.task in newest:
                doomed.append(row.id)
            newest.add(row.task)
        elif version_of(name) in ours and name != kept:
            doomed.append(row.id)
    return sorted(doomed)
