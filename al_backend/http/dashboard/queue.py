"""The next images and why they are next."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from al_backend.http.dashboard.facts import ProjectFacts
from al_backend.http.dashboard.state import Remembered
from al_backend.jobs.queue_head import CLASS_WEIGHT, pool_summary, queue_head
from al_backend.registry import Ranking, Registry, RegistryError
from model.acquisition.class_weights import CAP, class_weights
from model.acquisition.explanation import OWN_RANK, SHARE, components

PAGE = 24
"""Images on one page of the gallery."""

_FAR = 5
"""Places by which a diversity step has to move an image before that is worth a bar."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One bar: how much this speaks for the image, among all images of the pool.

    Attributes:
        share: length of the bar, in [0, 1]; None where it was not measured.
        value: as it was measured.
    """

    title: str
    meaning: str
    share: float | None
    value: float | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Box:
    """A predicted box in pixels of the image."""

    label: str
    index: int
    score: float
    x: float
    y: float
    width: float
    height: float

    def text_y(self, image_height: int) -> float:
        """Where the foot of its text goes: above the box where there is room, else below it."""
        return self.y - image_height / 90 if self.y > image_height / 14 else self.y + self.height + image_height / 18


@dataclass(frozen=True, slots=True)
class Card:
    """One image of the gallery."""

    place: int
    task: int
    order_score: float
    informativeness: float
    boxes: tuple[Box, ...]
    width: int
    height: int
    reasons: tuple[Reason, ...]
    url: str

    @property
    def summary(self) -> str:
        """For those who cannot see the image."""
        if not self.boxes:
            return f"Task {self.task}: nothing predicted"
        named = ", ".join(f"{box.label} {box.score:.0%}" for box in self.boxes[:8])
        return f"Task {self.task}: {named}{' and more' if len(self.boxes) > 8 else ''}"


@dataclass(frozen=True, slots=True)
class QueuePage:
    """A part of the order.

    Attributes:
        ranking: None when there is no order yet.
        published: whether it is the one that Label Studio serves.
        start: of how many open images of the head the first card is.
        listed: open images that are explained.
        taken: of the first images, those that somebody has labelled since.
        unreadable: how many images could not be read, and the first of them with the reasons.
    """

    ranking: Ranking | None
    published: bool
    cards: tuple[Card, ...]
    start: int
    listed: int
    taken: int
    unreadable: int
    reasons: tuple[Mapping[str, Any], ...]
    without_boxes: int
    labels: tuple[str, ...]


def queue_page(registry: Registry, facts: ProjectFacts, remembered: Remembered, start: int) -> QueuePage:
    """The cards from `start` on, of the published order."""
    ranking = published_ranking(registry, facts)
    if ranking is None:
        return QueuePage(None, False, (), 0, 0, 0, 0, (), 0, ())
    head, summary = head_and_summary(registry, ranking, remembered)
    labels = tuple(str(name) for name in ranking.context.get("classes", ()))
    taken = set(facts.observed.taken) if facts.observed is not None else set()
    left = head.filter(~pl.col("task_id").is_in(list(taken)))
    start = max(0, min(start, max(0, left.height - 1))) // PAGE * PAGE
    rows = left.slice(start, PAGE).iter_rows(named=True)
    bad = summary["unreadable"]
    return QueuePage(
        ranking=ranking,
        published=True,
        cards=tuple(_card(row, ranking, facts, labels) for row in rows),
        start=start,
        listed=left.height,
        taken=head.height - left.height,
        unreadable=bad["count"],
        reasons=tuple(bad["first"]),
        without_boxes=summary["without_boxes"],
        labels=labels,
    )


def published_ranking(registry: Registry, facts: ProjectFacts) -> Ranking | None:
    """The ranking whose order Label Studio serves; None before the first, and when its files are gone."""
    name = facts.published.get("ranking")
    if not isinstance(name, str):
        return None
    try:
        return registry.ranking(facts.id, name)
    except RegistryError:
        return None


def head_and_summary(
    registry: Registry, ranking: Ranking, remembered: Remembered
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """What was stored for people with an order; made from the order itself where an older release stored nothing."""

    def read() -> tuple[pl.DataFrame, dict[str, Any]]:
        head = registry.read_head(ranking.project, ranking.id)
        summary = registry.read_summary(ranking.project, ranking.id)
        if head is not None and summary is not None:
            return head, summary
        complete = registry.read_order(ranking.project, ranking.id)
        if complete is None:
            return pl.DataFrame(schema={"task_id": pl.Int64}), pool_summary(_NO_ORDER)
        measured = registry.read_shards(ranking.project, ranking.id)
        return queue_head(registry, ranking, complete, measured), pool_summary(complete)

    key = ("head", registry.location, ranking.project, ranking.id, ranking.created_at)
    found: Any = remembered.get(key, read)
    return found[0], found[1]


def image_value_of(registry: Registry, facts: ProjectFacts, remembered: Remembered, task: int) -> str | None:
    """The image value of a task of this project's published ranking; None when it is not in it."""
    ranking = published_ranking(registry, facts)
    if ranking is None:
        return None
    head, _ = head_and_summary(registry, ranking, remembered)
    if "image" in head.columns:
        values = head.filter(pl.col("task_id") == task)["image"]
        if len(values):
            return values[0]
    tasks = registry.ranking_tasks(ranking.project, ranking.id)
    if "image" not in tasks.columns:
        return None
    values = tasks.filter(pl.col("task_id") == task)["image"]
    return values[0] if len(values) else None


