"""What every strategy is: the Protocol, what it is given, and the one way in which a ranking is sorted.

A ranking goes through at most two phases. All images of the pool are measured, one at a time, in shards, anywhere.
Some strategies then ask for a closer look at a few of them, the candidates, and those are measured once more, alike.
At the end one table holds all measurements, and it is ranked once, column by column.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from model.acquisition.config import EmptyPolicy, StrategyConfig
from model.detections import Detections
from model.detectors.base import View

__all__ = [
    "EMPTY_VALUE",
    "INFORMATIVENESS",
    "Columns",
    "EmptyPolicy",
    "Fitted",
    "Measurement",
    "OnePhase",
    "Ranked",
    "RankingContext",
    "Strategy",
    "StrategyConfig",
]

INFORMATIVENESS = "informativeness"

EMPTY_VALUE = {EmptyPolicy.LAST: -1.0, EmptyPolicy.FIRST: 1e9}
"""Informativeness of an image without detections: below, or far above, all that detections can add up to.

Constants, not the pool's extremes: the value of an image must not depend on which others it is ranked with.
"""

PERCENTILES = (1.0, 99.0)
"""Between these a metric is stretched to 0 and 1, so that one image far out does not press all others together."""

Columns = dict[str, pl.DataType]
"""Names and types of measurements, beside `task_id`."""

Measurement = dict[str, float | list[float] | list[int]]
"""What was measured of one image, a value for each of the columns; all numbers are finite."""

Fitted = dict[str, Any]
"""What a ranking has learnt of its pool, small and made of JSON's types: it is stored beside the ranking."""


@dataclass(frozen=True, slots=True)
class RankingContext:
    """What a strategy knows beside the pool; constant within one ranking.

    Attributes:
        classes: of the detector that scores, in its order.
        label_counts: labelled boxes per class, in the order of `classes`.
        seed: of whatever a strategy draws.
        budget: images that a person labels before the next ranking, at least 1.
        class_quality: how well the detector knows each class, in [0, 1], in the order of `classes`; empty where
            nobody knows, also while labelled images are measured: they are what it is known from.

    Raises:
        ValueError: these are not of one length, or out of range.
    """

    classes: tuple[str, ...]
    label_counts: tuple[int, ...]
    seed: int
    budget: int = 20
    class_quality: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.classes) != len(self.label_counts):
            raise ValueError(f"{len(self.label_counts)} label counts for {len(self.classes)} classes {self.classes}")
        if min(self.label_counts, default=0) < 0:
            raise ValueError(f"label counts must not be negative, found {self.label_counts}")
        if self.budget < 1:
            raise ValueError(f"the budget is {self.budget}, expected at least 1")
        if len(self.class_quality) not in (0, len(self.classes)):
            raise ValueError(f"{len(self.class_quality)} qualities for {len(self.classes)} classes {self.classes}")
        if not all(0.0 <= quality <= 1.0 for quality in self.class_quality):
            raise ValueError(f"the quality of a class is in [0, 1], found {self.class_quality}")


class Ranked(NamedTuple):
    """A ranking.

    Attributes:
        table: the measurements with a column `informativeness`, in the order in which images should be labelled.
            That is descending informativeness, ties by task id ascending, except where a diversity step took the
            first places.
        fitted: what `Strategy.informativeness` needs to judge an image that came later.
    """

    table: pl.DataFrame
    fitted: Fitted


