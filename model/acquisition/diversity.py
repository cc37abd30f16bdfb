"""The diversity step: of the most informative images, those that differ from each other and from the labelled ones.

It follows any strategy, which keeps deciding what is informative. Only the first places of the order change: as many
as a person labels before the next ranking.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray

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
from model.acquisition.embedding import EMBEDDING, Points, Whitening, farthest_first, image_embedding, points_of
from model.acquisition.hashing import uniform
from model.detections import Detections
from model.detectors.base import View

CHOICE = 2
"""The step chooses among this many times as many images as it has places."""

MOST_BLOCKS = 4
"""How often the step goes on with the next images of the ranking where near-duplicates left places free."""

Rows = NDArray[np.int64]


class Diversified:
    """A strategy whose first places go to images that differ.

    The places of one budget are shared out: `exploration` to images drawn at random from the whole pool, `empty_quota`
    to images without detections, the rest, farthest first, to the top of the strategy's ranking. Two images are as
    alike as their class histograms overlap, times `(1 + cos) / 2` of their whitened embeddings. An image
    too near to one that is labelled or chosen is left for later, behind the others that could have been chosen.

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
        pool = _Images.of(table)
        empty = pool.shares[:, -1] > 0.5
        budget = min(context.budget, len(pool))
        draws = uniform(table["task_id"].to_numpy(), context.seed)
        quota = min(_share(self._config.empty_quota, budget), int(empty.sum()))
        at_random = min(_share(self._config.exploration, budget), budget - quota)

        scene = _Scene(pool, None if labelled is None or not labelled.height else _Images.of(labelled), self._config)
        top, near, end = self._top(scene, np.flatnonzero(~empty), budget - quota - at_random)
        few = np.flatnonzero(empty)
        few = np.sort(few[np.argsort(draws[few], kind="stable")[: CHOICE * quota]])
        without, _ = scene.choose(few, quota)

        taken = np.zeros(len(pool), bool)
        taken[[*top, *without]] = True
        free = np.flatnonzero(~taken)
        explored = free[np.argsort(draws[free], kind="stable")[:at_random]].tolist()
        taken[explored] = True
        first = _interleaved(top, _interleaved(without, explored))

        # What is left stays in the strategy's order, near-duplicates behind the last image that was to choose from.
        place = np.arange(len(pool), dtype=np.float64)
        place[near] = end + 0.5
        left = np.flatnonzero(~taken)
        return np.concatenate([np.array(first, np.int64), left[np.argsort(place[left], kind="stable")]])

    @staticmethod
    def _top(scene: _Scene, rows: Rows, count: int) -> tuple[list[int], Rows, int]:
        """What is chosen of the strategy's first images, what is too near to that, and the last row that was looked at.

        Where near-duplicates leave places free, the next images of the ranking have a chance, a few times.
        """
        chosen: list[int] = []
        near, start = rows[:0], 0
        for _ in range(MOST_BLOCKS):
            block = rows[start : start + CHOICE * (count - len(chosen))]
            if not len(block):
                break
            more, too_near = scene.choose(block, count - len(chosen))
            chosen += more
            near, start = np.concatenate([near, too_near]), start + len(block)
        # Still better than what the strategy ranks lower than all of these.
        chosen += near[: count - len(chosen)].tolist()
        return chosen, near, int(rows[start - 1]) if start else -1


class _Images:
    """Embeddings, shape (n, `LENGTH`), and class shares, shape (n, C + 1), of a table's images."""

    def __init__(self, points: Points, shares: NDArray[np.float32]) -> None:
        self.points = points
        self.shares = shares

    @classmethod
    def of(cls, table: pl.DataFrame) -> _Images:
        shares = table["class_shares"].to_numpy()
        return cls(points_of(table), shares.reshape(len(shares), -1))

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, rows: Rows | list[int]) -> _Images:
        return _Images(self.points[rows], self.shares[rows])


class _Scene:
    """A pool of which images are chosen, and all that is labelled or was chosen so far."""

    def __init__(self, pool: _Images, labelled: _Images | None, config: StrategyConfig) -> None:
        self._pool = pool
        self._whitened = Whitening(pool.points)
        self._known = [] if labelled is None else [self._as_seen(labelled)]
        # At least what float32 leaves between equal vectors.
        self._near = max(config.near_duplicate**2, 1e-6)

    def choose(self, rows: Rows, count: int) -> tuple[list[int], Rows]:
        """Up to `count` of some rows, farthest first, and those that are too near to what is known or chosen."""
        if not count or not len(rows):
            return [], rows[:0]
        here = self._as_seen(self._pool[rows])
        directions = _directions(here.points)
        covered = np.full(len(rows), np.inf, np.float32)
        near = np.zeros(len(rows), bool)

        def compare(image: _Images, index: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
            alike = (1.0 + directions @ _directions(image.points[index : index + 1])[0]) / 2
            shared = np.minimum(here.shares, image.shares[index]).sum(axis=1)
            apart = here.points - image.points[index]
            distance = np.clip(1.0 - shared * alike, 0.0, 1.0).astype(np.float32)
            return distance, np.einsum("ij,ij->i", apart, apart) <= self._near

        def too_near(index: int) -> NDArray[np.bool_]:
            mask = compare(here, index)[1]
            near[:] |= mask
            return mask

        for known in self._known:
            for index in range(len(known)):
                distance, mask = compare(known, index)
                np.minimum(covered, distance, out=covered)
                near |= mask
        covered[near] = -1
        chosen, _ = farthest_first(covered, lambda index: compare(here, index)[0], count, too_near=too_near)
        self._known.append(here[chosen])
        near[chosen] = False
        return [int(row) for row in rows[chosen]], rows[near]

    def _as_seen(self, images: _Images) -> _Images:
        return _Images(self._whitened(images.points), images.shares)


def _directions(points: Points) -> Points:
    """Unit vectors; zero for an image that is the pool's mean."""
    length = np.linalg.norm(points, axis=1, keepdims=True)
    return np.divide(points, length, out=np.zeros_like(points), where=length > 1e-6)


def _share(share: float, budget: int) -> int:
    return int(share * budget + 0.5)


def _interleaved(many: list[int], few: list[int]) -> list[int]:
    """Both lists in one, each in its order, the second spread evenly over the first."""
    total = len(many) + len(few)
    slots = {int((number + 0.5) * total / len(few)) for number in range(len(few))}
    first, second = iter(many), iter(few)
    return [next(second) if place in slots else next(first) for place in range(total)]
