"""An order of images that could not be read must not replace a good one: their storage may be back in a while."""

from __future__ import annotations

import logging
import time

import polars as pl

from al_backend.jobs.context import Context, job_name
from al_backend.jobs.documents import published_model_version
from al_backend.jobs.patience import Postponed
from al_backend.jobs.tries import Tries, tries_begun, wait_until
from al_backend.registry import Ranking

logger = logging.getLogger(__name__)

WAITS = (60.0, 120.0, 300.0, 600.0, 900.0)
"""Seconds before the shards in doubt are measured again, the first time, the second, ...; half an hour in all."""


def require_readable(here: Context, ranking: Ranking) -> None:
    """Put a measured ranking off when most of its images could not be read, and those of the order served now could.

    The shards that failed are measured again after a while. Once that was done as often as `WAITS` says, what there is
    has to do.

    Raises:
        Postponed: says how many, why, and when they are measured again.
    """
    registry, project_id = here.registry, ranking.project
    served = published_model_version(registry, project_id)
    summary = None if served is None else registry.read_summary(project_id, served)
    if summary is None or summary["unreadable"]["count"] > summary["images"]:
        return  # nothing is lost with it
    measured = registry.read_shards(project_id, ranking.id)
    broken = _broken(measured)
    if broken.height <= measured.height // 2:
        return
    # Images of tasks that were deleted meanwhile are gone with them, which says nothing about the others.
    measured = measured.filter(pl.col("task_id").is_in(list(here.label_studio.open_task_ids(project_id))))
    broken = _broken(measured)
    if broken.height <= measured.height // 2:
        return
    connection, work = here.queues.connection, job_name("doubt", project_id, ranking.id)
    count = tries_begun(connection, project_id, work).count
    first = f"{broken['task_id'][0]}: {broken['error'][0]}"
    found = (
        f"{broken.height} of {measured.height} images of {ranking.id} could not be read, the first is of task {first}"
    )
    if count >= len(WAITS):
        logger.error(
            "Project %d: %s. That was tried %d times, so it is published all the same.", project_id, found, count
        )
        return
    due = time.time() + WAITS[count]
    shards = registry.ranking_tasks(project_id, ranking.id).select("task_id", "shard")
    doubtful = broken.join(shards, on="task_id")["shard"].unique().sort().to_list()
    wait_until(connection, project_id, work, due, Tries("", count=count + 1, ranking=ranking.id))
    for index in doubtful:
        shard = Tries(f"Shard {index} of {ranking.id}", ranking=ranking.id)
        wait_until(connection, project_id, job_name("score", project_id, ranking.id, index), due, shard)
    registry.delete_shards(project_id, ranking.id, doubtful)
    raise Postponed(
        f"{found} The order that is served now is better and stays; they are measured again in {WAITS[count]:.0f} s."
    )


def _broken(measured: pl.DataFrame) -> pl.DataFrame:
    return measured.filter(pl.col("error").is_not_null()).sort("task_id") if measured.height else measured
