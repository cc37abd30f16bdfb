"""What a process keeps of the last rankings: reading a pool of a hundred thousand tasks for every task is too slow."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from al_backend.registry import Phase, Ranking

_RANKINGS = 8

Key = tuple[int, str, datetime, str]


@dataclass(frozen=True, slots=True)
class Placement:
    """A finished order as far as placing further tasks needs it.

    Attributes:
        tasks: ids of all tasks of the ranking, ascending.
        scores: their order scores, in the order of `tasks`.
        values: informativeness of the readable ones, descending.
        readable_scores: order scores of the readable ones, ascending.
        last: the highest score, 0.5 without any.
        end: where the readable ones end.
        fitted: what the strategy needs to judge tasks that come later.
    """

    tasks: NDArray[np.int64]
    scores: NDArray[np.float64]
    values: NDArray[np.float64]
    readable_scores: NDArray[np.float64]
    last: float
    end: float
    fitted: dict[str, Any]

    @classmethod
    def of(cls, order: pl.DataFrame, fitted: dict[str, Any]) -> Placement:
        """From the columns task_id, informativeness and order_score, first to label first."""
        scores = order["order_score"].to_numpy()
        placed = order.filter(pl.col("informativeness").is_not_null())
        readable = placed["order_score"].to_numpy()
        last = float(scores.max()) if len(scores) else 0.5
        by_task = order.select("task_id", "order_score").sort("task_id")
        return cls(
            tasks=by_task["task_id"].to_numpy(),
            scores=by_task["order_score"].to_numpy(),
            # Sorted, because a diversity step gives first places to images that are not the most informative.
            values=np.sort(placed["informativeness"].to_numpy())[::-1],
            readable_scores=readable,
            last=last,
            end=float(scores[len(readable)]) if len(readable) < len(scores) else (last + 1.0) / 2,
            fitted=fitted,
        )

    def score_of(self, task: int) -> float | None:
        """The order score of a task of the ranking; None for any other."""
        position = int(np.searchsorted(self.tasks, task))
        if position < len(self.tasks) and self.tasks[position] == task:
            return float(self.scores[position])
        return None


class RankingMemory:
    """Tasks and placements of the last few rankings. None is ever changed, and one made again has another date."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Key, Any] = OrderedDict()

    def tasks(self, ranking: Ranking, phase: Phase, read: Callable[[], pl.DataFrame | None]) -> pl.DataFrame | None:
        """What a phase of a ranking measures; None while that is not decided."""
        frame: pl.DataFrame | None = self._get((ranking.project, ranking.id, ranking.created_at, phase.value), read)
        return frame

    def placement(self, ranking: Ranking, read: Callable[[], Placement]) -> Placement:
        """The placement of a finished order."""
        found: Placement = self._get((ranking.project, ranking.id, ranking.created_at, "placement"), read)
        return found

    def _get(self, key: Key, read: Callable[[], Any]) -> Any:
        if key not in self._kept:
            value = read()
            if value is None:
                return None
            self._kept[key] = value
            while len(self._kept) > _RANKINGS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]
