"""Why an image stands where it stands: what a strategy measured of it, in words and beside the rest of the pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from model.acquisition.base import INFORMATIVENESS
from model.acquisition.huale import METRICS

SHARE = "_share"
"""Ends the name of the column that says which part of the pool a value is above."""

OWN_RANK = "own_rank"


@dataclass(frozen=True, slots=True)
class Component:
    """One of the numbers that an image's place was made of.

    Attributes:
        column: of the measurements.
        title: a few words.
        meaning: one sentence.
        low_teaches: whether a small value is the informative one.
    """

    column: str
    title: str
    meaning: str
    low_teaches: bool = False


_BOXES = Component("boxes", "Boxes", "How many objects the detector sees.")

_COMPONENTS: dict[str, tuple[Component, ...]] = {
    "uncertainty": (
        Component("uncertainty", "Uncertainty", "How unsure the detector is about boxes, rare classes counting more."),
        _BOXES,
    ),
    "huale": (
        Component("entropy", "Entropy", "How unsure the detector is about the class of a box."),
        Component(
            "semantic_affinity", "Semantic affinity", "How differently it names what it sees in the mirrored image."
        ),
        Component(
            "category_diversity",
            "Category diversity",
            "Over how many classes its boxes spread, or (disagreement) how differently in the mirrored image.",
        ),
        Component("overlap_ratio", "Overlap ratio", "Which share of the boxes lies inside another one."),
        Component("localization_confidence", "Localization", "How unsure it is where the boxes end."),
    ),
    "cald": (
        Component(
            "consistency",
            "Consistency",
            "How well the views of the image agree, as a distance from the most informative degree.",
            low_teaches=True,
        ),
        Component("novelty", "New classes", "How far the classes seen are from those that are labelled."),
        _BOXES,
    ),
    "al_vae": (
        Component("novelty", "Novelty", "How badly the autoencoder of the labelled images redraws this one."),
        Component("detection_loss", "Expected loss", "How large the detector's loss on this image is estimated to be."),
        _BOXES,
    ),
    "ppal": (
        Component("uncertainty", "Difficult objects", "Doubt about objects, more for classes it knows badly."),
        _BOXES,
    ),
    "core_set": (
        Component(INFORMATIVENESS, "Distance", "How far the image is from all that is labelled or was chosen before."),
    ),
    "typical": (Component(INFORMATIVENESS, "Typicality", "How near the image is to the middle of its kind."),),
    "random": (Component(INFORMATIVENESS, "Chance", "A number drawn for the task, and nothing else."),),
}


def components(strategy: str) -> tuple[Component, ...]:
    """What an image's place is explained by; for a strategy that is not known here, by its informativeness alone."""
    alone = Component(INFORMATIVENESS, "Informativeness", "What the strategy made of the image.")
    return _COMPONENTS.get(strategy, (alone,))


def _weighted(items: Sequence[Component], strategy: str, settings: Mapping[str, Any]) -> list[Component]:
    """The components that count with these settings, each in its direction."""
    weights: dict[str, float] = {}
    if strategy == "huale" and "huale_weights" in settings:
        weights = dict(zip(METRICS, settings["huale_weights"], strict=True))
    if strategy == "al_vae":
        weights = {"novelty": settings.get("vae_alpha", 1.0), "detection_loss": settings.get("vae_beta", 1.0)}
    return [
        replace(item, low_teaches=item.low_teaches != (weights.get(item.column, 1.0) < 0))
        for item in items
        if weights.get(item.column, 1.0) != 0
    ]


def explained(
    table: pl.DataFrame, strategy: str, first: int, settings: Mapping[str, Any] | None = None
) -> pl.DataFrame:
    """The first rows of a ranking, with the place of each of their components in the whole pool.

    Args:
        table: in the order of the ranking, with `task_id`, `informativeness` (null where an image could not be read)
            and whatever the strategy measured; a component that it lacks is left out.
        strategy: its name.
        first: how many rows.
        settings: of the strategy, by the names of `StrategyConfig`; what they do not name has its default. A component
            of weight 0 is left out, of one with a negative weight a small value is the informative one.

    Returns:
        The rows with, for each component, a column of its name and one that ends in `SHARE`: the share of the other
        measured images that are less informative in this respect, in [0, 1]; null where it was not measured.
        `OWN_RANK` is the place, from 0, that the informativeness alone would give.
    """
    shown = [item for item in _weighted(components(strategy), strategy, settings or {}) if item.column in table.columns]
    shares = [
        (
            (pl.col(item.column).rank("min", descending=item.low_teaches) - 1)
            / pl.max_horizontal(pl.col(item.column).count() - 1, 1)
        ).alias(item.column + SHARE)
        for item in shown
    ]
    own = pl.col(INFORMATIVENESS)
    place = pl.struct(own.is_null().alias("unread"), -own, "task_id").rank("ordinal") - 1
    names = dict.fromkeys(["task_id", INFORMATIVENESS, *(item.column for item in shown)])
    kept = [name for name in table.columns if name in names or name in ("rank", "order_score", "regions", "image")]
    return (
        table.with_columns(*shares, place.cast(pl.Int64).alias(OWN_RANK))
        .select(*kept, *(item.column + SHARE for item in shown), OWN_RANK)
        .head(first)
    )
