"""The strategy `ppal`: uncertain objects of difficult classes first, then images that stand for the others."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray

from model.acquisition.base import (
    EMPTY_VALUE,
    INFORMATIVENESS,
    Columns,
    EmptyPolicy,
    Fitted,
    Measurement,
    Ranked,
    RankingContext,
    StrategyConfig,
    first_by,
    require_columns,
    require_detections,
    sorted_by_informativeness,
)
from model.acquisition.embedding import projected
from model.acquisition.huale_metrics import strongest
from model.acquisition.object_sets import ObjectSets, largest_objects, medoids
from model.acquisition.uncertainty import entropy
from model.detections import Detections
from model.detectors.base import View

RETRIEVAL = 4.0
"""Candidates as a multiple of the budget; PPAL's `budget_expand_ratio`."""
CURVE, MOST = 0.3, 0.2
LEAST_SCORE = 0.05
MOST_OBJECTS = 32
"""Objects per image that are compared. PPAL takes 100 of 256 numbers each, which is too much to store."""


class Ppal:
    """Difficulty calibrated uncertainty retrieves, category conditioned matching chooses.

    Args:
        config: `retrieval` and `empty_policy` apply.

    Source: Yang et al., CVPR 2024.
    """

    name = "ppal"
    views: tuple[View, ...] = (View.ORIGINAL,)
    candidate_views: tuple[View, ...] = (View.ORIGINAL,)
    uses_labelled = True
    needs_novelty = False

    def __init__(self, config: StrategyConfig) -> None:
        self._config = config
        self._empty_value = EMPTY_VALUE[EmptyPolicy(config.empty_policy)]

    def columns(self, context: RankingContext) -> Columns:
        """`uncertainty` of the image, 0 without an object that is large enough, and the number of its `boxes`."""
        return {"uncertainty": pl.Float64(), "boxes": pl.Float64()}

    def candidate_columns(self, context: RankingContext) -> Columns:
        """Vectors (one after the other), classes and scores of the objects."""
        return {
            "object_vectors": pl.List(pl.Float32),
            "object_classes": pl.List(pl.Int64),
            "object_scores": pl.List(pl.Float32),
        }

    def measure(self, task_id: int, detections: Mapping[View, Detections], context: RankingContext) -> Measurement:
        """See `columns`."""
        found = require_detections(task_id, detections[View.ORIGINAL], context)
        objects = _objects(found)
        weights = difficulty_weights(context.class_quality or (0.0,) * max(1, len(context.classes)))
        scores = np.clip(objects.score.astype(np.float64), 0.0, 1.0)
        values = entropy(np.stack([scores, 1.0 - scores], axis=1)) * weights[objects.label]
        return {"uncertainty": math.fsum(values.tolist()), "boxes": float(len(found))}

    def candidates(self, measurements: pl.DataFrame, context: RankingContext) -> list[int]:
        """The most uncertain."""
        require_columns(measurements, ["uncertainty"])
        return first_by(measurements, "uncertainty", self._config.candidates(context.budget, RETRIEVAL))

    def measure_candidate(
        self, task_id: int, detections: Mapping[View, Detections], context: RankingContext
    ) -> Measurement:
        """See `candidate_columns`.

        Raises:
            ValueError: the detector gives no embeddings of boxes, or they are not finite; otherwise as `measure`.
        """
        found = strongest(_objects(require_detections(task_id, detections[View.ORIGINAL], context)), MOST_OBJECTS)
        if len(found) and found.embedding is None:
            raise ValueError(f"task {task_id}: the detector gave no embeddings of boxes, which `ppal` compares")
        vectors = np.zeros((0, 1), np.float32) if found.embedding is None else found.embedding
        if not np.isfinite(vectors).all():
            raise ValueError(f"task {task_id}: embeddings of boxes are not finite; the weights are damaged")
        return {
            "object_vectors": projected(vectors).ravel().tolist(),
            "object_classes": found.label.tolist(),
            "object_scores": found.score.tolist(),
        }

    def rank(self, measurements: pl.DataFrame, context: RankingContext, labelled: pl.DataFrame | None = None) -> Ranked:
        """The budget's medoids of the candidates first, by uncertainty; nothing has to be fitted."""
        require_columns(measurements, self.candidate_columns(context), nullable=True)
        values = self.informativeness(measurements, context, {}).to_numpy().copy()
        table = measurements.select("task_id", *self.candidate_columns(context)).with_row_index("row")
        table = table.with_columns(pl.Series("value", values))
        # An image without objects is unlike all others, so it would always be a medoid, and teach nothing.
        seen = table.filter(pl.col("object_classes").list.len() > 0)
        seen = seen.sort(["value", "task_id"], descending=[True, False])
        known = ObjectSets([], [], []) if labelled is None else ObjectSets.of(labelled)
        chosen = medoids(ObjectSets.of(seen), context.budget, known)
        values[seen["row"].to_numpy()[chosen]] += 1.0
        return Ranked(sorted_by_informativeness(measurements, values), {})

    def informativeness(self, measurements: pl.DataFrame, context: RankingContext, fitted: Fitted) -> pl.Series:
        """In [0, 1), rising with the uncertainty; medoids of a ranking have 1 more there.

        Images without a box have the `EMPTY_VALUE` of `empty_policy`.
        """
        require_columns(measurements, ["uncertainty", "boxes"])
        uncertainty = pl.col("uncertainty").cast(pl.Float64)
        value = pl.when(pl.col("boxes") > 0).then(uncertainty / (1.0 + uncertainty)).otherwise(self._empty_value)
        return measurements.select(value.alias(INFORMATIVENESS)).to_series()


def difficulty_weights(quality: tuple[float, ...]) -> NDArray[np.float64]:
    """`1 + a u ln(1 + (e^(1/a) - 1) (1 - q))` with `a = 0.3` and `u = 0.2`: 1 for a perfect class, 1.2 for an unknown.

    Args:
        quality: how well the detector knows each class, in [0, 1]. PPAL keeps a running mean of
            `p^0.6 IoU^0.4` over the positives of the training; any measure of that range will do.

    Returns:
        Shape (C,).

    Source: Yang et al., CVPR 2024.
    """
    difficulty = 1.0 - np.asarray(quality, np.float64)
    return 1.0 + CURVE * MOST * np.log1p(np.expm1(1.0 / CURVE) * difficulty)


def _objects(found: Detections) -> Detections:
    return found.select(largest_objects(found) & (found.score >= LEAST_SCORE))
