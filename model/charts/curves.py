"""Learning curves: what labels bought, in an experiment with repetitions or in a project with versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from model.charts.picture import COLOURS, INK, MARKERS, PAPER, Picture, finish, plain_axes
from model.simulation.statistics import Line, interval


@dataclass(frozen=True, slots=True)
class Mark:
    """One measured point.

    Attributes:
        x: where.
        y: what was measured.
        low: lower end of its interval; None where there is none.
        high: upper end likewise.
        hollow: whether it stands aside: drawn without filling and not joined to the others.
        ring: whether it is the one that counts now.
        tip: what a pointer over it says.
    """

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    hollow: bool = False
    ring: bool = False
    tip: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes with learning curves.

    Attributes:
        x_label: what x counts.
        y_label: what y measures.
        lines: curves by the name in the legend, one per seed; their mean is drawn, with its 95 % interval as a band.
        levels: horizontal lines, by their name.
        marks: single points with intervals by the name in the legend, in the order in which they are joined.
        hollow_label: name in the legend for the hollow marks; "" leaves it out.
    """

    x_label: str
    y_label: str
    lines: Mapping[str, Sequence[Line]] = field(default_factory=dict)
    levels: Mapping[str, float] = field(default_factory=dict)
    marks: Mapping[str, Sequence[Mark]] = field(default_factory=dict)
    hollow_label: str = ""


def learning_curves(panels: Sequence[Panel], *, title: str = "", size: tuple[float, float] = (5.4, 4.3)) -> Picture:
    """Panels side by side, with one legend.

    Args:
        panels: at least one.
        title: above them.
        size: width and height of one panel, inches of 72 points.
    """
    figure = Figure(figsize=(size[0] * len(panels), size[1]), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    tips: dict[str, str] = {}
    for panel, ax in zip(panels, axes, strict=True):
        for index, (name, lines) in enumerate(panel.lines.items()):
            _curve(ax, name, lines, index)
        for index, (name, marks) in enumerate(panel.marks.items(), start=1 + len(panel.lines)):
            tips |= _marks(ax, name, marks, index)
        if panel.hollow_label and any(mark.hollow for marks in panel.marks.values() for mark in marks):
            ax.plot([], [], "o", markersize=6, color=INK, markerfacecolor=PAPER, label=panel.hollow_label)
        for name, level in panel.levels.items():
            ax.axhline(level, color=INK, linewidth=1, linestyle=":", label=name)
        ax.set_xlabel(panel.x_label)
        ax.set_ylabel(panel.y_label)
        _axes(ax)
    return finish(figure, axes[0], title, tips)


def _curve(ax: Axes, name: str, lines: Sequence[Line], index: int) -> None:
    length = min((len(x) for x, _ in lines), default=0)
    if not length:
        return
    x = [float(np.mean([line[0][step] for line in lines])) for step in range(length)]
    spread = [interval([float(line[1][step]) for line in lines]) for step in range(length)]
    means = [item.mean for item in spread if item is not None]
    lows = [item.low for item in spread if item is not None and item.low is not None]
    highs = [item.high for item in spread if item is not None and item.high is not None]
    colour = COLOURS[index % len(COLOURS)]
    style = "-" if index < len(COLOURS) else "--"
    ax.plot(x, means, style, color=colour, marker=MARKERS[index % len(MARKERS)], markersize=4, label=name)
    if len(lows) == len(highs) == length:
        ax.fill_between(x, lows, highs, color=colour, alpha=0.13, linewidth=0)


def _marks(ax: Axes, name: str, marks: Sequence[Mark], index: int) -> dict[str, str]:
    """Draw single points; returns what a pointer over each says, by the identifier that the point has."""
    colour, shape = COLOURS[index % len(COLOURS)], MARKERS[(index - 1) % len(MARKERS)]
    joined = [mark for mark in marks if not mark.hollow]
    ax.plot([mark.x for mark in joined], [mark.y for mark in joined], "-", color=colour, linewidth=1.4, zorder=2)
    for mark in marks:
        if mark.low is not None and mark.high is not None:
            ax.vlines(mark.x, mark.low, mark.high, color=colour, alpha=0.45, linewidth=1.6, zorder=2)
    tips = {}
    for number, mark in enumerate(marks):
        if mark.ring:
            ax.plot([mark.x], [mark.y], "o", markersize=13, color=colour, alpha=0.22, markeredgewidth=0, zorder=3)
        gid = f"mark-{index}-{number}"
        filling = PAPER if mark.hollow else colour
        ax.plot([mark.x], [mark.y], shape, markersize=6, color=colour, markerfacecolor=filling, gid=gid, zorder=4)
        if mark.tip:
            tips[gid] = mark.tip
    ax.plot([], [], shape, linestyle="-", markersize=6, color=colour, label=name)
    return tips


def _axes(ax: Axes) -> None:
    plain_axes(ax)
    ax.margins(x=0.03)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))  # images and boxes are whole
    # The band of two or three seeds can be wider than all curves, and mAP is never below 0.
    ax.set_ylim(bottom=max(0.0, ax.get_ylim()[0]), top=min(1.0, ax.get_ylim()[1]))
