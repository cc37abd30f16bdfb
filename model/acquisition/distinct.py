"""Images of which no two are near-duplicates, and of these the ones that are farthest apart."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from model.acquisition.embedding import Points, Whitening, farthest_first, points_of

Rows = NDArray[np.int64]

_BLOCK = 512
_KNOWN_BLOCK = 8192


class Images:
    """Embeddings, shape (n, `LENGTH`), and class shares, shape (n, C + 1), of a table's images."""

    def __init__(self, points: Points, shares: NDArray[np.float32]) -> None:
        self.points = points
        self.shares = shares

    @classmethod
    def of(cls, table: pl.DataFrame) -> Images:
        """From the columns `embedding` and `class_shares`."""
        shares = table["class_shares"].to_numpy()
        return cls(points_of(table), shares.reshape(len(shares), -1))

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, rows: Rows | list[int]) -> Images:
        return Images(self.points[rows], self.shares[rows])


class Walk(NamedTuple):
    """What a walk through some images found.

    Attributes:
        found: images that are near-duplicates neither of what was known nor of each other.
        near: all others that were looked at.
        looked: how many were looked at.
    """

    found: Rows
    near: Rows
    looked: int


class Scene:
    """A pool of which images are chosen, and all that is known: what is labelled or was chosen so far.

    Args:
        pool: to choose from.
        labelled: known from the start.
        near_duplicate: largest distance of two near-duplicates, 1 being the pool's spread. Equal images are always
            such.
        most: images that one walk looks at, at most: without a bound, a pool of nothing but near-duplicates would be
            compared with all that is known.
    """

    def __init__(self, pool: Images, labelled: Images | None, near_duplicate: float, most: int) -> None:
        self._pool = pool
        self._whitened = Whitening(pool.points)
        self._known = [] if labelled is None else [self._as_seen(labelled)]
        # At least what float32 leaves between equal vectors.
        self._near = max(near_duplicate**2, 1e-6)
        self._most = most

    def walk(self, rows: Rows, count: int) -> Walk:
        """Go through some images in their order until `count` of them are no near-duplicates, or the walk is too long.

        Nothing that is found gets known by this.
        """
        nothing = np.zeros(0, np.int64)
        if count <= 0:
            return Walk(nothing, nothing, 0)
        rows = rows[: self._most]
        known = [images.points for images in self._known]
        found: list[int] = []
        near: list[int] = []
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            points = self._whitened(self._pool.points[block])
            alike = np.zeros(len(block), bool)
            for others in known:
                for first in range(0, len(others), _KNOWN_BLOCK):
                    alike |= self._are_near(points, others[first : first + _KNOWN_BLOCK]).any(axis=1)
            pairs = self._are_near(points, points)
            fresh = []
            for index, row in enumerate(block.tolist()):
                if alike[index]:
                    near.append(row)
                    continue
                found.append(row)
                fresh.append(index)
                alike |= pairs[index]
                if len(found) == count:
                    return Walk(np.array(found), np.array(near, np.int64), start + index + 1)
            known.append(points[fresh])
        return Walk(np.array(found, np.int64), np.array(near, np.int64), len(rows))

    def choose(self, rows: Rows, count: int) -> list[int]:
        """Up to `count` of some rows, farthest first from what is known and from each other; they are known then."""
        if count <= 0 or not len(rows):
            return []
        here = self._as_seen(self._pool[rows])
        directions = _directions(here.points)
        covered = np.full(len(rows), np.inf, np.float32)

        def distances(image: Images, index: int) -> NDArray[np.float32]:
            alike = (1.0 + directions @ _directions(image.points[index : index + 1])[0]) / 2
            shared = np.minimum(here.shares, image.shares[index]).sum(axis=1)
            return np.clip(1.0 - shared * alike, 0.0, 1.0).astype(np.float32)

        for known in self._known:
            for index in range(len(known)):
                np.minimum(covered, distances(known, index), out=covered)
        chosen, _ = farthest_first(covered, lambda index: distances(here, index), count)
        self._known.append(here[chosen])
        return [int(row) for row in rows[chosen]]

    def _are_near(self, points: Points, others: Points) -> NDArray[np.bool_]:
        """Whether each image is near to each of the others, shape (n, m)."""
        # In float64, or equal images that are far from the mean would seem apart.
        first, second = points.astype(np.float64), others.astype(np.float64)
        apart = first @ second.T
        apart *= -2
        apart += np.einsum("ij,ij->i", first, first)[:, None]
        apart += np.einsum("ij,ij->i", second, second)[None, :]
        return apart <= self._near

    def _as_seen(self, images: Images) -> Images:
        return Images(self._whitened(images.points), images.shares)


def _directions(points: Points) -> Points:
    """Unit vectors; zero for an image that is the pool's mean."""
    length = np.linalg.norm(points, axis=1, keepdims=True)
    return np.divide(points, length, out=np.zeros_like(points), where=length > 1e-6)
