"""What every strategy is: the Protocol, what it is given, and the one way in which a ranking is sorted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import polars as pl

from model.acquisition.aggregation import Aggregation
from model.acquisition.uncertainty import Uncertainty
from model.detections import Detections
from model.detectors.base import View

INFORMATIVENESS = "informativeness"


class EmptyPolicy(str, Enum):
    """Where images without detections go; the published methods disagree."""

    FIRST = "first"
    LAST = "last"


@dataclass(frozen=True, slots=True)
class StrategyConfig:
    """Settings of a strategy, as plain strings, so that they can be stored and compared.

    Attributes:
        name: which strategy.
        uncertainty: of one detection: `least_confidence`, `margin` or `entropy`.
        aggregation: over the detections of an image: `sum`, `mean` or `max`.
        class_weights: whether a detection counts by the inverse frequency of its class.
        empty_policy: `first` or `last`: where images without detections go.

    Raises:
        ValueError: a value is none of those.
    """

    name: str = "uncertainty"
    uncertainty: str = "entropy"
    aggregation: str = "sum"
    class_weights: bool = True
    empty_policy: str = "last"

    def __post_init__(self) -> None:
        choices: dict[str, type[Enum]] = {
            "uncertainty": Uncertainty,
            "aggregation": Aggregation,
            "empty_policy": EmptyPolicy,
        }
        for field, kind in choices.items():
            allowed = [member.value for member in kind]
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field} is {getattr(self, field)!r}, expected one of: {', '.join(allowed)}")


@dataclass(frozen=True, slots=True)
class RankingContext:
    """What a strategy knows of the labelled side; constant within one ranking.

    Attributes:
        classes: of the detector that scores, in its order.
        label_counts: labelled boxes per class, in the order of `classes`.
        seed: of whatever a strategy draws.

    Raises:
        ValueError: the two are not of one length, or a count is negative.
    """

    classes: tuple[str, ...]
    label_counts: tuple[int, ...]
    seed: int

    def __post_init__(self) -> None:
        if len(self.classes) != len(self.label_counts):
            raise ValueError(f"{len(self.label_counts)} label counts for {len(self.classes)} classes {self.classes}")
        if min(self.label_counts, default=0) < 0:
            raise ValueError(f"label counts must not be negative, found {self.label_counts}")


class Strategy(Protocol):
    """Turns measurements of the pool into a ranking.

    Images are measured one at a time, in shards, anywhere; the table of all measurements is ranked once.

    Attributes:
        name: by which settings ask for it.
        views: what `measure` wants to see of each image. May be empty: then no detector is needed to rank, and
            whoever wants pre-annotations predicts `View.ORIGINAL` for itself.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def views(self) -> tuple[View, ...]: ...  # noqa: D102

    def measure(self, task_id: int, detections: Mapping[View, Detections], context: RankingContext) -> dict[str, float]:
        """Measure one image.

        Args:
            task_id: of the image.
            detections: at least of the `views`.
            context: the same for all images of a ranking.

        Returns:
            Finite numbers under the same keys for every image; never `task_id`.

        Raises:
            ValueError: the detections are not finite, or of other classes than the context.
        """
        ...

    def informativeness(self, measurements: pl.DataFrame, context: RankingContext) -> pl.Series:
        """One value a row, float64, finite; higher is more informative.

        A row's value depends on that row alone, so that a new task can be placed among those of an old ranking.

        Args:
            measurements: `task_id` (int64) and what `measure` gave, one row a task, in any order; may have no row.
            context: as given to `measure`.

        Raises:
            ValueError: a column or a value is missing.
        """
        ...

    def rank(self, measurements: pl.DataFrame, context: RankingContext) -> pl.DataFrame:
        """The measurements with a column `informativeness`, most informative first, ties by task id ascending.

        Raises:
            ValueError: a column or a value is missing, or a task is there twice.
        """
        ...


def sorted_by_informativeness(measurements: pl.DataFrame, values: pl.Series) -> pl.DataFrame:
    """Add the column `informativeness` and sort: most informative first, ties by task id ascending.

    Args:
        measurements: with a column `task_id`, each at most once.
        values: finite, one a row, in the order of the rows.

    Raises:
        ValueError: a task is there twice, which would publish two order scores for it.
    """
    require_columns(measurements, ["task_id"])
    if measurements["task_id"].n_unique() != measurements.height:
        twice = measurements.filter(pl.col("task_id").is_duplicated())["task_id"][0]
        raise ValueError(f"task {twice} was measured more than once; each task belongs to one shard")
    table = measurements.with_columns(values.alias(INFORMATIVENESS))
    return table.sort([INFORMATIVENESS, "task_id"], descending=[True, False])


def require_columns(measurements: pl.DataFrame, names: Iterable[str]) -> None:
    """Check that columns are there and hold only finite numbers.

    Raises:
        ValueError: one is missing, or has a value that is null, NaN or infinite.
    """
    for name in names:
        if name not in measurements.columns:
            raise ValueError(f"the measurements have columns {measurements.columns}, expected {name!r} among them")
        wrong = ~measurements[name].cast(pl.Float64).is_finite().fill_null(False)
        if wrong.any():
            raise ValueError(
                f"{wrong.sum()} of {measurements.height} measurements of {name!r} are missing or not finite"
            )
