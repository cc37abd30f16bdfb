"""The results of an experiment as a value: read from its folder, written as JSON, shown by the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

import numpy as np

from model.data.dataset import DetectionDataset
from model.simulation.cell import Experiment
from model.simulation.environment import hardware, versions
from model.simulation.plan import Cell, plain
from model.simulation.runner import Outcome
from model.simulation.statistics import Line
from model.training.evaluation import Evaluation

FORMAT = 1
BASELINE = "random"


@dataclass(frozen=True, slots=True)
class Point:
    """One training of a curve.

    Attributes:
        labels: labelled images, without those that any training or strategy of the experiment could not read: nobody
            labels what cannot be shown.
        boxes: true boxes in them.
        class_counts: boxes per class in them.
        metrics: on the held-out images.
        labelled: keys of the images that were new in this cycle, in the order in which the strategy put them.
        informativeness: of each of these; None where there is none: in the initial set, and for unreadable images.
        training: the training's own report.
        seconds: of training, measuring and choosing.
        unreadable: images of the pool that could not be read when the strategy chose after this training, one sentence
            each.
        made_on: see `environment.made_on`; empty where an older release trained.
    """

    labels: int
    boxes: int
    class_counts: Mapping[str, int]
    metrics: Evaluation
    labelled: tuple[str, ...] = ()
    informativeness: tuple[float | None, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    unreadable: tuple[str, ...] = ()
    made_on: Mapping[str, str] = field(default_factory=dict)

    @property
    def quality(self) -> float:
        """The mAP50, which curves show."""
        return self.metrics.map50 or 0.0


@dataclass(frozen=True, slots=True)
class Curve:
    """What came out of one cell, as far as it went.

    Attributes:
        strategy: label.
        losses: label.
        seed: of the cell.
        points: one per cycle that is finished; may be empty.
        complete: whether all cycles are finished, or the pool was exhausted.
    """

    strategy: str
    losses: str
    seed: int
    points: tuple[Point, ...]
    complete: bool

    def by_labels(self) -> Line:
        """mAP50 over labelled images."""
        return [point.labels for point in self.points], [point.quality for point in self.points]

    def by_boxes(self) -> Line:
        """mAP50 over labelled boxes."""
        return [point.boxes for point in self.points], [point.quality for point in self.points]


@dataclass(frozen=True, slots=True)
class Full:
    """A training on the whole pool.

    Attributes:
        losses: label.
        seed: as of the curves.
        point: what came out.
    """

    losses: str
    seed: int
    point: Point


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that an experiment found.

    Attributes:
        data: what it worked on, see `SimulationData.describe`.
        detector: see `DetectorSource.describe`.
        settings: see `Plan.common`; and `strategies` and `losses` by label.
        curves: seed by seed; behind them those that were in the folder already, where these were asked for, too.
        full: trainings on the whole pool, as far as they are there; where they were left out, those of earlier curves.
        failures: cells that failed, one sentence each.
        problems: what the readers of the data had to leave out, one sentence each.
        held_out: where the held-out images come from; "" where that is not known.
        missing_full: trainings on the whole pool that were asked for and are not there.
        ended_early: whether somebody stopped it.
        made_at: ISO 8601, UTC.
        versions: of Python and packages, when the report was made; for the trainings see `made_on`.
        hardware: that the report was made on.
    """

    data: Mapping[str, Any]
    detector: Mapping[str, Any]
    settings: Mapping[str, Any]
    curves: tuple[Curve, ...]
    full: tuple[Full, ...]
    failures: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    held_out: str = ""
    missing_full: int = 0
    ended_early: bool = False
    made_at: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    hardware: Mapping[str, Any] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every curve is there in full, and every training on the whole pool that was asked for."""
        return all(curve.complete for curve in self.curves) and not self.missing_full and not self.failures

    def groups(self) -> dict[tuple[str, str], list[Curve]]:
        """Curves that can be averaged, by strategy and losses, in the order of the settings; see `left_out`."""
        found: dict[tuple[str, str], list[Curve]] = {}
        for losses in self.settings["losses"]:
            for strategy in self.settings["strategies"]:
                curves = [c for c in self.curves if (c.strategy, c.losses) == (strategy, losses) and c.points]
                if curves:
                    found[strategy, losses] = _averaged(curves)
        return found

    @property
    def made_on(self) -> list[Mapping[str, str]]:
        """Where the trainings were made that say so, each place once, the first one first."""
        points = [*(point for curve in self.curves for point in curve.points), *(full.point for full in self.full)]
        found: list[Mapping[str, str]] = []
        for place in (point.made_on for point in points if point.made_on):
            if place not in found:
                found.append(place)
        return found

    @property
    def left_out(self) -> list[Curve]:
        """Curves that a stop or a failure cut short, where others of their strategy and losses go further.

        A mean goes as far as its shortest curve, so that one of them would take away what the others know.
        """
        kept = {id(curve) for curves in self.groups().values() for curve in curves}
        return [curve for curve in self.curves if curve.points and id(curve) not in kept]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a JSON document."""
        return plain({"format": FORMAT, **asdict(self), "complete": self.complete})

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Results:
        """The results that `as_dict` described."""
        given = {name: document[name] for name in cls.__dataclass_fields__ if name in document}
        given["curves"] = tuple(
            Curve(**{**curve, "points": tuple(map(_point, curve["points"]))}) for curve in document["curves"]
        )
        given["full"] = tuple(Full(full["losses"], full["seed"], _point(full["point"])) for full in document["full"])
        if "missing_full" not in document:  # of an older release
            wanted = len(document["settings"]["seeds"]) * len(document["settings"]["losses"])
            given["missing_full"] = max(0, wanted - len(document["full"])) if document["settings"]["full"] else 0
        given["failures"], given["problems"] = tuple(document["failures"]), tuple(document.get("problems", ()))
        return cls(**given)


