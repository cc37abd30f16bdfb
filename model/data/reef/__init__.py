"""Generated underwater pictures with true boxes: the data of the demo, the tests and the label-efficiency benchmark.

In the spirit of a fish observatory: eight species of very different frequency in water from clear to murky, half
hidden by plants and each other, with rocks, bubbles and debris that are no fish, empty pictures and bursts of
near-duplicates. Everything follows from a seed and an index; nothing is downloaded.
"""

from __future__ import annotations

from model.data.reef.catalogue import OTHER_SPECIES, SPECIES
from model.data.reef.files import draw_dataset_in_memory, write_reef
from model.data.reef.scene import ReefConfig, Scene, burst_of, draw, draw_scene

__all__ = [
    "OTHER_SPECIES",
    "SPECIES",
    "ReefConfig",
    "Scene",
    "burst_of",
    "draw",
    "draw_dataset_in_memory",
    "draw_scene",
    "write_reef",
]
