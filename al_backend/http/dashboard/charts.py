"""The pictures of a project's page, drawn once for the same numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from al_backend.http.dashboard.facts import ProjectFacts, VersionFacts
from al_backend.http.dashboard.formats import quality, share
from al_backend.http.dashboard.state import Remembered
from al_backend.learning_curve import learning_curve
from model.charts import ClassShare, Mark, Panel, class_shares, learning_curves

_WIDTH, _HEIGHT = 11.0, 4.0
_SPARK = (100.0, 24.0)
LABELLED, PREDICTED = "labelled boxes", "predicted boxes in the pool"


@dataclass(frozen=True, slots=True)
class ClassRow:
    """A class over the versions.

    Attributes:
        latest: AP50 of the active version, else of the newest; None where it was not measured.
        change: against the first version that measured it.
        boxes: true boxes of the class in training, of the newest version.
        held_out: true boxes among the held-out images, of the newest version.
        line: of a small chart, as points of an SVG polyline; "" with fewer than two values.
        end: of the line.
        values: AP50 by version name.
    """

    name: str
    latest: float | None
    change: float | None
    boxes: int
    held_out: int
    line: str
    end: tuple[float, float]
    values: Mapping[str, float | None]


def curve_picture(facts: ProjectFacts, remembered: Remembered) -> Markup:
    """Learning curve: labels to mAP50 and mAP50-95, a point per version; empty without a measured version."""
    active = facts.active.name if facts.active else None
    rows = tuple(_curve_row(version, active) for version in facts.versions if version.map50 is not None)
    if not rows:
        return Markup("")

    def draw() -> str:
        marks = {
            "mAP50": [_mark(row, 0) for row in rows],
            "mAP50-95": [_mark(row, 1) for row in rows if row[4][1] is not None],
        }
        panel = Panel("labelled images", "mAP on held-out images", marks=marks, hollow_label="refused")
        last = rows[-1]
        return learning_curves([panel], size=(_WIDTH, _HEIGHT)).inline(
            name="learning-curve",
            title="Learning curve",
            description=f"{len(rows)} versions; the newest, from {last[1]:,} labels, has mAP50 {quality(last[4][0])}.",
        )

    return Markup(remembered.get(("curve", rows), draw))


def balance_picture(
    facts: ProjectFacts, predicted: Mapping[str, int], remembered: Remembered
) -> tuple[Markup, list[dict[str, Any]]]:
    """Shares of the classes among labelled and predicted boxes, and the same as rows; empty without either."""
    rows = balance_rows(facts, predicted)
    if not rows:
        return Markup(""), []
    both = bool(predicted)
    key = tuple((row["name"], round(row["labelled_share"], 4), round(row["predicted_share"], 4)) for row in rows)

    def draw() -> str:
        shares = [
            ClassShare(name, {LABELLED: labelled, **({PREDICTED: found} if both else {})})
            for name, labelled, found in key
        ]
        return class_shares(shares, width=_WIDTH).inline(
            name="class-balance",
            title="Class balance",
            description=f"The most labelled class is {key[0][0]} with {share(key[0][1])} of the boxes.",
        )

    return Markup(remembered.get(("balance", key, both), draw)), rows


def balance_rows(facts: ProjectFacts, predicted: Mapping[str, int]) -> list[dict[str, Any]]:
    """Per class the boxes that are labelled (in the newest version's training) and predicted, most labelled first."""
    labelled = dict(facts.versions[-1].label_counts) if facts.versions else {}
    names = [*labelled, *(name for name in predicted if name not in labelled)]
    all_labelled, all_predicted = sum(labelled.values()), sum(predicted.values())
    rows = [
        {
            "name": name,
            "labelled": labelled.get(name, 0),
            "predicted": predicted.get(name, 0),
            "labelled_share": labelled.get(name, 0) / all_labelled if all_labelled else 0.0,
            "predicted_share": predicted.get(name, 0) / all_predicted if all_predicted else 0.0,
        }
        for name in names
    ]
    return sorted(rows, key=lambda row: (-row["labelled"], -row["predicted"], row["name"]))


def class_rows(facts: ProjectFacts) -> list[ClassRow]:
    """Average precision per class over the versions, in the order of the newest version's classes."""
    if not facts.versions:
        return []
    shown = facts.active or facts.versions[-1]
    newest = facts.versions[-1]
    rows = []
    for name in newest.classes:
        values = {version.name: _ap50(version, name) for version in facts.versions}
        known = [value for value in values.values() if value is not None]
        latest = values.get(shown.name)
        line, end = _spark(list(values.values()))
        rows.append(
            ClassRow(
                name=name,
                latest=latest,
                change=latest - known[0] if latest is not None and len(known) > 1 else None,
                boxes=newest.label_counts.get(name, 0),
                held_out=int(_of_class(newest, name).get("boxes") or 0),
                line=line,
                end=end,
                values=values,
            )
        )
    return rows


def comparable(facts: ProjectFacts) -> list[tuple[int, float]]:
    """The points that the gain is counted from."""
    return learning_curve(facts.versions)


_Row = tuple[str, int, bool, bool, tuple[float | None, float | None], tuple[tuple[float, float] | None, ...]]


def _curve_row(version: VersionFacts, active: str | None) -> _Row:
    intervals = tuple(version.intervals.get(name) for name in ("map50", "map50_95"))
    values = (version.map50, version.map50_95)
    return version.name, version.images_labelled, version.promoted, version.name == active, values, intervals


def _mark(row: _Row, which: int) -> Mark:
    name, labels, promoted, active, values, intervals = row
    value, interval = values[which], intervals[which]
    assert value is not None
    metric = ("mAP50", "mAP50-95")[which]
    between = "" if interval is None else f" ({interval[0]:.3f} to {interval[1]:.3f})"
    state = "active" if active else "promoted" if promoted else "refused"
    return Mark(
        x=labels,
        y=value,
        low=None if interval is None else interval[0],
        high=None if interval is None else interval[1],
        hollow=not promoted and not active,
        ring=active and which == 0,
        tip=f"{name}, {state}: {labels:,} labels, {metric} {value:.3f}{between}",
    )


def _of_class(version: VersionFacts, name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = ((version.metrics or {}).get("per_class") or {}).get(name) or {}
    return found


def _ap50(version: VersionFacts, name: str) -> float | None:
    value = _of_class(version, name).get("ap50")
    return float(value) if isinstance(value, int | float) else None


def _spark(values: Sequence[float | None]) -> tuple[str, tuple[float, float]]:
    known = [(number, value) for number, value in enumerate(values) if value is not None]
    if len(known) < 2:
        return "", (0.0, 0.0)
    width, height = _SPARK
    first, last = known[0][0], known[-1][0]
    places = [
        (2 + (width - 4) * (number - first) / (last - first), height - 2 - (height - 4) * value)
        for number, value in known
    ]
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places), places[-1]