def collect(experiment: Experiment, outcome: Outcome | None = None, *, others: bool = False) -> Results:
    """Read what is there of an experiment, finished or not.

    Args:
        experiment: its strategies, losses and seeds are read.
        outcome: of the run; None when nothing ran just now.
        others: whether to read other curves in the same folder, too, as far as they are complete.
    """
    plan, store = experiment.plan, experiment.store
    curves = [_curve(cell, store.cycles(cell), plan.cycles) for cell in plan.cells()]
    labels = plan.labels()
    strategies, losses = labels["strategies"], labels["losses"]
    asked = [(label, seed) for seed in plan.seeds for label, _ in plan.losses] if plan.full else []
    references = list(asked)
    if others:
        beside = [cell for cell in store.known_cells() if cell not in plan.cells()]
        more = [curve for cell in beside if (curve := _curve(cell, store.cycles(cell), plan.cycles)).complete]
        curves += more
        known = store.known_settings()
        # Random order stays the first of the lines, where it was.
        strategies = _joined(known["strategies"], strategies, {curve.strategy for curve in more})
        losses = _joined(known["losses"], losses, {curve.losses for curve in more})
        references = list(dict.fromkeys([*asked, *((curve.losses, curve.seed) for curve in curves)]))
    stored = {pair: store.full(*pair) for pair in references}
    full = [Full(*pair, _stored_point(document)) for pair, document in stored.items() if document is not None]
    unread = _unread(experiment.data.pool, curves, full)
    if unread:
        curves, full = _without(unread, experiment.data.pool, curves, full)
    return Results(
        data=plain(experiment.data.describe()),
        detector=plain(experiment.source.describe()),
        settings={
            **plan.common(),
            "strategies": strategies,
            "losses": losses,
            "seeds": sorted({*plan.seeds, *(curve.seed for curve in curves)}) if others else list(plan.seeds),
            "full": plan.full,
        },
        curves=tuple(curves),
        full=tuple(full),
        failures=tuple(outcome.failures) if outcome else (),
        problems=experiment.data.problems,
        held_out=experiment.data.held_out,
        missing_full=sum(stored[pair] is None for pair in asked),
        ended_early=outcome.ended_early if outcome else False,
        made_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions=versions(),
        hardware=hardware(),
    )


