"""Jobs that measure the pool, and the order that comes out of the measurements."""

from __future__ import annotations

import logging
import time

import polars as pl

from al_backend import metrics
from al_backend.errors import BackendError
from al_backend.jobs import measuring, telemetry
from al_backend.jobs.candidates import readable_and_labelled
from al_backend.jobs.client import enqueue_reconcile, look_later
from al_backend.jobs.context import Context, job_name, job_running
from al_backend.jobs.current import is_cancelled
from al_backend.jobs.current import newest_ranking as newest_ranking
from al_backend.jobs.documents import THROUGHPUT, published_model_version
from al_backend.jobs.importing import import_rows
from al_backend.jobs.measuring import Measured, measure_carefully
from al_backend.jobs.patience import Postponed, may_try_again
from al_backend.jobs.queue_head import pool_summary, queue_head
from al_backend.jobs.ranking_memory import Placement
from al_backend.jobs.sizes import WINDOW
from al_backend.jobs.strategies import strategy_of
from al_backend.registry import Phase, Ranking
from model.acquisition.order import order_scores, place

logger = logging.getLogger(__name__)

_IDS = 2**20  # task ids that a score tells apart
_SOME_LOST = 4  # images of a shard; fewer say nothing about their server


def score_shard(project_id: int, ranking_id: str, index: int, closer: bool = False) -> int:
    """Job: measure one shard of a ranking, unless somebody did.

    Args:
        project_id: the project.
        ranking_id: the ranking.
        index: of the shard.
        closer: whether it is one of the second phase.

    Returns:
        Images measured.
    """
    with job_running() as here:
        registry = here.registry
        phase = Phase.CLOSER if closer else Phase.POOL
        if registry.has_shard(project_id, ranking_id, index, phase):
            return 0
        ranking = registry.ranking(project_id, ranking_id)
        active = registry.active(project_id)
        if active is None or active.version != ranking.version:
            return 0  # a newer version took over; its own ranking measures the pool
        if is_cancelled(registry, ranking, active):
            return 0
        read = registry.closer_tasks if closer else registry.ranking_tasks
        everything = here.rankings.tasks(ranking, phase, lambda: read(project_id, ranking_id))
        if everything is None:
            return 0  # the ranking was removed and made again
        tasks = everything.filter(pl.col("shard") == index)
        items = list(zip(tasks["task_id"].to_list(), tasks["image"].to_list(), strict=True))
        started = time.monotonic()
        work = job_name("shard", project_id, ranking_id, phase.value, index)
        measured = measure_carefully(here, ranking, items, closer=closer, work=work)
        frame, postponed = measured.frame, _may_pass(measured)
        if postponed and may_try_again(here.queues.connection, work):
            raise Postponed(f"{_some_images(postponed)} The shard is measured again at the next look.")
        if closer:
            frame = frame.with_columns(tasks["labelled"])
        registry.write_shard(project_id, ranking_id, index, frame, phase)
        _count(here, project_id, len(items), time.monotonic() - started)
        if not closer:  # a closer look takes longer, and would make the pool's shards small
            _note_throughput(here, project_id, len(items), time.monotonic() - started)
        shards = everything["shard"].n_unique() if closer else ranking.shards
        if asks_for_more(index, shards):
            enqueue_reconcile(here.queues, project_id, f"{ranking_id} has room in the queue")
        elif index >= shards - WINDOW and len(registry.finished_shards(project_id, ranking_id, phase)) >= shards:
            enqueue_reconcile(here.queues, project_id, f"{ranking_id} is measured")
        return len(items)


