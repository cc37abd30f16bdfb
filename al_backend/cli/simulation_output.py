"""What `simulate` shows: how far it is while it runs, and what came out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from model.simulation.statistics import Interval

if TYPE_CHECKING:
    from rich.progress import TaskID

_LINE_EVERY = 10.0
Show = Callable[[str, float, float, "float | None"], None]
"""Called with what is being done, how much of it is done, how much there is, and the seconds left, if known."""


def simulation_text(document: dict[str, Any]) -> RenderableType:
    """What came out, for people."""
    summaries: Sequence[dict[str, Any]] = document["strategies"]
    several = len({item["losses"] for item in summaries}) > 1
    table = Table(title="mAP50 on held-out images")
    for name in ("strategy", "seeds", "labels", "boxes", "at the end", "gain per image", "gain per box"):
        table.add_column(name, justify="left" if name == "strategy" else "right")
    for item in summaries:
        labels, boxes, quality = item["last"]
        title = f"{item['strategy']}, losses {item['losses']}" if several else item["strategy"]
        table.add_row(
            escape(title),
            str(item["seeds"]),
            f"{labels:,.0f}",
            f"{boxes:,.0f}",
            f"{quality:.3f}",
            _gain(item["gain_labels"]),
            _gain(item["gain_boxes"]),
        )
    parts: list[RenderableType] = [table] if summaries else []
    prefix = "{losses}: {verdict}" if several else "{verdict}"
    parts += [escape(prefix.format(**item)) for item in summaries if item["verdict"]]
    parts += [f"! {escape(note)}" for note in document["notes"]]
    parts.append(escape(f"Report: {document['report']}"))
    return Group(*parts)


@contextmanager
def display(console: Console) -> Iterator[Show]:
    """A moving bar on a terminal; a line now and then where the output is kept."""
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = (
        SpinnerColumn(),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar: TaskID = progress.add_task("", total=1, left="")

        def show(what: str, done: float, total: float, left: float | None) -> None:
            progress.update(bar, description=what, completed=done, total=total, left=_left(left))

        yield show


def _lines(console: Console) -> Show:
    printed_at, printed = float("-inf"), -1.0

    def show(what: str, done: float, total: float, left: float | None) -> None:
        nonlocal printed_at, printed
        now = time.monotonic()
        if done == printed or (now - printed_at < _LINE_EVERY and done < total):
            return
        printed_at, printed = now, done
        text = f"{done:.1f} of {total:.0f}" if done != int(done) else f"{done:.0f} of {total:.0f}"
        console.print(f"{text} {_left(left)} {what}".replace("  ", " "), markup=False, highlight=False, soft_wrap=True)

    return show


def _left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{rest} s"
    return f"(about {text} left)"


def _gain(gain: dict[str, Any] | None) -> str:
    if gain is None:
        return ""
    found = Interval(**gain)
    if found.low is None or found.high is None:
        return f"{100 * found.mean:+.2f}"
    return f"{100 * found.mean:+.2f} ({100 * found.low:+.2f} to {100 * found.high:+.2f})"
