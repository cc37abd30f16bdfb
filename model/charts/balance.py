"""How classes share the boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from model.charts.picture import COLOURS, Picture, finish, plain_axes

MOST_CLASSES = 24
"""Bars that a person still compares; a table beside the picture has the others."""


@dataclass(frozen=True, slots=True)
class ClassShare:
    """One class among all boxes.

    Attributes:
        name: of the class.
        shares: by the name of what was counted, in [0, 1].
    """

    name: str
    shares: Mapping[str, float]


def class_balance(
    shares: Mapping[str, Sequence[Sequence[float]]],
    classes: Sequence[str],
    *,
    truth: Sequence[float] = (),
    title: str = "",
) -> Picture:
    """For each strategy, which share of the labelled boxes each class has, cycle by cycle, as a stack.

    Args:
        shares: by strategy, a row per cycle with one share per class, adding up to 1 (or to 0 without a box).
        classes: names.
        truth: shares in the whole pool, drawn as one more stack; empty leaves it out.
        title: above.
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
        plain_axes(ax)
        ax.grid(visible=False)
        ax.set_title(name, fontsize=10)
        ax.set_xlabel("cycle")
        ax.set_ylim(0, 1)
    for ax in grid[len(shares) :]:
        ax.set_visible(False)
    grid[0].set_ylabel("share of the labelled boxes")
    return finish(figure, grid[0], title)


def class_shares(rows: Sequence[ClassShare], *, width: float = 6.4) -> Picture:
    """Bars side by side per class, the first classes of `rows` on top; at most `MOST_CLASSES` of them.

    Args:
        rows: with shares of the same names each.
        width: inches of 72 points.
    """
    shown = rows[:MOST_CLASSES]
    names = list(shown[0].shares) if shown else []
    figure = Figure(
        figsize=(width, 0.9 + max(2, len(shown)) * (0.14 + 0.15 * max(1, len(names)))), layout="constrained"
    )
    ax = figure.subplots()
    thickness = 0.78 / max(1, len(names))
    tips: dict[str, str] = {}
    for index, name in enumerate(names):
        places = np.arange(len(shown)) + (index - (len(names) - 1) / 2) * thickness
        values = [row.shares[name] for row in shown]
        bars = ax.barh(places, values, height=thickness * 0.86, color=COLOURS[index + 1], label=name)
        for number, (bar, row) in enumerate(zip(bars, shown, strict=True)):
            bar.set_gid(f"bar-{index}-{number}")
            tips[f"bar-{index}-{number}"] = f"{row.name}: {row.shares[name]:.1%} of {name}"
    ax.set_yticks(range(len(shown)), [row.name for row in shown])
    ax.invert_yaxis()
    plain_axes(ax)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    ax.set_xlabel("share of all boxes")
    return finish(figure, ax, "", tips)
