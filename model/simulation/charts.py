"""Pictures of learning curves and class balance, as SVG or PNG; they know nothing of where the numbers come from."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from model.simulation.statistics import Line, interval

# Told apart also by those who see few colours (Okabe and Ito).
COLOURS = ("#6b7280", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a5a00")
MARKERS = "osD^vP*X"


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes with learning curves.

    Attributes:
        x_label: what x counts.
        y_label: what y measures.
        lines: curves by the name in the legend, one per seed; their mean is drawn, with its 95 % interval as a band.
        levels: horizontal lines, by their name.
    """

    x_label: str
    y_label: str
    lines: Mapping[str, Sequence[Line]]
    levels: Mapping[str, float] = field(default_factory=dict)


def learning_curves(panels: Sequence[Panel], *, title: str = "", format: str = "svg") -> bytes:
    """Panels side by side, with one legend.

    Args:
        panels: at least one.
        title: above them.
        format: `svg` or `png`.
    """
    figure = Figure(figsize=(5.4 * len(panels), 4.3), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for panel, ax in zip(panels, axes, strict=True):
        for index, (name, lines) in enumerate(panel.lines.items()):
            _curve(ax, name, lines, index)
        for name, level in panel.levels.items():
            ax.axhline(level, color="#111827", linewidth=1, linestyle=":", label=name)
        ax.set_xlabel(panel.x_label)
        ax.set_ylabel(panel.y_label)
        _plain_axes(ax)
    return _rendered(figure, axes[0], title, format)


def class_balance(
    shares: Mapping[str, Sequence[Sequence[float]]],
    classes: Sequence[str],
    *,
    truth: Sequence[float] = (),
    title: str = "",
    format: str = "svg",
) -> bytes:
    """For each strategy, which share of the labelled boxes each class has, cycle by cycle, as a stack.

    Args:
        shares: by strategy, a row per cycle with one share per class, adding up to 1 (or to 0 without a box).
        classes: names.
        truth: shares in the whole pool, drawn as one more stack; empty leaves it out.
        title: above.
        format: `svg` or `png`.
    """
    columns = min(4, max(1, len(shares)))
    rows = -(-max(1, len(shares)) // columns)
    figure = Figure(figsize=(2.9 * columns + 1.2, 2.6 * rows + 0.6), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    palette = matplotlib.colormaps["tab20"]
    for ax, (name, stack) in zip(grid, shares.items(), strict=False):
        values = np.array([*stack, *([truth] if len(truth) else [])], np.float64).reshape(-1, len(classes))
        names = [*map(str, range(len(stack))), *(["pool"] if len(truth) else [])]
        below = np.zeros(len(values))
        for index, label in enumerate(classes):
            ax.bar(names, values[:, index], bottom=below, width=0.85, color=palette(index % 20), label=label)
            below += values[:, index]
        ax.set_title(name, fontsize=10)
        ax.set_xlabel("cycle")
        ax.set_ylim(0, 1)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in grid[len(shares) :]:
        ax.set_visible(False)
    grid[0].set_ylabel("share of the labelled boxes")
    return _rendered(figure, grid[0], title, format)


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


def _plain_axes(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="#e5e7eb", linewidth=0.7)
    ax.set_axisbelow(True)
    ax.margins(x=0.03)
    # The band of two or three seeds can be wider than all curves, and mAP is never below 0.
    ax.set_ylim(bottom=max(0.0, ax.get_ylim()[0]), top=min(1.0, ax.get_ylim()[1]))


def _rendered(figure: Figure, legend_of: Axes, title: str, format: str) -> bytes:
    if title:
        figure.suptitle(title, fontsize=12)
    handles, labels = legend_of.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=9)
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    # The same numbers give the same file: no date, no random ids.
    with matplotlib.rc_context({"svg.hashsalt": "curves", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(buffer, format=format, dpi=140, metadata={"Date": None} if format == "svg" else None)
    return buffer.getvalue()
