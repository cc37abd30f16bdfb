"""The diversity step: of the most informative images, those that differ from each other and from the labelled ones.

It follows any strategy, which keeps deciding what is informative. Only the first places of the order change: as many
as a person labels before the next ranking.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import polars as pl

from model.acquisition.base import (
    Columns,
    Fitted,
    Measurement,
    Ranked,
    RankingContext,
    Strategy,
    StrategyConfig,
    require_columns,
    require_detections,
)
from model.acquisition.distinct import Images, Rows, Scene
from model.acquisition.embedding import EMBEDDING, image_embedding
from model.acquisition.hashing import uniform
from model.detections import Detections
from model.detectors.base import View

CHOICE = 2
"""The step chooses among this many times as many different images as it has places."""

MOST_LOOKED_AT = 64
"""Images that the step looks at for places that near-duplicates leave free, as a multiple of the budget. It bounds the
time: each is compared with all that is labelled or chosen."""
LEAST_LOOKED_AT = 20_000
"""As many are looked at in any case: a film is longer than a small budget's share."""


class Diversified:
    """A strategy whose first places go to images that differ.

    The places of one budget are shared out: `exploration` to images drawn at random from the whole pool, `empty_quota`
    to images without detections, the rest, farthest first, to the top of the strategy's ranking. Two images are as
    alike as their class histograms overlap, times `(1 + cos) / 2` of their whitened embeddings.

    An image too near to one that is labelled or stands before it is left for later, behind the others that could have
    been chosen, and the next of the ranking moves up. Such images get a place only where no other with detections is
    left, or where `MOST_LOOKED_AT` and `LEAST_LOOKED_AT` end the search.

    Later images are placed by the strategy's informativeness alone.

    Args:
        inner: the strategy.
        config: `exploration`, `empty_quota` and `near_duplicate` apply.

    Source: the combination is ours; its parts are farthest-first (Sener and Savarese, ICLR 2018) and comparison within
    classes (Yang et al., CVPR 2024).
    """

    uses_labelled = True

    def __init__(self, inner: Strategy, config: StrategyConfig) -> None:
        self._inner = inner
        self._config = config

    @property
    def name(self) -> str:
        """That of the strategy."""
        return self._inner.name

    @property
    def views(self) -> tuple[View, ...]:
        """Those of the strategy, and the original."""
        return (View.ORIGINAL, *(view for view in self._inner.views if view is not View.ORIGINAL))

    @property
    def candidate_views(self) -> tuple[View, ...]:
        """Those of the strategy."""
        return self._inner.candidate_views

    @property
    def needs_novelty(self) -> bool:
        """As the strategy does."""
        return self._inner.needs_novelty

    def columns(self, context: RankingContext) -> Columns:
        """The strategy's, `embedding` of the image and `class_shares`: C shares, and 1 at the end for no detection."""
        shares = pl.Array(pl.Float32, len(context.classes) + 1)
        return self._inner.columns(context) | {"embedding": EMBEDDING, "class_shares": shares}

    def candidate_columns(self, context: RankingContext) -> Columns:
        """The strategy's."""
        return self._inner.candidate_columns(context)

    def measure(self, task_id: int, detections: Mapping[View, Detections], context: RankingContext) -> Measurement:
        """See `columns`."""
        found = require_detections(task_id, detections[View.ORIGINAL], context)
        shares = np.zeros(len(context.classes) + 1)
        if len(found):
            shares[:-1] = np.clip(found.probs[:, :-1].astype(np.float64), 0.0, 1.0).sum(axis=0)
        total = shares.sum()
        shares = shares / total if total > 0 else np.eye(1, len(shares), len(shares) - 1)[0]
        own: Measurement = {"embedding": image_embedding(task_id, found), "class_shares": shares.tolist()}
        return self._inner.measure(task_id, detections, context) | own

    def candidates(self, measurements: pl.DataFrame, context: RankingContext) -> list[int]:
        """The strategy's."""
        return self._inner.candidates(measurements, context)

    def measure_candidate(
        self, task_id: int, detections: Mapping[View, Detections], context: RankingContext
    ) -> Measurement:
        """As the strategy does."""
        return self._inner.measure_candidate(task_id, detections, context)

    def rank(self, measurements: pl.DataFrame, context: RankingContext, labelled: pl.DataFrame | None = None) -> Ranked:
        """The strategy's ranking with other first places; fitted is what the strategy fits."""
        require_columns(measurements, ["embedding", "class_shares"])
        ranked = self._inner.rank(measurements, context, labelled if self._inner.uses_labelled else None)
        if not ranked.table.height:
            return ranked
        return Ranked(ranked.table[self._order(ranked.table, context, labelled)], ranked.fitted)

    def informativeness(self, measurements: pl.DataFrame, context: RankingContext, fitted: Fitted) -> pl.Series:
        """The strategy's."""
        return self._inner.informativeness(measurements, context, fitted)

    def _order(self, table: pl.DataFrame, context: RankingContext, labelled: pl.DataFrame | None) -> Rows:
        """Rows of the strategy's ranking in their new order."""
        pool = Images.of(table)
        known = None if labelled is None or not labelled.height else Images.of(labelled)
        budget = min(context.budget, len(pool))
        most = max(MOST_LOOKED_AT * context.budget, LEAST_LOOKED_AT)
        scene = Scene(pool, known, self._config.near_duplicate, most)
        drawn = np.argsort(uniform(table["task_id"].to_numpy(), context.seed), kind="stable")
        empty = pool.shares[:, -1] > 0.5
        places = _Places.of(self._config, budget, int(empty.sum()), len(pool))

        top = _Top(scene, np.flatnonzero(~empty))
        top.fill(places.top)
        without = scene.choose(scene.walk(drawn[empty[drawn]], CHOICE * places.empty).found, places.empty)
        top.fill(places.empty - len(without))

        taken = np.zeros(len(pool), bool)
        taken[[*top.chosen, *without]] = True
        explored = scene.walk(drawn[~taken[drawn]], places.at_random)
        # Where there is nothing else, near-duplicates have to do.
        at_random = np.concatenate([explored.found, explored.near])[: places.at_random].tolist()
        taken[at_random] = True
        first = _interleaved(top.chosen, _interleaved(without, at_random))

        # What is left stays in the strategy's order, near-duplicates behind the last image that was to choose from.
        place = np.arange(len(pool), dtype=np.float64)
        place[top.near] = top.end + 0.5
        left = np.flatnonzero(~taken)
        return np.concatenate([np.array(first, np.int64), left[np.argsort(place[left], kind="stable")]])