def asks_for_more(index: int, shards: int) -> bool:
    """Whether a shard that is finished is one of those at which the next ones should be enqueued."""
    return index % (WINDOW // 2) == WINDOW // 2 - 1 and index < shards - WINDOW // 2


def score_new(project_id: int, ranking_id: str, items: list[tuple[int, str | None]]) -> int:
    """Job: measure tasks that arrived after a ranking, place them in its order and publish them.

    Returns:
        Predictions that Label Studio took.
    """
    with job_running() as here, here.writing(project_id):
        ranking = here.registry.ranking(project_id, ranking_id)
        if published_model_version(here.registry, project_id) != ranking.model_version or not items:
            return 0
        ids = [task for task, _ in items]
        work = job_name("late", project_id, ranking_id, ids[0])
        have = here.label_studio.tasks_with_version(project_id, ranking.model_version, first=min(ids), last=max(ids))
        items = [(task, value) for task, value in items if task not in have]
        if not items:
            return 0
        started = time.monotonic()
        found = measure_carefully(here, ranking, items, closer=True, work=work)
        _count(here, project_id, len(items), time.monotonic() - started)
        later = [
            task
            for task in found.postponed
            if may_try_again(here.queues.connection, job_name("late", project_id, ranking_id, task))
        ]
        frame = place_measured(here, ranking, found.frame.filter(~pl.col("task_id").is_in(later)))
        if not frame.height:
            return 0
        # Kept beside the ranking's shards, under an index of its own, so that `status` knows the reasons of failures.
        index = ranking.shards + int(frame["task_id"][0])
        here.registry.write_shard(project_id, ranking_id, index, _as_in_pool(ranking, frame))
        created, refused = import_rows(here, ranking, frame)
        if refused and not created:
            there = here.label_studio.task_ids(project_id, first=min(refused), last=max(refused))
            left = sorted(there.intersection(refused))
            if left:  # without an error every look would measure them again
                raise BackendError(f"Label Studio takes no prediction for the tasks {left[:20]}.")
        if created:
            look_later(here.queues, project_id, f"{created} new tasks are placed")
        return created


def measure_live(here: Context, ranking: Ranking, items: list[tuple[int, str | None]]) -> pl.DataFrame:
    """Measurements and order scores of tasks that Label Studio asks for one by one."""
    return place_measured(here, ranking, measuring.measure_live(here, ranking, items))


def order(here: Context, ranking: Ranking) -> pl.DataFrame:
    """The complete order of a measured ranking: made once, then read.

    Returns:
        One row per task, first to label first: task_id, informativeness (null where the image could not be read),
        rank from 0, order_score, regions (JSON text), error (null where there was none).
    """
    stored = here.registry.read_order(ranking.project, ranking.id)
    if stored is not None:
        return stored
    measured = here.registry.read_shards(ranking.project, ranking.id)
    strategy, context = strategy_of(ranking)
    readable, labelled = readable_and_labelled(here, ranking, measured)
    ranking_of_readable = strategy.rank(readable, context, labelled)
    ranked = ranking_of_readable.table.select("task_id", "informativeness", "regions", "error")
    unreadable = (
        measured.filter(pl.col("error").is_not_null())
        .sort("task_id")
        .select("task_id", pl.lit(None, pl.Float64).alias("informativeness"), "regions", "error")
    )
    complete = pl.concat([ranked, unreadable])
    complete = complete.with_row_index("rank").with_columns(
        pl.col("rank").cast(pl.Int64), pl.Series("order_score", order_scores(len(complete)))
    )
    # Before the order: whoever finds that finds this, too.
    head = queue_head(here.registry, ranking, complete, measured)
    here.registry.write_head(ranking.project, ranking.id, head, pool_summary(complete))
    here.registry.write_order(ranking.project, ranking.id, complete, ranking_of_readable.fitted)
    return complete


def place_measured(here: Context, ranking: Ranking, measured: pl.DataFrame) -> pl.DataFrame:
    """Order scores for tasks that are not in a ranking, by the distribution of those that are.

    A task that is in it keeps the score that it has there. One that cannot be read goes behind all others, by task id;
    one that can be read goes before those that cannot.
    """
    strategy, context = strategy_of(ranking)
    known = here.rankings.placement(ranking, lambda: placement_of(here, ranking))
    readable = measured.filter(pl.col("error").is_null())
    new = dict(zip(readable["task_id"], strategy.informativeness(readable, context, known.fitted), strict=True))
    # Places of readable ones are looked up as if the readable ones ended at 1.
    readable_scores = known.readable_scores / known.end
    behind = max(known.last, known.end)

    def score(task: int) -> float:
        own = known.score_of(task)
        if own is not None:
            return own
        if task in new:
            return place(float(new[task]), task, known.values, readable_scores) * known.end
        return behind + (1.0 - behind) * (task % _IDS + 0.5) / _IDS

    return measured.with_columns(pl.Series("order_score", [score(task) for task in measured["task_id"]], pl.Float64))


def placement_of(here: Context, ranking: Ranking) -> Placement:
    """The finished order as far as placing further tasks needs it, read anew; `Context.rankings` keeps it."""
    columns = ("task_id", "informativeness", "order_score")
    stored = here.registry.read_order(ranking.project, ranking.id, columns)
    known = order(here, ranking).select(columns) if stored is None else stored
    return Placement.of(known, here.registry.read_fitted(ranking.project, ranking.id))


def _as_in_pool(ranking: Ranking, placed: pl.DataFrame) -> pl.DataFrame:
    """Late tasks with the columns that the pool's shards have, so that they can be read together."""
    strategy, context = strategy_of(ranking)
    return placed.drop("order_score", *strategy.candidate_columns(context))


def _may_pass(measured: Measured) -> dict[int, str]:
    """The reasons that may be others in a moment, by task.

    A single image that its server does not have is gone. Where most of a shard are, the disk of the server may be.
    """
    if len(measured.lost) < max(_SOME_LOST, measured.frame.height // 2 + 1):
        return measured.postponed
    gone = measured.frame.filter(pl.col("task_id").is_in(measured.lost)).select("task_id", "error")
    return measured.postponed | dict(gone.iter_rows())


def _some_images(postponed: dict[int, str]) -> str:
    task, reason = next(iter(postponed.items()))
    return f"{len(postponed)} images cannot be had at present, the first is that of task {task}: {reason}"


def _count(here: Context, project_id: int, images: int, seconds: float) -> None:
    telemetry.add(here.queues.connection, metrics.IMAGES_SCORED, images, project=project_id)
    telemetry.add(here.queues.connection, metrics.SCORING_SECONDS, seconds, project=project_id)


def _note_throughput(here: Context, project_id: int, images: int, seconds: float) -> None:
    """Remember how fast shards go, smoothed, so that the next ranking cuts them to the right size."""
    if not images or seconds <= 0:
        return
    last = here.registry.read_document(project_id, THROUGHPUT)
    speed = images / seconds if last is None else 0.7 * float(last["images_per_second"]) + 0.3 * images / seconds
    here.registry.write_document(project_id, THROUGHPUT, {"images_per_second": round(speed, 3)})