_NO_ORDER = pl.DataFrame(schema={"task_id": pl.Int64, "regions": pl.String, "error": pl.String})


def _card(row: Mapping[str, Any], ranking: Ranking, facts: ProjectFacts, labels: tuple[str, ...]) -> Card:
    regions = json.loads(row["regions"])
    index = {name: number for number, name in enumerate(labels)}
    first = regions[0] if regions else {}
    width, height = int(first.get("original_width", 0)), int(first.get("original_height", 0))
    return Card(
        place=row["rank"] + 1,
        task=row["task_id"],
        order_score=row["order_score"],
        informativeness=row["informativeness"],
        boxes=tuple(_box(region, index) for region in regions if region.get("value")),
        width=width,
        height=height,
        reasons=_reasons(row, ranking),
        url=f"{facts.url}/data?task={row['task_id']}",
    )


def _box(region: Mapping[str, Any], index: Mapping[str, int]) -> Box:
    value, width, height = region["value"], region["original_width"], region["original_height"]
    label = ", ".join(value.get("rectanglelabels", ()))
    return Box(
        label=label,
        index=index.get(label, 0),
        score=float(region.get("score") or 0.0),
        x=value["x"] * width / 100,
        y=value["y"] * height / 100,
        width=value["width"] * width / 100,
        height=value["height"] * height / 100,
    )


def _reasons(row: Mapping[str, Any], ranking: Ranking) -> tuple[Reason, ...]:
    found = [
        Reason(item.title, item.meaning, row[item.column + SHARE], row[item.column])
        for item in components(str(ranking.strategy["name"]))
        if item.column + SHARE in row
    ]
    weight = row.get(CLASS_WEIGHT)
    if weight is not None:
        meaning = "How rare the labels of the predicted classes are so far; 1 is the mean over the classes."
        found.append(Reason("Class weight", meaning, min(1.0, weight / min(CAP, _largest_weight(ranking))), weight))
    if ranking.strategy.get("diversity"):
        found.append(_diversity(row))
    return tuple(found)


def _largest_weight(ranking: Ranking) -> float:
    return max(1.0, float(class_weights(ranking.context["label_counts"]).max(initial=1.0)))


def _diversity(row: Mapping[str, Any]) -> Reason:
    """What the diversity step did to an image: by how many places it rose."""
    own, place = int(row[OWN_RANK]), int(row["rank"])
    risen = own - place
    meaning = (
        "From which place of the strategy alone the image was moved, because it differs from those before it and from "
        "the labelled ones."
    )
    if abs(risen) < _FAR:
        return Reason("Diversity", meaning, 0.0, None, "kept")
    return Reason("Diversity", meaning, max(0.0, risen / (own + 1)), None, f"from {own + 1:,}")