def _unread(pool: DetectionDataset, curves: Sequence[Curve], full: Sequence[Full]) -> set[str]:
    """Keys of the pool's images that some training or strategy could not read.

    A short training draws only some of its images, so the others tell what it has not noticed.
    """
    points = [*(point for curve in curves for point in curve.points), *(item.point for item in full)]
    sentences = {text for point in points for text in (*point.training.get("skipped", ()), *point.unreadable)}
    if not sentences:
        return set()
    keys = {image.key for image in pool.images}
    return {key for text in sentences if (key := _key_of(text, keys)) is not None}


def _key_of(sentence: str, keys: set[str]) -> str | None:
    """Which image a sentence `KEY: reason` is about; the longest key, because a key may hold a colon, too."""
    end = sentence.rfind(": ")
    while end > 0 and sentence[:end] not in keys:
        end = sentence.rfind(": ", 0, end)
    return sentence[:end] if end > 0 else None


def _without(
    unread: set[str], pool: DetectionDataset, curves: Sequence[Curve], full: Sequence[Full]
) -> tuple[list[Curve], list[Full]]:
    """The same curves with what was labelled counted without some images: alike for all, and never falling."""
    labels = {image.key: image.label for image in pool.images}

    def counted(point: Point, keys: Sequence[str]) -> Point:
        shown = [key for key in keys if key not in unread]
        counts = np.zeros(len(pool.classes), np.int64)
        for key in shown:
            counts += np.bincount(labels[key], minlength=len(pool.classes))
        by_class = dict(zip(pool.classes, counts.tolist(), strict=True))
        return replace(point, labels=len(shown), boxes=int(counts.sum()), class_counts=by_class)

    found = []
    for curve in curves:
        known: list[str] = []
        points = []
        for point in curve.points:
            known += point.labelled
            points.append(counted(point, known))
        found.append(replace(curve, points=tuple(points)))
    return found, [replace(item, point=counted(item.point, list(labels))) for item in full]


def _joined(known: Mapping[str, Any], own: Mapping[str, Any], others: set[str]) -> dict[str, Any]:
    """Settings by label, those of others in the order in which the folder knows them."""
    kept = {label: config for label, config in known.items() if label in own or label in others}
    return {**kept, **own}


def _curve(cell: Cell, documents: Sequence[Mapping[str, Any]], cycles: int) -> Curve:
    values: tuple[float | None, ...] = ()
    points: list[Point] = []
    for document in documents:
        points.append(_stored_point(document, values or (None,) * len(document["labelled"])))
        values = tuple(row["informativeness"] for row in document["selected"])
    # A cycle without a choice is the last one: all are done, or nothing was left to choose from.
    complete = len(points) > cycles or (bool(documents) and not documents[-1]["selected"])
    return Curve(cell.strategy, cell.losses, cell.seed, tuple(points), complete)


def _averaged(curves: Sequence[Curve]) -> list[Curve]:
    """The complete ones; where none is, the longest."""
    longest = max(len(curve.points) for curve in curves)
    return [c for c in curves if c.complete] or [c for c in curves if len(c.points) == longest]


def _stored_point(document: Mapping[str, Any], informativeness: tuple[float | None, ...] = ()) -> Point:
    seconds = {
        "training": document["training"].get("seconds"),
        "measuring": document.get("measuring_seconds"),
        "choosing": document.get("choosing_seconds"),
    }
    return Point(
        labels=document["labels"],
        boxes=document["boxes"],
        class_counts=document["class_counts"],
        metrics=Evaluation.from_dict(document["metrics"]),
        labelled=tuple(document.get("labelled", ())),
        informativeness=informativeness,
        training=document["training"],
        seconds={name: value for name, value in seconds.items() if value is not None},
        unreadable=tuple(document.get("unreadable", ())),
        made_on=document.get("made_on", {}),
    )


def _point(document: Mapping[str, Any]) -> Point:
    return Point(
        **{
            **document,
            "metrics": Evaluation.from_dict(document["metrics"]),
            "labelled": tuple(document["labelled"]),
            "informativeness": tuple(document["informativeness"]),
            "unreadable": tuple(document.get("unreadable", ())),
        }
    )