class _Places(NamedTuple):
    """How many of a budget's places go where."""

    top: int
    empty: int
    at_random: int

    @classmethod
    def of(cls, config: StrategyConfig, budget: int, empties: int, images: int) -> _Places:
        empty = min(_share(config.empty_quota, budget), empties)
        at_random = min(_share(config.exploration, budget), budget - empty)
        # Images without detections also get what the others are too few for.
        empty = max(empty, budget - at_random - (images - empties))
        return cls(budget - empty - at_random, empty, at_random)


class _Top:
    """What is chosen of the first images of a ranking.

    Attributes:
        chosen: rows, in the order of their choice.
        near: rows that are too near to others before them, or to what is labelled.
        end: the last row that was looked at.
    """

    def __init__(self, scene: Scene, rows: Rows) -> None:
        self._scene = scene
        self._rows = rows
        self.chosen: list[int] = []
        self.near = rows[:0]
        self.end = -1

    def fill(self, count: int) -> None:
        """Choose `count` more: from the top, as far down as it takes to have `CHOICE` times as many that differ."""
        free = self._rows[~np.isin(self._rows, self.chosen)]
        walk = self._scene.walk(free, CHOICE * count)
        if not walk.looked:
            return
        more = self._scene.choose(walk.found, count)
        # Still better than what the strategy ranks lower than all of these.
        self.chosen += [*more, *walk.near[: count - len(more)].tolist()]
        self.near = np.union1d(self.near, walk.near)
        self.end = max(self.end, int(free[walk.looked - 1]))


def _share(share: float, budget: int) -> int:
    return int(share * budget + 0.5)


def _interleaved(many: list[int], few: list[int]) -> list[int]:
    """Both lists in one, each in its order, the second spread evenly over the first."""
    total = len(many) + len(few)
    slots = {int((number + 0.5) * total / len(few)) for number in range(len(few))}
    first, second = iter(many), iter(few)
    return [next(second) if place in slots else next(first) for place in range(total)]
