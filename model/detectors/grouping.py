"""Which images go through a network together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence


def alike(canvases: Sequence[tuple[int, int]], at_once: int) -> Iterator[list[int]]:
    """Positions of images with canvases of the same (height, width), at most `at_once` together."""
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, canvas in enumerate(canvases):
        groups[canvas].append(index)
    for group in groups.values():
        for start in range(0, len(group), at_once):
            yield group[start : start + at_once]
