"""A drawing that can become a file, or a part of a page."""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from model.charts.inline import themed_svg

# Told apart also by those who see few colours (Okabe and Ito).
COLOURS = ("#6b7280", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a5a00")
MARKERS = "osD^vP*X"
INK, QUIET, GRID, PAPER = "#111827", "#4b5563", "#e5e7eb", "#ffffff"

_NAMES = {
    INK: "ink",
    QUIET: "quiet",
    GRID: "grid",
    PAPER: "paper",
    **{colour: f"series-{n}" for n, colour in enumerate(COLOURS)},
}
"""What a colour stands for: a page gives `--chart-ink` and so on its own values, light or dark."""

# Settings of the library are global, and pages are drawn by several threads.
_DRAWING = threading.Lock()


@dataclass(frozen=True)
class Picture:
    """A drawing.

    Attributes:
        figure: as the library has it.
        tips: what a pointer over a part says, by the part's `gid`.
    """

    figure: Figure
    tips: Mapping[str, str] = field(default_factory=dict)

    def file(self, format: str = "svg") -> bytes:
        """A file of its own, `svg` or `png`; the same numbers give the same bytes."""
        buffer = io.BytesIO()
        with _DRAWING, matplotlib.rc_context(_settings()):
            FigureCanvasAgg(self.figure)
            self.figure.savefig(buffer, format=format, dpi=140, metadata={"Date": None} if format == "svg" else None)
        return buffer.getvalue()

    def inline(self, *, name: str, title: str, description: str) -> str:
        """An `<svg>` element for a page: no style but what a page with a strict policy allows, no identifier twice.

        Args:
            name: unique among the pictures of the page, letters and hyphens.
            title: what it shows, for those who cannot see it.
            description: what it says, in a sentence or two.
        """
        return themed_svg(
            self.file("svg"), name=name, title=title, description=description, tips=self.tips, colours=_NAMES
        )


def finish(figure: Figure, legend_of: Axes, title: str, tips: Mapping[str, str] | None = None) -> Picture:
    """The figure as a picture, with a title above and a legend beside it where there is something to name."""
    if title:
        figure.suptitle(title, fontsize=12)
    handles, labels = legend_of.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=9, labelcolor=INK)
    return Picture(figure, tips or {})


def plain_axes(ax: Axes) -> None:
    """Few lines and quiet ones, so that the numbers stand out."""
    ax.spines[["top", "right"]].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(QUIET)
    ax.tick_params(colors=QUIET, labelcolor=INK)
    ax.xaxis.label.set_color(INK)
    ax.yaxis.label.set_color(INK)
    ax.grid(color=GRID, linewidth=0.7)
    ax.set_axisbelow(True)


def _settings() -> dict[Any, Any]:
    # Text stays text and identifiers depend on the content alone.
    return {"svg.hashsalt": "curves", "svg.fonttype": "none", "font.family": "sans-serif"}
