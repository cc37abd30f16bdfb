"""The report of an experiment: from its results to one self-contained HTML page and one picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from model.charts import Panel, Picture, class_balance, learning_curves
from model.simulation.notes import notes
from model.simulation.results import Curve, Point, Results
from model.simulation.statistics import Interval, Line
from model.simulation.summary import LEVELS, StrategySummary, full_level, summarise

_NOTHING = "not reached"
_STYLE = """
:root { color-scheme: light dark; --ink: #111827; --quiet: #4b5563; --paper: #fff; --line: #e5e7eb; --note: #fff7ed;
  --good: #00694c; --bad: #a13d00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaee; --quiet: #a8b0bd; --paper: #14171d; --line: #303642;
  --note: #2c2118; --good: #4fcf9f; --bad: #ff9d66; --chart-ink: #e8eaee; --chart-quiet: #a8b0bd; --chart-grid: #303642;
  --chart-paper: #14171d; --chart-series-0: #9aa3b2; --chart-series-1: #4fa8e8; --chart-series-2: #ff8a4c;
  --chart-series-3: #34c99a; --chart-series-7: #c79a4a; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 68rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0.2rem; } h2 { font-size: 1.15rem; margin: 2rem 0 0.5rem; }
.facts, .small { color: var(--quiet); font-size: 0.9rem; } .verdicts { font-size: 1.1rem; padding-left: 1.2rem; }
.warning { border-left: 4px solid #d55e00; padding: 0.4rem 0.8rem; background: var(--note); }
.chart { display: block; width: 100%; min-width: 40rem; height: auto; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.92rem; }
th, td { padding: 0.3rem 0.7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } td.good { color: var(--good); font-weight: 600; }
td.bad { color: var(--bad); font-weight: 600; }
"""


def curves_picture(results: Results) -> Picture:
    """Learning curves, mean and 95 % band, over images and over boxes."""
    groups = results.groups()
    several = len({losses for _, losses in groups}) > 1
    levels = {
        f"everything labelled{f' ({losses})' if several else ''}": level
        for losses in results.settings["losses"]
        if (level := full_level(results, losses)) is not None
    }

    def lines(axis: Callable[[Curve], Line]) -> dict[str, list[Line]]:
        return {
            _title(strategy, losses, several): [axis(curve) for curve in curves]
            for (strategy, losses), curves in groups.items()
        }

    panels = [
        Panel("labelled images", "mAP50 on held-out images", lines(Curve.by_labels), levels),
        Panel("labelled boxes", "mAP50 on held-out images", lines(Curve.by_boxes), levels),
    ]
    return learning_curves(panels)


def balance_picture(results: Results) -> Picture:
    """Shares of the classes among the labelled boxes, per strategy and cycle, summed over seeds."""
    groups = results.groups()
    several = len({losses for _, losses in groups}) > 1
    classes = list(results.data["classes"])
    shares = {}
    for (strategy, losses), curves in groups.items():
        length = min(len(curve.points) for curve in curves)
        counts = [
            [sum(curve.points[step].class_counts[name] for curve in curves) for name in classes]
            for step in range(length)
        ]
        shares[_title(strategy, losses, several)] = [_shares(row) for row in counts]
    return class_balance(shares, classes, truth=_shares(results.data["pool_class_counts"]))


def report_page(results: Results) -> str:
    """The whole report: one HTML page without anything outside of it."""
    summaries = summarise(results)
    several = len(results.settings["losses"]) > 1
    name = escape(str(results.data["name"]))
    parts = [
        f"<h1>Would active learning have helped on {name}?</h1>",
        f'<p class="facts">{escape(_facts(results))}</p>',
        *(f'<p class="warning">{escape(note)}</p>' for note in notes(results)),
        _verdicts(summaries, several),
    ]
    if summaries:
        parts += [
            "<h2>Learning curves</h2>",
            _picture(curves_picture(results), "curves", "Learning curves over labelled images and boxes"),
            '<p class="small">Points are means over seeds, bands their 95 % intervals (Student\'s t). Every strategy '
            "starts from the same images and trains with the same seeds, always from the same base weights.</p>",
            "<h2>Against random order, and against everything labelled</h2>",
            _comparison(summaries, several),
            '<p class="small">Area: mean mAP50 over the labels that both curves cover. Gains are in points of mAP50, '
            "paired by seed, with 95 % intervals; coloured where the interval excludes zero. Labels and boxes to a "
            "share of full supervision are read off the mean curve.</p>",
            "<h2>Class balance of what was labelled</h2>",
            _picture(
                balance_picture(results), "balance", "Share of each class among the labelled boxes, cycle by cycle"
            ),
            "<h2>Classes at the end</h2>",
            _per_class(results, several),
        ]
    parts += ["<h2>How it was measured</h2>", _details(results)]
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Active learning on {name}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>\n'
        f"<body>\n{body}\n</body></html>\n"
    )


def _verdicts(summaries: Sequence[StrategySummary], several: bool) -> str:
    rows = [
        f"<li>{escape(f'Losses {item.losses}: ' if several else '')}{escape(item.verdict)}</li>"
        for item in summaries
        if item.verdict
    ]
    return f'<ul class="verdicts">{"".join(rows)}</ul>' if rows else ""


def _comparison(summaries: Sequence[StrategySummary], several: bool) -> str:
    shares = [f"{share:.0%}" for share in LEVELS] if any(item.costs for item in summaries) else []
    head = ["", "seeds", "mAP50 at the end", "labels", "boxes", "area", "gain per image", "gain per box"]
    head += [f"{what} to {share}" for share in shares for what in ("labels", "boxes")]
    rows = []
    for item in summaries:
        labels, boxes, quality = item.last
        cells = [
            _cell(_title(item.strategy, item.losses, several)),
            _cell(str(item.seeds)),
            _cell(f"{quality:.3f}"),
            _cell(f"{labels:,.0f}"),
            _cell(f"{boxes:,.0f}"),
            _cell("" if item.area_labels is None else f"{item.area_labels.mean:.3f}"),
            _gain(item.gain_labels),
            _gain(item.gain_boxes),
        ]
        cells += [_cell(_count(value)) for cost in item.costs for value in (cost.labels, cost.boxes)]
        rows.append(cells)
    return _table(head, rows)


def _per_class(results: Results, several: bool) -> str:
    head = ["AP50, mean over seeds", *results.data["classes"]]
    rows = []
    for (strategy, losses), curves in results.groups().items():
        last = [curve.points[-1] for curve in curves]
        rows.append(
            [_cell(_title(strategy, losses, several)), *(_cell(_ap50(last, name)) for name in results.data["classes"])]
        )
    for losses in results.settings["losses"]:
        points = [full.point for full in results.full if full.losses == losses]
        if points:
            title = _title("everything labelled", losses, several)
            rows.append([_cell(title), *(_cell(_ap50(points, name)) for name in results.data["classes"])])
    return _table(head, rows)


def _ap50(points: Sequence[Point], name: str) -> str:
    values = [point.metrics.per_class[name].ap50 for point in points]
    defined = [value for value in values if value is not None]
    return f"{sum(defined) / len(defined):.3f}" if defined else ""


def _facts(results: Results) -> str:
    data, settings = results.data, results.settings
    held_out = f" ({results.held_out})" if results.held_out else ""
    return (
        f"{data['pool_images']:,} images with {data['pool_boxes']:,} boxes of {len(data['classes'])} classes, "
        f"{data['test_images']:,} images held out{held_out}; "
        f"detector {results.detector.get('architecture', 'unknown')}; "
        f"{settings['initial']:,} labels at the start, {settings['budget']:,} per cycle, {settings['cycles']} cycles, "
        f"{len(settings['seeds'])} seed{'s' if len(settings['seeds']) != 1 else ''}."
    )


def _details(results: Results) -> str:
    rows: list[tuple[str, Any]] = [
        ("made at", results.made_at),
        *(("detector: " + k, v) for k, v in results.detector.items()),
    ]
    rows += [(name, value) for name, value in results.settings.items() if not isinstance(value, Mapping)]
    rows += [(f"training: {name}", value) for name, value in results.settings["training"].items()]
    rows += [(f"strategy {name}", _compact(value)) for name, value in results.settings["strategies"].items()]
    rows += [(f"losses {name}", _compact(value)) for name, value in results.settings["losses"].items()]
    rows += [("trained on", _compact(place)) for place in results.made_on]
    rows += [
        (f"report made with {name}", value) for name, value in (*results.versions.items(), *results.hardware.items())
    ]
    body = "".join(f"<tr><td>{escape(str(k))}</td><td>{escape(str(v))}</td></tr>" for k, v in rows)
    return (
        f'<details><summary>Settings, versions, hardware</summary><div class="scroll"><table>{body}</table></div>'
        "</details>"
    )


def _compact(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(text: str, kind: str = "") -> str:
    return f'<td class="{kind}">{escape(text)}</td>' if kind else f"<td>{escape(text)}</td>"


def _gain(gain: Interval | None) -> str:
    if gain is None:
        return _cell("")
    text = f"{100 * gain.mean:+.2f}"
    if gain.low is None or gain.high is None:
        return _cell(f"{text} (no interval)")
    kind = "good" if gain.above_zero else "bad" if gain.below_zero else ""
    return _cell(f"{text} ({100 * gain.low:+.2f} to {100 * gain.high:+.2f})", kind)


def _count(value: float | None) -> str:
    return _NOTHING if value is None else f"{math.ceil(value):,}"


def _shares(counts: Sequence[int]) -> list[float]:
    total = sum(counts)
    return [count / total if total else 0.0 for count in counts]


def _title(strategy: str, losses: str, several: bool) -> str:
    return f"{strategy}, losses {losses}" if several else strategy


def _picture(picture: Picture, name: str, text: str) -> str:
    drawn = picture.inline(name=name, title=text, description="The tables below have the numbers.")
    return f'<div class="scroll">{drawn}</div>'
