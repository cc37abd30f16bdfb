"""Images as sets of objects, and how far two such sets are apart when only objects of one class are compared.

PPAL's category conditioned matching similarity, and the k-medoids that it feeds. Distances are computed when they are
needed, one image against all: memory grows with the objects, never with the square of the images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from model.acquisition.embedding import LENGTH, farthest_first
from model.detections import Detections

Array = NDArray[np.float32]

UNLIKE = 2.0
"""Distance of an object to an image that has none of its class: that of opposite vectors."""
MOST_ROUNDS = 20
_NOTHING = -1


class ObjectSets:
    """The objects of n images. An image without objects is given one of a class of its own, the same for all such.

    Args:
        vectors: per image, shape (k, `LENGTH`), unit length; k may be 0.
        classes: per image, shape (k,), integers.
        scores: per image, shape (k,), in [0, 1].
    """

    def __init__(self, vectors: Sequence[Array], classes: Sequence[NDArray[np.int64]], scores: Sequence[Array]) -> None:
        nothing = np.eye(1, LENGTH, dtype=np.float32)
        empty = [len(part) == 0 for part in classes]
        self._parts = [
            (nothing, np.array([_NOTHING]), np.ones(1, np.float32)) if none else (v, c, np.maximum(s, 1e-6))
            for none, v, c, s in zip(empty, vectors, classes, scores, strict=True)
        ]
        self._starts = np.cumsum([0, *(len(part[1]) for part in self._parts)])[:-1]
        if self._parts:
            self._vectors, self._classes, self._scores = (
                np.concatenate(column) for column in zip(*self._parts, strict=True)
            )

    @classmethod
    def of(cls, table: pl.DataFrame) -> ObjectSets:
        """From the columns `object_vectors`, `object_classes` and `object_scores`."""
        return cls(
            [np.asarray(row, np.float32).reshape(-1, LENGTH) for row in table["object_vectors"].to_list()],
            [np.asarray(row, np.int64) for row in table["object_classes"].to_list()],
            [np.asarray(row, np.float32) for row in table["object_scores"].to_list()],
        )

    def __len__(self) -> int:
        return len(self._parts)

    def subset(self, positions: Sequence[int]) -> ObjectSets:
        """Some of the images."""
        chosen = [self._parts[position] for position in positions]
        return ObjectSets([p[0] for p in chosen], [p[1] for p in chosen], [p[2] for p in chosen])

    def distances(self, others: ObjectSets, index: int) -> Array:
        """Distances of all these images to one of `others`, shape (n,), in [0, 2].

        From image to image: the cosine distance of each object to the nearest one of its class over there, `UNLIKE`
        without one, averaged with the scores as weights; then the mean of both directions.

        Source: Yang et al., CVPR 2024 (PPAL), CCMS. There an image without objects breaks the computation.
        """
        vectors, classes, scores = others._parts[index]
        apart = 1.0 - vectors @ self._vectors.T
        np.clip(apart, 0.0, UNLIKE, out=apart)
        apart[classes[:, None] != self._classes[None, :]] = UNLIKE
        forth = scores @ np.minimum.reduceat(apart, self._starts, axis=1) / scores.sum()
        back = np.add.reduceat(apart.min(axis=0) * self._scores, self._starts)
        back /= np.add.reduceat(self._scores, self._starts)
        result: Array = ((forth + back) / 2).astype(np.float32)
        return result


def largest_objects(detections: Detections) -> NDArray[np.bool_]:
    """Which boxes are large and compact enough to be compared, shape (n,).

    Source: PPAL's code drops boxes with a side (root of the area) of up to 16 pixels or an aspect of 5 and more, in
    images of up to 1,333 pixels. Ours: the side is scaled to the image.
    """
    size = np.clip(detections.xyxy[:, 2:] - detections.xyxy[:, :2], 0, None).astype(np.float64)
    least = 16 / 1333 * max(detections.height, detections.width)
    large = np.sqrt(size.prod(axis=1)) > least
    return large & (size.max(axis=1) < 5 * np.maximum(size.min(axis=1), 1e-9))


def medoids(images: ObjectSets, count: int, fixed: ObjectSets) -> list[int]:
    """The `count` images that stand for all of them, beside those that are there already.

    Args:
        images: to choose from; the first is the one to begin with where nothing is fixed.
        count: how many.
        fixed: images that are labelled: whoever is nearest to one of these needs no other. May be empty. Ours: PPAL's
            k-medoids do not know the labelled images.

    Returns:
        Positions, ascending; at most `count`.

    Source: Yang et al., CVPR 2024 (PPAL): farthest-first, then k-medoids.
    """
    if not len(images):
        return []
    covered = np.full(len(images), np.inf, np.float32)
    for index in range(len(fixed)):
        np.minimum(covered, images.distances(fixed, index), out=covered)
    centres, _ = farthest_first(covered, lambda index: images.distances(images, index), count)
    for _ in range(MOST_ROUNDS):
        nearest, owner = covered.copy(), np.full(len(images), -1)
        for number, centre in enumerate(centres):
            distance = images.distances(images, centre)
            distance[centre] = -1.0  # a centre is its own, also where a labelled image equals it
            owner[distance < nearest] = number
            np.minimum(nearest, distance, out=nearest)
        moved = [_middle(images, np.flatnonzero(owner == number)) for number in range(len(centres))]
        if moved == centres:
            break
        centres = moved
    return sorted(centres)


def _middle(images: ObjectSets, members: NDArray[np.int64]) -> int:
    """The member with the least distance to all others."""
    group = images.subset(members.tolist())
    total = [float(group.distances(group, index).sum()) for index in range(len(group))]
    return int(members[int(np.argmin(total))])
