"""What strategies have in common that see of an image only where it lies among the others."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray

from model.acquisition.base import (
    Columns,
    Fitted,
    Measurement,
    OnePhase,
    RankingContext,
    StrategyConfig,
    require_columns,
    require_detections,
)
from model.acquisition.embedding import (
    EMBEDDING,
    LENGTH,
    Points,
    image_embedding,
    nearest,
    points_of,
    squared_distances,
)
from model.detections import Detections
from model.detectors.base import View


class WholeImages(OnePhase):
    """Measures the embedding of the whole image; what is fitted has `centres` among the embeddings.

    Args:
        config: only its name applies.
    """

    views: tuple[View, ...] = (View.ORIGINAL,)

    def __init__(self, config: StrategyConfig) -> None:
        self._config = config

    def columns(self, context: RankingContext) -> Columns:
        """The `embedding` of the image."""
        return {"embedding": EMBEDDING}

    def measure(self, task_id: int, detections: Mapping[View, Detections], context: RankingContext) -> Measurement:
        """See `columns`."""
        found = require_detections(task_id, detections[View.ORIGINAL], context)
        return {"embedding": image_embedding(task_id, found)}


def nearest_centres(measurements: pl.DataFrame, fitted: Fitted) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Euclidean distance of each row's embedding from the nearest of the fitted centres, and which one that is.

    Infinite and 0 without any centre.

    Raises:
        ValueError: there is no column `embedding`, or a value is missing.
    """
    require_columns(measurements, ["embedding"])
    centres = np.asarray(fitted["centres"], np.float32).reshape(-1, LENGTH)
    distance, position = nearest(points_of(measurements), centres)
    return np.sqrt(distance.astype(np.float64)), position


def most_central(points: Points) -> int:
    """Position of the point nearest to the mean, the lower one of equals; there must be a point."""
    return int(squared_distances(points, points.mean(axis=0, keepdims=True)).argmin())
