"""The frame of every benchmark: arguments, one document with where and with what it was measured, and a table."""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from al_backend.cli.output import result_console
from model.simulation.environment import hardware, versions

_PACKAGES = ("torch", "ultralytics", "numpy", "polars", "redis", "rq", "flask", "gunicorn", "label-studio-sdk")
_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Goal:
    """A number that was promised.

    Attributes:
        name: what is measured.
        value: what came out.
        goal: the promise in words, such as "< 200 ms".
        met: whether it was kept.
    """

    name: str
    value: float | int | str | None
    goal: str
    met: bool


@dataclass
class Outcome:
    """What a benchmark found: rows of equal kind, goals, and sentences that a reader of the numbers needs."""

    results: list[dict[str, Any]] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Options:
    """What the command line said.

    Attributes:
        quick: small enough for five minutes on two cores.
        label_studio: the `label-studio` program; None searches for it.
        work: folder in which a long benchmark keeps what it has done; None for its own choice.
        detectors: the only ones to be measured, by the short or full names of their architectures; empty for all.
        go_on: whether to begin with the results that are committed, where a benchmark keeps such.
        report: whether to measure nothing and tell what is there already, where a benchmark can.
    """

    quick: bool
    label_studio: Path | None
    work: Path | None = None
    detectors: tuple[str, ...] = ()
    go_on: bool = False
    report: bool = False

    def wants(self, *names: str) -> bool:
        """Whether the detector of these names is to be measured."""
        return not self.detectors or any(name in self.detectors for name in names)


def main(name: str, question: str, measure: Callable[[Options], Outcome]) -> int:
    """Run a benchmark as `python -m benchmarks.NAME [--quick] [--json FILE]`.

    Args:
        name: of the module.
        question: that it answers, one sentence.
        measure: the benchmark.

    Returns:
        Exit code 0; a goal that was not met is a result, not an error.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=question)
    parser.add_argument("--quick", action="store_true", help="end within five minutes on two cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the document there")
    parser.add_argument("--label-studio", type=Path, metavar="PROGRAM", help="the label-studio program")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="where a long benchmark keeps what it has done")
    parser.add_argument(
        "--detector", action="append", default=[], metavar="NAME", help="only this one of several; may come again"
    )
    parser.add_argument("--go-on", action="store_true", help="begin with the results that are committed, if it can")
    parser.add_argument("--report", action="store_true", help="measure nothing, tell what is there, if it can")
    given = parser.parse_args()
    load_before = os.getloadavg()
    outcome = measure(
        Options(given.quick, given.label_studio, given.work, tuple(given.detector), given.go_on, given.report)
    )
    written = document(name, outcome, quick=given.quick, load_before=load_before)
    show(question, outcome)
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(written, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return 0


def document(name: str, outcome: Outcome, *, quick: bool, load_before: Sequence[float]) -> dict[str, Any]:
    """The document that all benchmarks share."""
    return {
        "name": name,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "quick": quick,
        "hardware": {**_hardware(), "load_before": [round(value, 2) for value in load_before]},
        "versions": versions(_PACKAGES),
        "results": outcome.results,
        "goals": [asdict(goal) for goal in outcome.goals],
        "notes": outcome.notes,
    }


def show(title: str, outcome: Outcome) -> None:
    """Print results and goals as tables."""
    console = result_console()
    if outcome.results:
        console.print(_table(title, outcome.results))
    if outcome.goals:
        rows = [{**asdict(goal), "met": "yes" if goal.met else "NO"} for goal in outcome.goals]
        console.print(_table("Goals", rows))
    for note in outcome.notes:
        console.print(note)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and range of a list of numbers.

    Raises:
        ValueError: the list is empty.
    """
    if not values:
        raise ValueError("no value to summarise; at least one is needed")
    low, first, median, third, high = np.percentile(np.asarray(values, np.float64), [0, 25, 50, 75, 100])
    numbers = {"median": median, "q1": first, "q3": third, "min": low, "max": high}
    return {key: _rounded(float(value)) for key, value in numbers.items()}


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 100) percent of the values lie."""
    return _rounded(float(np.percentile(np.asarray(values, np.float64), share)))


def commit() -> str | None:
    """The commit that is measured, with "+" when files differ from it; None outside of a git repository."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")


def _hardware() -> dict[str, Any]:
    found = hardware()
    gpus = found.pop("gpus")
    return {**found, "gpu": gpus[0] if gpus else None}


def _git(*arguments: str) -> str:
    answer = subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, text=True, timeout=10, check=True)
    return answer.stdout.strip()


def _table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(title=title)
    for name in names:
        table.add_column(name.replace("_", " "), justify="right", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in names))
    return table


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict) and value.keys() == {"median", "q1", "q3", "min", "max"}:
        return f"{value['median']:.4g} ({value['min']:.4g} to {value['max']:.4g})"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_cell(item)}" for key, item in value.items())
    return "" if value is None else str(value)


def _rounded(value: float) -> float:
    """Four significant digits: more would be noise."""
    return value if value == 0 or not math.isfinite(value) else round(value, 3 - math.floor(math.log10(abs(value))))
