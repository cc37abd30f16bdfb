"""Parses XML of strangers: no document types, so no entities that grow without end or name other files."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

MAX_BYTES = 16 << 20
"""Of one file; an annotation with 10,000 boxes takes three megabytes."""
MAX_DEPTH = 50
"""Elements inside one another; an annotation needs five."""


def parse_xml(path: Path) -> Element:
    """The root element.

    Raises:
        ValueError: not well-formed, too large or too deep, in an unknown encoding, or with a document type.
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"it has {size:,} bytes, more than the {MAX_BYTES:,} that are read")
    builder = TreeBuilder()
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"its elements lie more than {MAX_DEPTH} deep inside one another")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse
    try:
        parser.Parse(path.read_bytes(), True)
    except expat.ExpatError as error:
        raise ValueError(f"it is not well-formed XML ({error})") from error
    except LookupError as error:
        raise ValueError(f"its encoding is unknown ({error})") from error
    return builder.close()


def _refuse(name: str, *_: object) -> None:
    raise ValueError(f"it declares a document type ({name}), which annotations do not need and which is not read")
