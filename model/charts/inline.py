"""From the library's SVG file to an element inside of a page.

Style attributes and style sheets become presentation attributes, because a strict content policy forbids the first two;
colours become variables of the page, so that it can be light or dark; identifiers get the picture's name in front,
because two drawings in one page would share the names of their parts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.etree import ElementTree as Tree

_PROPERTIES = frozenset(
    {
        "fill",
        "fill-opacity",
        "fill-rule",
        "opacity",
        "stroke",
        "stroke-dasharray",
        "stroke-dashoffset",
        "stroke-linecap",
        "stroke-linejoin",
        "stroke-miterlimit",
        "stroke-opacity",
        "stroke-width",
        "font-size",
        "font-weight",
        "text-anchor",
    }
)
"""What moves from a style to attributes; fonts stay the page's."""
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_DECIMALS = re.compile(r"-?\d+\.\d{3,}")


def themed_svg(
    file: bytes,
    *,
    name: str,
    title: str,
    description: str,
    tips: Mapping[str, str],
    colours: Mapping[str, str],
) -> str:
    """The drawing of an SVG file as an `<svg>` element of a page.

    Args:
        file: as the library wrote it.
        name: unique in the page.
        title: of the drawing.
        description: of the drawing.
        tips: text by the identifier of a part, shown by a pointer over it.
        colours: variable (without `--chart-`) by the colour that it replaces, which stays where no page defines it.
    """
    root = Tree.fromstring(file)
    for part in root.iter():
        part.tag = part.tag.rpartition("}")[2]
    _drop(root)
    for part in root.iter():
        own = part.attrib.get("id", "")
        _plain_attributes(part, name, colours)
        if own in tips:
            part.set("class", "tip")
            tip = Tree.Element("title")
            tip.text = tips[own]
            part.insert(0, tip)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.attrib |= {
        "class": "chart",
        "role": "img",
        "aria-labelledby": f"{name}-title {name}-description",
        "stroke-linejoin": "round",
    }
    for position, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = Tree.Element(tag, {"id": f"{name}-{'title' if tag == 'title' else 'description'}"})
        element.text = text
        root.insert(position, element)
    return Tree.tostring(root, encoding="unicode")


def _drop(root: Tree.Element) -> None:
    """Remove what says who drew it, style sheets, and the background, which is the page's."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in ("metadata", "style") or child.attrib.get("id") == "patch_1":
                parent.remove(child)
        for text in ("text", "tail"):
            if not (getattr(parent, text) or "").strip():
                setattr(parent, text, None)


def _plain_attributes(part: Tree.Element, name: str, colours: Mapping[str, str]) -> None:
    found: dict[str, str] = {}
    for key, value in part.attrib.items():
        key = key.rpartition("}")[2]
        if key == "style":
            found |= _from_style(value, colours)
        elif key == "id":
            found["id"] = f"{name}-{value}"
        elif key == "href":
            found["href"] = value.replace("#", f"#{name}-", 1)
        elif key == "d":
            found["d"] = _DECIMALS.sub(_rounded, " ".join(value.split()))
        elif key == "clip-path":
            found["clip-path"] = _REFERENCE.sub(rf"url(#{name}-\1)", value)
        else:
            found[key] = _DECIMALS.sub(_rounded, value)
    part.attrib.clear()
    part.attrib |= found


def _from_style(style: str, colours: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for declaration in style.split(";"):
        key, _, value = (text.strip() for text in declaration.partition(":"))
        if key not in _PROPERTIES:
            continue
        variable = colours.get(value)
        found[key] = value if variable is None else f"var(--chart-{variable}, {value})"
    return found


def _rounded(match: re.Match[str]) -> str:
    return f"{float(match[0]):.2f}"
