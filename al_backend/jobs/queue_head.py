"""What people look at of a ranking: its first images with the reasons of their places, and a few sums over all."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import polars as pl

from al_backend.registry import Phase, Ranking, Registry
from model.acquisition.class_weights import class_weights
from model.acquisition.explanation import explained

FIRST = 500
"""Images that are explained: more than anybody labels before the next ranking is made."""

_MOST_REASONS = 200

CLASS_WEIGHT = "class_weight"


def queue_head(registry: Registry, ranking: Ranking, complete: pl.DataFrame, measured: pl.DataFrame) -> pl.DataFrame:
    """The first images of an order with what their places were made of.

    Args:
        registry: that holds the ranking.
        ranking: that was ordered.
        complete: its order.
        measured: the pool's shards.

    Returns:
        As `model.acquisition.explanation.explained`, with the column `image` (the task's image value) and, where the
        strategy weighs classes, `CLASS_WEIGHT`: the mean weight of the predicted boxes' classes.
    """
    own = {"regions", "error"}
    values = measured.select([name for name in measured.columns if name == "task_id" or name not in own])
    table = complete.filter(pl.col("error").is_null()).join(values, on="task_id", how="left", maintain_order="left")
    closer = registry.read_shards(ranking.project, ranking.id, Phase.CLOSER)
    if "labelled" in closer.columns:
        seen = closer.filter(~pl.col("labelled"))
        names = [name for name in seen.columns if name not in table.columns and not seen[name].dtype.is_nested()]
        names = [name for name in names if name not in ("labelled", "error", "regions")]
        table = table.join(seen.select("task_id", *names), on="task_id", how="left", maintain_order="left")
    head = explained(table, str(ranking.strategy["name"]), FIRST, ranking.strategy)
    tasks = registry.ranking_tasks(ranking.project, ranking.id)
    if "image" in tasks.columns:
        head = head.join(tasks.select("task_id", "image"), on="task_id", how="left", maintain_order="left")
    if ranking.strategy.get("class_weights") and ranking.strategy["name"] == "uncertainty":
        head = head.with_columns(_class_weight(ranking, head["regions"]))
    return head


def pool_summary(complete: pl.DataFrame) -> dict[str, Any]:
    """Sums over an order: `predicted` (boxes per label), `images`, `without_boxes`, `unreadable` (count, first)."""
    readable = complete.filter(pl.col("error").is_null())
    boxes: Counter[str] = Counter()
    without = 0
    for text in readable["regions"]:
        labels = _labels(text)
        boxes.update(labels)
        without += not labels
    unreadable = complete.filter(pl.col("error").is_not_null()).sort("task_id")
    first = unreadable.head(_MOST_REASONS).select("task_id", "error").iter_rows()
    return {
        "predicted": dict(sorted(boxes.items())),
        "images": readable.height,
        "without_boxes": without,
        "unreadable": {"count": unreadable.height, "first": [{"task": task, "reason": why} for task, why in first]},
    }


def _class_weight(ranking: Ranking, regions: pl.Series) -> pl.Series:
    names = list(ranking.context["classes"])
    weight = dict(zip(names, class_weights(ranking.context["label_counts"]).tolist(), strict=True))
    values: list[float | None] = []
    for text in regions:
        known = [weight[label] for label in _labels(text) if label in weight]
        values.append(sum(known) / len(known) if known else None)
    return pl.Series(CLASS_WEIGHT, values, pl.Float64)


def _labels(regions: str) -> list[str]:
    return [label for region in json.loads(regions) for label in region.get("value", {}).get("rectanglelabels", ())]
