"""Rows of an order into Label Studio; a task whose boxes it refuses keeps its place without them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import polars as pl

from al_backend import metrics
from al_backend.jobs import telemetry
from al_backend.jobs.context import Context
from al_backend.registry import Ranking

logger = logging.getLogger(__name__)


def import_rows(
    here: Context,
    ranking: Ranking,
    rows: pl.DataFrame,
    *,
    absent: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[int, tuple[int, ...]]:
    """Import predictions of a ranking's model version.

    Args:
        here: of this process.
        ranking: under whose model version.
        rows: task_id, regions (JSON text) and order_score.
        absent: whether the caller has just looked and found none of them stored.
        on_progress: called with the number of rows dealt with so far.

    Returns:
        How many Label Studio has taken, and the tasks for which it takes no prediction at all, or which are gone.
    """
    created, dropped = _import(here, ranking, rows, absent, on_progress)
    if not dropped:
        return created, ()
    logger.warning("Project %d: Label Studio dropped the boxes of tasks %s", ranking.project, list(dropped)[:20])
    # A task must not fall out of the queue because of its boxes: it keeps its place without them.
    bare = rows.filter(pl.col("task_id").is_in(list(dropped))).with_columns(pl.lit(json.dumps([])).alias("regions"))
    again, still = _import(here, ranking, bare, absent, on_progress)
    return created + again, still


def prediction_items(frame: pl.DataFrame, model_version: str) -> list[dict[str, Any]]:
    """The frame's rows as Label Studio's import takes them."""
    return [
        {
            "task": row["task_id"],
            "result": json.loads(row["regions"]),
            "score": row["order_score"],
            "model_version": model_version,
        }
        for row in frame.select("task_id", "regions", "order_score").iter_rows(named=True)
    ]


def _import(
    here: Context, ranking: Ranking, rows: pl.DataFrame, absent: bool, on_progress: Callable[[int], None] | None
) -> tuple[int, tuple[int, ...]]:
    report = here.label_studio.import_predictions(
        ranking.project,
        prediction_items(rows, ranking.model_version),
        chunk=here.settings.publish_chunk,
        pause=here.settings.publish_pause,
        rate=here.settings.publish_rate,
        absent=absent,
        on_progress=on_progress,
    )
    connection = here.queues.connection
    telemetry.add(connection, metrics.PREDICTIONS_WRITTEN, report.created, project=ranking.project)
    telemetry.add(connection, metrics.PREDICTIONS_DROPPED, len(report.dropped), project=ranking.project)
    return report.created, report.dropped
