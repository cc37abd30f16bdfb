"""One underwater picture and its true boxes, from nothing but a seed and an index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.data.reef.cast import cast
from model.data.reef.catalogue import SPECIES, find_species
from model.data.reef.paint import paint
from model.data.reef.water import Water, finish


@dataclass(frozen=True, slots=True)
class ReefConfig:
    """What to draw.

    Attributes:
        seed: 0 or more; another seed gives other pictures.
        size: (height, width) in pixels, each at least 32.
        species: class list, names from `SPECIES` and `OTHER_SPECIES`.
        empty_share: share of pictures without a fish, in [0, 1].
        burst_share: share of pictures that belong to a burst of near-duplicates, in [0, 1].
        burst_length: pictures in the longest burst, at least 2; bursts start at multiples of it.

    Raises:
        ValueError: a value outside these ranges, or an unknown species.
    """

    seed: int
    size: tuple[int, int] = (320, 320)
    species: tuple[str, ...] = SPECIES
    empty_share: float = 0.08
    burst_share: float = 0.4
    burst_length: int = 4

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}, expected 0 or more")
        if len(self.size) != 2 or min(self.size) < 32:
            raise ValueError(f"size is {self.size}, expected (height, width) of at least 32 pixels each")
        if not self.species or len(set(self.species)) != len(self.species):
            raise ValueError(f"species are {self.species}, expected at least one name and no name twice")
        for name in self.species:
            find_species(name)
        for name in ("empty_share", "burst_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a share from 0 to 1")
        if self.burst_length < 2:
            raise ValueError(f"burst_length is {self.burst_length}, expected 2 or more")


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A picture and what is in it.

    Attributes:
        image: shape (h, w, 3), uint8, RGB.
        xyxy: shape (n, 4), float32, tight visible extent of each fish in pixels; n may be 0.
        label: shape (n,), int64, index into the species list.
        group: first index of the burst; the picture's own index where it is in none.
    """

    image: NDArray[np.uint8]
    xyxy: NDArray[np.float32]
    label: NDArray[np.int64]
    group: int


def burst_of(index: int, config: ReefConfig) -> tuple[int, int]:
    """First index of the burst that picture `index` belongs to, and its place in it: (index, 0) where in none."""
    block, place = divmod(index, config.burst_length)
    rng = np.random.default_rng([config.seed, 1, block])
    if rng.random() >= config.burst_share:
        return index, 0
    halved = config.burst_length >= 4 and rng.random() < 0.5
    step = place % (config.burst_length // 2) if halved else place
    return index - step, step


def draw_scene(
    index: int,
    *,
    seed: int,
    size: tuple[int, int] = (320, 320),
    species: Sequence[str] = SPECIES,
    empty_share: float = 0.08,
    burst_share: float = 0.4,
) -> Scene:
    """Picture `index` of the endless series that `seed` gives; the same everywhere, in any order.

    Args:
        index: 0 or more.
        seed: see `ReefConfig`, as for the other arguments.
        size: (height, width) in pixels.
        species: class list.
        empty_share: share of pictures without a fish.
        burst_share: share of pictures in bursts.

    Raises:
        ValueError: a value that `ReefConfig` refuses, or a negative index.
    """
    return draw(index, ReefConfig(seed, size, tuple(species), empty_share, burst_share))


def draw(index: int, config: ReefConfig) -> Scene:
    """Picture `index` of the series described by `config`.

    Raises:
        ValueError: `index` is negative.
    """
    if index < 0:
        raise ValueError(f"index is {index}, expected 0 or more")
    group, step = burst_of(index, config)
    rng = np.random.default_rng([config.seed, 2, group])
    frame = np.random.default_rng([config.seed, 3, index])
    water = Water.sample(rng)
    fish = cast([find_species(name) for name in config.species], config.empty_share, water, rng)
    canvas, boxes, labels = paint(config.size, water, fish, rng, step)
    return Scene(finish(canvas, water, rng, frame), boxes, labels, group)
