"""One query: a strategy looks at the pool through a detector and says which images are labelled next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import polars as pl

from model.acquisition.base import Measurement
from model.acquisition.random_sampling import draw_pool
from model.acquisition.strategy import (
    INFORMATIVENESS,
    RankingContext,
    Strategy,
    measurement_table,
    with_candidates,
)
from model.data.dataset import DetectionDataset
from model.detections import Detections
from model.detectors.base import Detector, View
from model.detectors.files import predict_files
from model.training.evaluation import FoundBoxes, score

Views = Mapping[View, Detections]


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a strategy chose.

    Attributes:
        tasks: positions in the pool, first to label first.
        informativeness: one per task; None where the image could not be read, so that it came last.
        unreadable: images that could not be read, one sentence each.
    """

    tasks: tuple[int, ...]
    informativeness: tuple[float | None, ...]
    unreadable: tuple[str, ...] = ()


def choose(
    strategy: Strategy,
    detector: Detector,
    pool: DetectionDataset,
    labelled: Sequence[int],
    *,
    budget: int,
    seed: int,
    min_score: float,
    pool_size: int = 0,
) -> Chosen:
    """Let a strategy choose among the images that are not labelled yet.

    It sees detections of the unlabelled images, and of the labelled ones also what is true of them: the class counts
    and how well the detector knows each class there (average precision at IoU 0.5, only where labelled images are
    measured anyway).

    Args:
        strategy: of the product.
        detector: trained on the labelled images.
        pool: all images, also the labelled ones; a task's id is its position.
        labelled: positions of the labelled ones.
        budget: images to choose; fewer are left at the end of a pool.
        seed: of what the strategy draws.
        min_score: least confidence of a box that it sees.
        pool_size: as `Plan.pool_size`.
    """
    known = set(labelled)
    tasks = draw_pool([task for task in range(len(pool)) if task not in known], pool_size, seed)
    if not tasks:
        return Chosen((), ())
    look = _Look(detector, pool, min_score)
    context = RankingContext(
        classes=tuple(detector.classes),
        label_counts=_label_counts(detector.classes, pool, labelled),
        seed=seed,
        budget=budget,
    )
    reference: pl.DataFrame | None = None
    if strategy.uses_labelled:
        context, reference = _labelled_side(strategy, look, pool, labelled, context)
    measured = dict(look.each(tasks, strategy.views, lambda task, views: strategy.measure(task, views, context)))
    table = measurement_table(measured, strategy.columns(context))
    if strategy.candidate_views:
        candidates = strategy.candidates(table, context)
        closer = dict(
            look.each(
                candidates,
                strategy.candidate_views,
                lambda task, views: strategy.measure_candidate(task, views, context),
            )
        )
        table = with_candidates(table, measurement_table(closer, strategy.candidate_columns(context)))
    ranked = strategy.rank(table, context, reference).table.head(budget)
    values: list[float | None] = ranked[INFORMATIVENESS].to_list()
    # Images that cannot be read are not lost: as in the product they come last.
    last = sorted(set(tasks) - set(measured))[: budget - len(values)]
    return Chosen((*ranked["task_id"].to_list(), *last), (*values, *[None] * len(last)), tuple(look.unreadable))


class _Look:
    """Shows images to the detector, a few at a time, so that a pool of any size fits into memory."""

    def __init__(self, detector: Detector, pool: DetectionDataset, min_score: float) -> None:
        self._detector, self._pool, self._min_score = detector, pool, min_score
        self.unreadable: list[str] = []

    def each(
        self, tasks: Sequence[int], views: Sequence[View], measure: Callable[[int, Views], Measurement]
    ) -> Iterator[tuple[int, Measurement]]:
        """What `measure` says of each task whose image can be read."""
        for task, found in self.detections(tasks, views):
            yield task, measure(task, found)

    def detections(self, tasks: Sequence[int], views: Sequence[View]) -> Iterator[tuple[int, Views]]:
        """Detections of each task whose image can be read; nothing is read where no view is asked for."""
        if not views:
            yield from ((task, {}) for task in tasks)
            return
        images = [self._pool.images[task] for task in tasks]
        outcomes = predict_files(
            self._detector, [image.path for image in images], tuple(views), min_score=self._min_score
        )
        with closing(outcomes):
            for task, image, outcome in zip(tasks, images, outcomes, strict=True):
                if isinstance(outcome, Mapping):
                    yield task, outcome
                else:
                    self.unreadable.append(f"{image.key}: {outcome}")


def _labelled_side(
    strategy: Strategy, look: _Look, pool: DetectionDataset, labelled: Sequence[int], context: RankingContext
) -> tuple[RankingContext, pl.DataFrame]:
    """The context with the quality of each class, and both phases' measurements of the labelled images.

    These are measured while they are read, because the detections of all are gigabytes; so without the quality, which
    needs them all.
    """
    views = (View.ORIGINAL, *strategy.views, *strategy.candidate_views)
    boxes: list[FoundBoxes] = []
    measured: dict[int, Measurement] = {}
    closer: dict[int, Measurement] = {}
    for task, item in look.detections(sorted(labelled), tuple(dict.fromkeys(views))):
        boxes.append(FoundBoxes.of(item[View.ORIGINAL]))
        measured[task] = strategy.measure(task, item, context)
        if strategy.candidate_views:
            closer[task] = strategy.measure_candidate(task, item, context)
    seen = score([pool.images[task] for task in measured], boxes, pool.classes, context.classes)
    quality = tuple((seen.per_class[name].ap50 or 0.0) if name in seen.per_class else 0.0 for name in context.classes)
    table = measurement_table(measured, strategy.columns(context))
    if strategy.candidate_views:
        table = with_candidates(table, measurement_table(closer, strategy.candidate_columns(context)))
    return replace(context, class_quality=tuple(min(1.0, q) for q in quality)), table


def _label_counts(classes: Sequence[str], pool: DetectionDataset, labelled: Sequence[int]) -> tuple[int, ...]:
    known = DetectionDataset(pool.classes, [pool.images[task] for task in labelled])
    counts = dict(zip(pool.classes, known.class_counts().tolist(), strict=True))
    return tuple(counts.get(name, 0) for name in classes)
