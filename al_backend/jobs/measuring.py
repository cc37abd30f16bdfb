"""Measurements of images by a ranking's strategy; where a shard fails again and again, of one image at a time."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import polars as pl
from rq.timeouts import BaseTimeoutException

from al_backend import logs
from al_backend.inference import Outcome
from al_backend.jobs.context import INTERLUDE, Context, tries_so_far
from al_backend.jobs.strategies import strategy_of
from al_backend.labelstudio.codec import to_regions
from al_backend.labelstudio.labeling_config import LabelingConfig
from al_backend.registry import Ranking
from model.acquisition.strategy import RankingContext, Strategy
from model.detectors.base import View

logger = logging.getLogger(__name__)

Items = Sequence[tuple[int, str | None]]

FAILED_TOGETHER = 3
"""Tries of many images at once that have to fail before each is measured alone."""

_FAILED_ALONE = 3
"""Tries, each image alone, after which an error that all of them bring is taken for theirs and not for ours."""
_TIME_ALONE = 600.0  # seconds, of the 900 that a job of this kind has
_SLOW = 60.0  # seconds of a single image, after which it is to blame when the time of the job is over
_LOOK_EVERY = 0.1  # seconds between two looks at who waits, if no batch takes longer
_KEPT = 86_400

LEFT_OUT = (
    "Measuring this image alone ended its worker, or took all the time there is, after {tries} tries together with "
    "others had failed; so it is left out. Is the file damaged, or too large for the memory?"
)


@dataclass
class Measured:
    """What became of some images.

    Attributes:
        frame: one row per task (task_id, the strategy's measurements, regions as JSON text, error).
        postponed: reasons that pass by themselves, by task.
        lost: tasks whose server says that it has no image: for good, or because its disk is away.
    """

    frame: pl.DataFrame
    postponed: dict[int, str] = field(default_factory=dict)
    lost: list[int] = field(default_factory=list)


def measure(here: Context, ranking: Ranking, items: Items, *, closer: bool) -> Measured:
    """Measure all images together, with a look at who waits for an answer between two batches.

    Args:
        here: of this process.
        ranking: whose strategy measures.
        items: task id and image value.
        closer: whether to measure what both phases do, or the first alone.
    """
    return _together(here, ranking, items, closer, INTERLUDE.get())


def measure_live(here: Context, ranking: Ranking, items: Items) -> pl.DataFrame:
    """The rows of images that somebody waits for."""
    return _together(here, ranking, items, True, None).frame


def measure_carefully(here: Context, ranking: Ranking, items: Items, *, closer: bool, work: str) -> Measured:
    """As `measure`, but where the present job has failed too often, each image alone, to find the one that is to blame.

    That one gets a row with an error, and the others are measured.

    Args:
        here: of this process.
        ranking: whose strategy measures.
        items: task id and image value.
        closer: as for `measure`.
        work: identity of the work, the same in every try.
    """
    failed = tries_so_far().failed
    if failed < FAILED_TOGETHER:
        return measure(here, ranking, items, closer=closer)
    logger.warning("%d tries failed, so each of %d images is measured alone", failed, len(items))
    return _Alone(here, ranking, closer, work, failed).measure(items)


class _Alone:
    """Remembers in Redis which image is in work, for whoever comes after a kill."""

    def __init__(self, here: Context, ranking: Ranking, closer: bool, work: str, failed: int) -> None:
        self._here, self._ranking, self._closer, self._failed = here, ranking, closer, failed
        self._redis = here.queues.connection
        self._in_work, self._culprits = f"al:measuring:{work}", f"al:culprits:{work}"

    def measure(self, items: Items) -> Measured:
        last = cast("bytes | None", self._redis.get(self._in_work))
        if last is not None:
            logger.error("Measuring the image of task %s alone ended its worker", last.decode())
            self._redis.sadd(self._culprits, last)
            self._redis.expire(self._culprits, _KEPT)
        culprits = {int(task) for task in cast("set[bytes]", self._redis.smembers(self._culprits))}
        errors: list[Exception] = []
        parts: list[Measured] = []
        interlude = INTERLUDE.get()
        deadline = time.monotonic() + _TIME_ALONE
        for task, value in items:
            if task in culprits:
                parts.append(self._without(task, LEFT_OUT.format(tries=self._failed)))
            elif time.monotonic() > deadline:
                parts.append(self._without(task, "There was no time left to measure this image; see AL_IMAGE_SIZE."))
            else:
                try:
                    parts.append(self._one(task, value))
                except BaseTimeoutException:
                    raise
                except Exception as error:
                    with logs.bound(task=task):
                        logger.exception("Its image cannot be measured")
                    errors.append(error)
                    parts.append(self._without(task, f"It cannot be measured: {type(error).__name__}: {error}."))
                if interlude is not None:
                    interlude()
        if len(errors) == len(items) > 1 and self._failed < FAILED_TOGETHER + _FAILED_ALONE:
            raise errors[-1]  # what befalls every image is no image's fault
        return Measured(
            pl.concat([part.frame for part in parts]),
            {task: reason for part in parts for task, reason in part.postponed.items()},
            [task for part in parts for task in part.lost],
        )

    def _one(self, task: int, value: str | None) -> Measured:
        started = time.monotonic()
        self._redis.set(self._in_work, task, ex=_KEPT)
        try:
            found = _together(self._here, self._ranking, [(task, value)], self._closer, None)
        except BaseTimeoutException:
            if time.monotonic() - started < _SLOW:
                self._redis.delete(self._in_work)  # the time was spent on others
            raise
        except Exception:
            self._redis.delete(self._in_work)
            raise
        self._redis.delete(self._in_work)
        return found

    def _without(self, task: int, reason: str) -> Measured:
        return Measured(_frame([_unmeasured(task, reason)], self._ranking, self._closer))


def _together(
    here: Context, ranking: Ranking, items: Items, closer: bool, interlude: Callable[[], None] | None
) -> Measured:
    strategy, context = strategy_of(ranking)
    config = here.labeling_config(ranking.project)
    least = min(_thresholds(ranking, config))
    rows: list[dict[str, Any]] = []
    postponed: dict[int, str] = {}
    lost: list[int] = []
    next_look = time.monotonic() + _LOOK_EVERY
    for outcome in here.inference.detect(
        ranking.project, ranking.version, items, views=_views(strategy, closer), min_score=least
    ):
        rows.append(_row(outcome, strategy, context, config, ranking, closer))
        if outcome.passing:
            postponed[outcome.task_id] = str(outcome.error)
        if outcome.lost:
            lost.append(outcome.task_id)
        if interlude is not None and time.monotonic() >= next_look:
            interlude()
            next_look = time.monotonic() + _LOOK_EVERY
    return Measured(_frame(rows, ranking, closer), postponed, lost)


def _frame(rows: list[dict[str, Any]], ranking: Ranking, closer: bool) -> pl.DataFrame:
    strategy, context = strategy_of(ranking)
    measured = strategy.columns(context) | (strategy.candidate_columns(context) if closer else {})
    schema: dict[str, Any] = {"task_id": pl.Int64, **measured, "regions": pl.String, "error": pl.String}
    return pl.DataFrame(rows, schema=schema)


def _views(strategy: Strategy, closer: bool) -> tuple[View, ...]:
    """The views that a strategy asks for, and the original always: pre-annotations are made of it."""
    wanted = {*strategy.views, *(strategy.candidate_views if closer else ())}
    return (View.ORIGINAL, *sorted(wanted - {View.ORIGINAL}))


def _thresholds(ranking: Ranking, config: LabelingConfig) -> tuple[float, float]:
    """Least confidence of a box that the strategy sees, and of one that is pre-annotated."""
    measured: float = ranking.strategy["measure_threshold"]
    shown = config.shown_from(ranking.strategy["score_threshold"])
    # Strategies see nothing where the detector knows none of the labels; what it says then is nothing for people, too.
    return measured, shown if measured < 1 else 1.0


def _row(
    outcome: Outcome,
    strategy: Strategy,
    context: RankingContext,
    config: LabelingConfig,
    ranking: Ranking,
    closer: bool,
) -> dict[str, Any]:
    if outcome.detections is None:
        with logs.bound(task=outcome.task_id):
            logger.info("An image goes to the end of the queue: %s", outcome.error)
        return _unmeasured(outcome.task_id, outcome.error or "The image could not be read.")
    measured_from, shown_from = _thresholds(ranking, config)
    overlap = ranking.strategy.get("box_overlap", 1.0)  # rankings of older releases kept every box
    found = outcome.detections[View.ORIGINAL]
    regions = to_regions(found, context.classes, config, threshold=shown_from, overlap=overlap)
    # Not below, rather than above: what is no number is refused by the strategy, in words of its own.
    seen = {view: boxes.select(~(boxes.score < measured_from)) for view, boxes in outcome.detections.items()}
    measured = strategy.measure(outcome.task_id, seen, context)
    if closer:
        measured |= strategy.measure_candidate(outcome.task_id, seen, context)
    return {"task_id": outcome.task_id, **measured, "regions": json.dumps(regions), "error": None}


def _unmeasured(task: int, reason: str) -> dict[str, Any]:
    return {"task_id": task, "regions": "[]", "error": reason}
