"""Embeddings of one short length, so that a million of them can be stored, read and compared."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import polars as pl
from numpy.typing import NDArray

from model.acquisition.hashing import uniform
from model.detections import Detections

LENGTH = 64
"""Numbers in a stored embedding. A random projection to it keeps distances within about a tenth."""

EMBEDDING = pl.Array(pl.Float32, LENGTH)
"""The column type."""

Points = NDArray[np.float32]

_CHUNK = 8192
_SAME = 1e-6
_LEAST_VARIANCE = 0.1
_SIGNS_SEED = 20070501


def projected(vectors: NDArray[np.float32]) -> Points:
    """Vectors of any length as unit vectors of `LENGTH` numbers.

    Args:
        vectors: shape (n, D), finite; n may be 0.

    Returns:
        Shape (n, LENGTH), unit length; a zero vector stays one. Up to `LENGTH` numbers nothing is lost.

    Source: random signs, Achlioptas 2003. The signs are a function of D alone, so that shards measured by different
    processes fit together.
    """
    if vectors.shape[1] <= LENGTH:
        short: NDArray[np.float64] = np.zeros((len(vectors), LENGTH), np.float64)
        short[:, : vectors.shape[1]] = vectors
    else:
        short = vectors.astype(np.float64) @ _signs(vectors.shape[1])
    length = np.linalg.norm(short, axis=1, keepdims=True)
    return np.divide(short, length, out=np.zeros_like(short), where=length > 0).astype(np.float32)


def image_embedding(task_id: int, detections: Detections) -> list[float]:
    """The embedding of the whole image, as it is stored.

    Raises:
        ValueError: the detector gives none, or it is not finite.
    """
    vector = detections.image_embedding
    if vector is None:
        raise ValueError(
            f"task {task_id}: the detector gave no embedding of the image, which strategies that compare images need; "
            "choose a detector that has one, or a strategy that does without"
        )
    if not np.isfinite(vector).all():
        raise ValueError(f"task {task_id}: the embedding of the image is not finite; the weights are damaged")
    return [float(value) for value in projected(vector[None])[0]]


def points_of(measurements: pl.DataFrame | None, column: str = "embedding") -> Points:
    """The embeddings of a table, shape (rows, `LENGTH`); no row for no table."""
    if measurements is None or not measurements.height:
        return np.zeros((0, LENGTH), np.float32)
    values = measurements[column].cast(EMBEDDING).to_numpy()
    return np.ascontiguousarray(values.reshape(len(values), -1), np.float32)


def squared_distances(points: Points, others: Points) -> Points:
    """Squared Euclidean distance of each unit vector with each, shape (n, m); at least 0, and 0 for equal ones."""
    product = points @ others.T
    product *= -2
    product += np.einsum("ij,ij->i", points, points)[:, None]
    product += np.einsum("ij,ij->i", others, others)[None, :]
    # Rounding leaves up to about 9e-7 between equal vectors, and would decide their order.
    product[product < _SAME] = 0
    return product


def squared_distances_of(points: Points) -> Callable[[int], Points]:
    """Gives the squared distances, shape (n,), of all points to the one at a position; for `farthest_first`."""
    norms = np.einsum("ij,ij->i", points, points)

    def distances(index: int) -> Points:
        result = points @ points[index]
        result *= -2
        result += norms
        result += norms[index]
        result[result < _SAME] = 0
        return result

    return distances


class Whitening:
    """A map of embeddings after which every direction of a pool has about the same weight.

    Networks put most of what distinguishes their embeddings into very few directions: of YOLOv5's deepest features 0.9
    of the variance lies in one. There, images of one burst are no nearer to each other than to many others.

    Directions that vary by less than a tenth of the mean are not stretched further, and the result is scaled so that
    images are 1 away from the mean on average (root of the mean square).

    Args:
        points: of the pool, shape (n, `LENGTH`), n at least 1.
    """

    def __init__(self, points: Points) -> None:
        count, size = len(points), points.shape[1]
        self._mean = points.mean(axis=0, dtype=np.float64)
        covariance = np.zeros((size, size))
        for start in range(0, count, _CHUNK):
            away = points[start : start + _CHUNK].astype(np.float64) - self._mean
            covariance += away.T @ away / count
        values, vectors = np.linalg.eigh(covariance)
        values = np.maximum(values, 0.0)
        least = _LEAST_VARIANCE * values.mean()
        if values.sum() <= _SAME:  # all images look the same
            self._map = np.eye(size)
            return
        stretch = 1.0 / np.sqrt(values + least)
        # Back in the old axes (not those of the eigenvectors, whose signs are arbitrary).
        self._map = (vectors * stretch) @ vectors.T / np.sqrt((values * stretch**2).sum())

    def __call__(self, points: Points) -> Points:
        """The points in the new space, relative to the pool's mean."""
        return ((points.astype(np.float64) - self._mean) @ self._map).astype(np.float32)


def nearest(points: Points, others: Points) -> tuple[Points, NDArray[np.int64]]:
    """Squared distance to the nearest of `others` and its position; infinite and 0 where there are no others.

    Works in chunks: memory grows with the points, not with their product.
    """
    distance = np.full(len(points), np.inf, np.float32)
    position = np.zeros(len(points), np.int64)
    if len(others):
        chunk = max(1, _CHUNK * 256 // max(256, len(others)))
        for start in range(0, len(points), chunk):
            block = squared_distances(points[start : start + chunk], others)
            position[start : start + chunk] = block.argmin(axis=1)
            distance[start : start + chunk] = block.min(axis=1)
    return distance, position


def farthest_first(
    covered: Points,
    distances_of: Callable[[int], Points],
    count: int,
    *,
    first: int = 0,
) -> tuple[list[int], list[float]]:
    """Choose one after the other what is farthest from all that is covered or chosen already.

    Args:
        covered: shape (n,), distance of each point to what is covered from the start: infinite where there is
            nothing, negative for points that must not be chosen.
        distances_of: gives the distances, shape (n,), at least 0, of all points to one of them.
        count: how many to choose at most.
        first: to begin with where nothing is covered.

    Returns:
        Positions in the order of the choice, ties to the lower one, and the distance that each had when it was
        chosen: falling, infinite for `first`.

    Source: Gonzalez 1985; Sener and Savarese, ICLR 2018 (core-set).
    """
    distance = covered.astype(np.float32, copy=True)
    chosen: list[int] = []
    radii: list[float] = []
    while len(chosen) < min(count, len(distance)):
        best = int(distance.argmax())
        if np.isinf(distance[best]) and distance[first] >= 0:
            best = first
        if distance[best] < 0:
            break
        chosen.append(best)
        radii.append(float(distance[best]))
        # What is negative stays so: distances are not.
        np.minimum(distance, distances_of(best), out=distance)
        distance[best] = -1
    return chosen, radii


@lru_cache(maxsize=8)
def _signs(length: int) -> NDArray[np.float64]:
    draws = uniform(np.arange(length * LENGTH), _SIGNS_SEED).reshape(length, LENGTH)
    return np.where(draws < 0.5, -1.0, 1.0) / np.sqrt(LENGTH)
