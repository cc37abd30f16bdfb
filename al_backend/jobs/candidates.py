"""The second phase of a ranking: a closer look at a few images of the pool, and a look at those that are labelled."""

from __future__ import annotations

import polars as pl

from al_backend.inference import image_value
from al_backend.jobs.client import enqueue_reconcile
from al_backend.jobs.context import Context, job_running
from al_backend.jobs.current import is_cancelled
from al_backend.jobs.doubt import require_readable
from al_backend.jobs.strategies import strategy_of
from al_backend.registry import Phase, Ranking
from model.acquisition.hashing import uniform
from model.acquisition.strategy import with_candidates

MOST_LABELLED = 2000
"""Labelled images that a ranking compares with, drawn at random where there are more: each costs a prediction."""


def choose(project_id: int, ranking_id: str) -> int:
    """Job: once the pool is measured, list what the second phase has to look at, unless somebody did.

    Returns:
        Images listed.
    """
    with job_running() as here:
        registry = here.registry
        if registry.closer_tasks(project_id, ranking_id) is not None:
            return 0
        ranking = registry.ranking(project_id, ranking_id)
        active = registry.active(project_id)
        if active is None or active.version != ranking.version:
            return 0  # a newer version took over; its own ranking will choose
        if is_cancelled(registry, ranking, active):
            return 0
        require_readable(here, ranking)
        listed = _listed(here, ranking)
        registry.write_closer_tasks(project_id, ranking_id, listed)
        enqueue_reconcile(here.queues, project_id, f"{ranking_id} has {listed.height} images for a closer look")
        return listed.height


def readable_and_labelled(
    here: Context, ranking: Ranking, measured: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    """What `Strategy.rank` needs: the pool's readable images with both phases' measurements, and the labelled ones.

    Args:
        here: of this process.
        ranking: of which both phases are finished.
        measured: the pool's rows of the first phase.
    """
    strategy, context = strategy_of(ranking)
    readable = measured.filter(pl.col("error").is_null())
    closer = here.registry.read_shards(ranking.project, ranking.id, Phase.CLOSER)
    names = list(strategy.candidate_columns(context))
    if not closer.height:
        nothing = pl.DataFrame(schema={"task_id": pl.Int64, **strategy.candidate_columns(context)})
        return with_candidates(readable, nothing), None
    seen = closer.filter(pl.col("error").is_null())
    labelled = seen.filter(pl.col("labelled")).select("task_id", *strategy.columns(context), *names)
    candidates = seen.filter(~pl.col("labelled")).select("task_id", *names)
    return with_candidates(readable, candidates), labelled if labelled.height else None


def _listed(here: Context, ranking: Ranking) -> pl.DataFrame:
    """One row per image: task_id, image, labelled, shard."""
    strategy, context = strategy_of(ranking)
    measured = here.registry.read_shards(ranking.project, ranking.id).filter(pl.col("error").is_null())
    chosen = strategy.candidates(measured, context)
    schema = {"task_id": pl.Int64, "image": pl.String, "labelled": pl.Boolean}
    tasks = here.registry.ranking_tasks(ranking.project, ranking.id).filter(pl.col("task_id").is_in(chosen))
    rows = [(task, image, False) for task, image in tasks.sort("task_id").select("task_id", "image").iter_rows()]
    if strategy.uses_labelled:
        config = here.labeling_config(ranking.project)
        known = {task.id: task.data for task in here.label_studio.labelled_tasks(ranking.project)}
        ids = sorted(known)
        draws = uniform(ids, context.seed)
        kept = sorted(ids[position] for position in draws.argsort(kind="stable")[:MOST_LABELLED])
        rows += [(task, image_value(known[task], config), True) for task in kept]
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    return frame.with_columns((pl.int_range(pl.len()) // max(1, ranking.shard_size)).alias("shard"))