class Strategy(Protocol):
    """Turns measurements of the pool into a ranking.

    Attributes:
        name: by which settings ask for it.
        views: what `measure` wants to see of each image. May be empty: then no detector is needed to rank, and
            whoever wants pre-annotations predicts `View.ORIGINAL` for itself.
        candidate_views: what `measure_candidate` wants to see; empty for a strategy with one phase, of which
            `candidates` are never asked.
        uses_labelled: whether `rank` makes use of the labelled images' measurements.
        needs_novelty: whether `measure` wants detections that carry a novelty, so that whoever trains the detector
            has to train an autoencoder, too (`vae.fit_vae`), and predict with both (`novelty.NoveltyDetector`).
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def views(self) -> tuple[View, ...]: ...  # noqa: D102

    @property
    def candidate_views(self) -> tuple[View, ...]: ...  # noqa: D102

    @property
    def uses_labelled(self) -> bool: ...  # noqa: D102

    @property
    def needs_novelty(self) -> bool: ...  # noqa: D102

    def columns(self, context: RankingContext) -> Columns:
        """What `measure` gives for every image."""
        ...

    def candidate_columns(self, context: RankingContext) -> Columns:
        """What `measure_candidate` gives, under names of its own."""
        ...

    def measure(self, task_id: int, detections: Mapping[View, Detections], context: RankingContext) -> Measurement:
        """Measure one image.

        Args:
            task_id: of the image.
            detections: at least of the `views`.
            context: the same for all images of a ranking.

        Raises:
            ValueError: the detections are not finite, or of other classes than the context.
        """
        ...

    def candidates(self, measurements: pl.DataFrame, context: RankingContext) -> list[int]:
        """Task ids of the images that need a closer look, ascending; the same for the rows in any order."""
        ...

    def measure_candidate(
        self, task_id: int, detections: Mapping[View, Detections], context: RankingContext
    ) -> Measurement:
        """Measure one candidate; `detections` are at least of the `candidate_views`, otherwise as `measure`."""
        ...

    def rank(self, measurements: pl.DataFrame, context: RankingContext, labelled: pl.DataFrame | None = None) -> Ranked:
        """Order the pool.

        Args:
            measurements: `task_id` (int64) and what `measure` gave, one row a task, in any order; may have no row.
                With two phases also what `measure_candidate` gave, null where a task was no candidate.
            context: as given to `measure`.
            labelled: the same columns, all filled, of images that are labelled already; None where there are none or
                the strategy does not use them.

        Raises:
            ValueError: a column or a value is missing, or a task is there twice.
        """
        ...

    def informativeness(self, measurements: pl.DataFrame, context: RankingContext, fitted: Fitted) -> pl.Series:
        """One value a row, float64, finite; higher is more informative.

        A row's value depends on that row and `fitted` alone, so that a new task can be placed among those of an old
        ranking: by where its value falls among theirs.

        Args:
            measurements: as for `rank`, of images that were measured by both phases at once.
            context: of the ranking.
            fitted: of the ranking.

        Raises:
            ValueError: a column or a value is missing.
        """
        ...


class OnePhase:
    """What strategies have in common that need no closer look at anything."""

    candidate_views: tuple[View, ...] = ()
    uses_labelled: bool = False
    needs_novelty: bool = False

    def candidate_columns(self, context: RankingContext) -> Columns:
        """None."""
        return {}

    def candidates(self, measurements: pl.DataFrame, context: RankingContext) -> list[int]:
        """None."""
        return []

    def measure_candidate(
        self, task_id: int, detections: Mapping[View, Detections], context: RankingContext
    ) -> Measurement:
        """Nothing."""
        return {}


def measurement_table(measured: Mapping[int, Measurement], columns: Columns) -> pl.DataFrame:
    """The table of what was measured of each task, one row a task."""
    rows = [{"task_id": task} | values for task, values in measured.items()]
    return pl.DataFrame(rows, schema={"task_id": pl.Int64(), **columns})


def with_candidates(measurements: pl.DataFrame, closer: pl.DataFrame) -> pl.DataFrame:
    """The measurements of both phases in one table: those of the second are null where a task was no candidate."""
    return measurements.join(closer, on="task_id", how="left", maintain_order="left")


def sorted_by_informativeness(measurements: pl.DataFrame, values: pl.Series | NDArray[np.float64]) -> pl.DataFrame:
    """Add the column `informativeness` and sort: most informative first, ties by task id ascending.

    Args:
        measurements: with a column `task_id`, each at most once.
        values: finite, one a row, in the order of the rows.

    Raises:
        ValueError: a task is there twice, which would publish two order scores for it.
    """
    require_tasks(measurements)
    table = measurements.with_columns(pl.Series(INFORMATIVENESS, values, pl.Float64))
    return table.sort([INFORMATIVENESS, "task_id"], descending=[True, False])


def first_by(measurements: pl.DataFrame, column: str, count: int) -> list[int]:
    """Ids of the `count` tasks with the largest values, ties to the lower id; ascending."""
    require_tasks(measurements)
    order = measurements.select("task_id", column).sort([column, "task_id"], descending=[True, False])
    return sorted(order["task_id"].head(count).to_list())


def robust_ranges(values: NDArray[np.float64], same: float) -> tuple[list[float], list[float]]:
    """What counts as 0 and as 1 of each metric: its 1st and 99th percentile.

    A metric in which only one image in a hundred or fewer differs has none of its own between the two, and would be
    passed over just where it has something to say: its least and largest value count then.

    Args:
        values: shape (N, M), of N images; with none all ranges are 0 to 0.
        same: up to which distance two values are one.

    Returns:
        The lower and the upper ends, M values each.
    """
    if not len(values):
        return [0.0] * values.shape[1], [0.0] * values.shape[1]
    low, high = np.percentile(values, PERCENTILES, axis=0)
    flat = high - low <= same
    return np.where(flat, values.min(axis=0), low).tolist(), np.where(flat, values.max(axis=0), high).tolist()


def require_tasks(measurements: pl.DataFrame) -> None:
    """Check that there is a column `task_id` and no task in it twice.

    Raises:
        ValueError: there is not, or a task is there twice.
    """
    require_columns(measurements, ["task_id"])
    if measurements["task_id"].n_unique() != measurements.height:
        twice = measurements.filter(pl.col("task_id").is_duplicated())["task_id"][0]
        raise ValueError(f"task {twice} was measured more than once; each task belongs to one shard")


def in_task_order(measurements: pl.DataFrame) -> pl.DataFrame:
    """The rows by task id: what a ranking sums up is rounded by where a row stands, in the last bit.

    Raises:
        ValueError: as `require_tasks`.
    """
    require_tasks(measurements)
    return measurements.sort("task_id")


def require_columns(measurements: pl.DataFrame, names: Iterable[str], *, nullable: bool = False) -> None:
    """Check that columns are there and hold only finite numbers.

    Args:
        measurements: any table.
        names: of columns of numbers, or of lists or arrays of numbers.
        nullable: whether rows may lack a value.

    Raises:
        ValueError: one is missing, or has a value that is null, NaN or infinite.
    """
    for name in names:
        if name not in measurements.columns:
            raise ValueError(f"the measurements have columns {measurements.columns}, expected {name!r} among them")
        column = measurements[name]
        if column.dtype.is_nested():
            wrong = 0 if nullable else column.null_count()
            inner = column.explode() if isinstance(column.dtype, pl.List) else column.arr.explode()
            wrong += int((~inner.drop_nulls().is_finite()).sum()) if inner.dtype.is_float() else 0
        else:
            wrong = int((~column.cast(pl.Float64).is_finite().fill_null(nullable)).sum())
        if wrong:
            raise ValueError(f"{wrong} of {measurements.height} measurements of {name!r} are missing or not finite")


def require_detections(task_id: int, detections: Detections, context: RankingContext) -> Detections:
    """The detections, once it is sure that they can be measured.

    Raises:
        ValueError: they are of another number of classes than the context (unless there are none), or not finite.
    """
    if len(detections) and detections.num_classes != len(context.classes):
        raise ValueError(
            f"task {task_id}: the detections have {detections.num_classes} classes, "
            f"the ranking {len(context.classes)}: {context.classes}"
        )
    if not all(np.isfinite(part).all() for part in (detections.xyxy, detections.score, detections.probs)):
        raise ValueError(
            f"task {task_id}: the detector gave boxes or probabilities that are not finite; its weights are damaged"
        )
    return detections
