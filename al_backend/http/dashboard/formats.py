"""How numbers, sizes and times read."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from markupsafe import Markup, escape

from al_backend.masking import masked

NOTHING = "\N{EN DASH}"
"""Stands where there is no number."""

_CODE = re.compile(r"`([^`]+)`")
_CLASS_COLOURS = 8


def quality(value: float | None) -> str:
    """A mAP or AP, three decimals."""
    return NOTHING if value is None else f"{value:.3f}"


def points(value: float | None) -> str:
    """A difference of mAP in points, with its sign."""
    return NOTHING if value is None else f"{100 * value:+.2f}".replace("-", "\N{MINUS SIGN}")


def count(value: float | None) -> str:
    """A whole number with thousands apart."""
    return NOTHING if value is None else f"{value:,.0f}"


def share(value: float | None) -> str:
    """Per cent without decimals."""
    return NOTHING if value is None else f"{100 * value:.0f} %"


def size(value: float | None) -> str:
    """Bytes as people say them."""
    if value is None:
        return NOTHING
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def duration(seconds: float | None) -> str:
    """Seconds as people say them."""
    if seconds is None:
        return NOTHING
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def moment(value: datetime | str | None) -> str:
    """A time as text, UTC, to the minute."""
    found = _parsed(value)
    return NOTHING if found is None else found.strftime("%Y-%m-%d %H:%M UTC")


def time_element(value: datetime | str | None) -> Markup:
    """A `<time>` that the script turns into the reader's own time."""
    found = _parsed(value)
    if found is None:
        return Markup(NOTHING)
    return Markup('<time datetime="{}">{}</time>').format(found.isoformat(), moment(found))


def with_code(text: str) -> Markup:
    """A sentence with what stands between back ticks as code, and without any secret that an error may quote."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(masked(text)))))


def measured(value: float | None) -> str:
    """A measured value of any size: two decimals, or three significant digits where these say little."""
    if value is None:
        return NOTHING
    if value == 0 or 0.005 <= abs(value) < 100:
        return f"{value:.2f}"
    return f"{value:.3g}"


def class_colour(index: int) -> str:
    """The style class of the n-th label."""
    return f"label-{index % _CLASS_COLOURS}"


def _parsed(value: datetime | str | None) -> datetime | None:
    if not value:
        return None
    found = datetime.fromisoformat(value) if isinstance(value, str) else value
    return found.astimezone(timezone.utc)


FILTERS: dict[str, Callable[[Any], Any]] = {
    "quality": quality,
    "points": points,
    "count": count,
    "share": share,
    "size": size,
    "duration": duration,
    "moment": moment,
    "time": time_element,
    "with_code": with_code,
    "measured": measured,
    "class_colour": class_colour,
}
