"""What the generated fish look like: body, fins, colours and pattern of every species, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Colour = tuple[float, float, float]
"""Red, green, blue in [0, 1], as seen in clear water close to the camera."""

FinShape = Literal["soft", "spiny", "triangle", "swept", "fringe"]
TailShape = Literal["forked", "crescent", "straight", "round", "pointed"]
Pattern = Literal[
    "plain",
    "mottle",
    "bars",
    "wavy_back",
    "stripes",
    "spots",
    "warts",
    "lattice",
    "bands",
    "diagonal",
    "blotches",
    "mask",
]
Zone = Literal["water", "near_bed", "bed"]


@dataclass(frozen=True, slots=True)
class Fin:
    """An unpaired fin; lengths in body lengths (nose to tail base).

    Attributes:
        side: -1 on the back, 1 on the belly.
        start: where it begins along the body, 0 at the nose, 1 at the tail base.
        end: where it ends.
        height: above the body's outline.
        shape: of its outer edge.
        lean: how far the outer edge is shifted towards the tail.
    """

    side: Literal[-1, 1]
    start: float
    end: float
    height: float
    shape: FinShape = "soft"
    lean: float = 0.04


@dataclass(frozen=True, slots=True)
class Species:
    """One species; lengths in body lengths (nose to tail base) unless told otherwise.

    Attributes:
        name: class name.
        abundance: relative frequency, the source of the long tail.
        size: typical total length close to the camera, share of the shorter image side.
        up: half heights of the back at equally spaced places from nose to tail base.
        down: half heights of the belly, likewise.
        fins: unpaired fins.
        tail: shape of the tail fin.
        tail_length: of the tail fin.
        tail_spread: half height of the tail fin.
        back: colour of the back.
        flank: colour of the side.
        belly: colour of the belly.
        mark: colour of the pattern.
        fin: colour of all fins.
        pattern: which pattern is drawn with `mark`.
        count: bars, stripes or spots in the pattern.
        strength: of the pattern, in [0, 1].
        bend: amplitude of the swimming wave.
        waves: of the body along its length.
        eye: radius of the eye.
        zone: where in the scene it lives.
        school: chance that it comes with others of its kind, in [0, 1].
        tilt: standard deviation of its rotation in degrees.
    """

    name: str
    abundance: float
    size: float
    up: tuple[float, ...]
    down: tuple[float, ...]
    tail: TailShape
    tail_length: float
    tail_spread: float
    back: Colour
    flank: Colour
    belly: Colour
    mark: Colour
    fin: Colour
    pattern: Pattern
    count: int = 0
    strength: float = 0.8
    fins: tuple[Fin, ...] = field(default=())
    bend: float = 0.04
    waves: float = 0.6
    eye: float = 0.022
    zone: Zone = "water"
    school: float = 0.1
    tilt: float = 12.0


# A table: body, tail, colours, pattern and way of life of each species in the same place.
# fmt: off
DEMO = (
    Species(
        "herring", 1.0, 0.30,
        up=(0.0, 0.055, 0.08, 0.095, 0.095, 0.085, 0.065, 0.04, 0.028),
        down=(0.0, 0.05, 0.085, 0.105, 0.11, 0.095, 0.07, 0.04, 0.028),
        tail="forked", tail_length=0.2, tail_spread=0.14,
        back=(0.16, 0.30, 0.42), flank=(0.72, 0.78, 0.82), belly=(0.92, 0.93, 0.92),
        mark=(0.85, 0.9, 0.95), fin=(0.5, 0.56, 0.58),
        pattern="plain", strength=0.2, fins=(Fin(-1, 0.45, 0.6, 0.07, "triangle"), Fin(1, 0.75, 0.88, 0.03)),
        school=0.6, eye=0.026,
    ),
    Species(
        "cod", 0.62, 0.48,
        up=(0.015, 0.075, 0.115, 0.13, 0.125, 0.105, 0.08, 0.05, 0.035),
        down=(0.015, 0.08, 0.115, 0.13, 0.13, 0.105, 0.075, 0.045, 0.033),
        tail="straight", tail_length=0.13, tail_spread=0.1,
        back=(0.36, 0.33, 0.20), flank=(0.56, 0.52, 0.34), belly=(0.86, 0.84, 0.74),
        mark=(0.24, 0.19, 0.10), fin=(0.38, 0.34, 0.22),
        pattern="mottle", strength=0.75,
        fins=(Fin(-1, 0.27, 0.43, 0.085), Fin(-1, 0.45, 0.66, 0.075), Fin(-1, 0.69, 0.87, 0.06),
              Fin(1, 0.48, 0.66, 0.065), Fin(1, 0.69, 0.86, 0.055)),
        zone="near_bed", eye=0.024,
    ),
    Species(
        "perch", 0.42, 0.36,
        up=(0.01, 0.09, 0.17, 0.215, 0.21, 0.17, 0.11, 0.06, 0.042),
        down=(0.01, 0.07, 0.12, 0.145, 0.15, 0.13, 0.09, 0.055, 0.04),
        tail="forked", tail_length=0.16, tail_spread=0.14,
        back=(0.24, 0.34, 0.16), flank=(0.62, 0.66, 0.36), belly=(0.9, 0.88, 0.72),
        mark=(0.10, 0.15, 0.07), fin=(0.86, 0.38, 0.14),
        pattern="bars", count=6, strength=0.85,
        fins=(Fin(-1, 0.28, 0.58, 0.13, "spiny"), Fin(-1, 0.62, 0.82, 0.08), Fin(1, 0.66, 0.82, 0.08, "triangle")),
        eye=0.028, school=0.25,
    ),
    Species(
        "plaice", 0.31, 0.38,
        up=(0.02, 0.12, 0.2, 0.25, 0.265, 0.24, 0.18, 0.1, 0.05),
        down=(0.02, 0.12, 0.2, 0.25, 0.265, 0.24, 0.18, 0.1, 0.05),
        tail="round", tail_length=0.17, tail_spread=0.1,
        back=(0.44, 0.36, 0.24), flank=(0.48, 0.4, 0.27), belly=(0.46, 0.38, 0.26),
        mark=(0.92, 0.46, 0.14), fin=(0.36, 0.29, 0.19),
        pattern="spots", count=14, strength=0.9,
        fins=(Fin(-1, 0.14, 0.95, 0.09, "fringe"), Fin(1, 0.2, 0.95, 0.09, "fringe")),
        bend=0.02, zone="bed", tilt=16.0, eye=0.022,
    ),
    Species(
        "mackerel", 0.24, 0.36,
        up=(0.0, 0.045, 0.075, 0.095, 0.1, 0.09, 0.06, 0.03, 0.016),
        down=(0.0, 0.05, 0.085, 0.105, 0.11, 0.095, 0.065, 0.03, 0.016),
        tail="crescent", tail_length=0.15, tail_spread=0.15,
        back=(0.12, 0.42, 0.42), flank=(0.68, 0.78, 0.78), belly=(0.93, 0.93, 0.9),
        mark=(0.03, 0.07, 0.12), fin=(0.3, 0.36, 0.36),
        pattern="wavy_back", count=13, strength=0.95,
        fins=(Fin(-1, 0.28, 0.42, 0.07, "triangle"), Fin(-1, 0.6, 0.92, 0.045, "spiny"),
              Fin(1, 0.62, 0.92, 0.045, "spiny")),
        school=0.35, bend=0.03,
    ),
    Species(
        "wrasse", 0.18, 0.32,
        up=(0.015, 0.07, 0.125, 0.155, 0.16, 0.15, 0.12, 0.085, 0.07),
        down=(0.015, 0.07, 0.12, 0.15, 0.155, 0.14, 0.115, 0.085, 0.07),
        tail="round", tail_length=0.17, tail_spread=0.11,
        back=(0.76, 0.34, 0.10), flank=(0.9, 0.5, 0.16), belly=(0.95, 0.7, 0.36),
        mark=(0.10, 0.28, 0.80), fin=(0.22, 0.42, 0.76),
        pattern="stripes", count=4, strength=0.9, fins=(Fin(-1, 0.26, 0.9, 0.085), Fin(1, 0.56, 0.9, 0.075)),
        eye=0.024, zone="near_bed",
    ),
    Species(
        "eel", 0.14, 0.52,
        up=(0.004, 0.02, 0.03, 0.034, 0.036, 0.036, 0.034, 0.03, 0.022),
        down=(0.004, 0.02, 0.03, 0.034, 0.036, 0.036, 0.034, 0.03, 0.022),
        tail="pointed", tail_length=0.1, tail_spread=0.022,
        back=(0.2, 0.2, 0.12), flank=(0.36, 0.35, 0.2), belly=(0.78, 0.72, 0.46),
        mark=(0.3, 0.3, 0.16), fin=(0.25, 0.25, 0.15),
        pattern="plain", strength=0.3, fins=(Fin(-1, 0.3, 1.0, 0.018, "fringe"), Fin(1, 0.42, 1.0, 0.018, "fringe")),
        bend=0.16, waves=1.2, zone="near_bed", tilt=24.0, eye=0.009,
    ),
    Species(
        "lumpsucker", 0.10, 0.28,
        up=(0.06, 0.17, 0.25, 0.3, 0.31, 0.27, 0.19, 0.1, 0.06),
        down=(0.05, 0.15, 0.22, 0.26, 0.27, 0.23, 0.16, 0.09, 0.055),
        tail="straight", tail_length=0.15, tail_spread=0.1,
        back=(0.36, 0.36, 0.40), flank=(0.58, 0.5, 0.5), belly=(0.82, 0.5, 0.42),
        mark=(0.16, 0.15, 0.2), fin=(0.46, 0.36, 0.38),
        pattern="warts", count=4, strength=0.85,
        fins=(Fin(-1, 0.25, 0.55, 0.08, "spiny"), Fin(-1, 0.7, 0.88, 0.08), Fin(1, 0.7, 0.88, 0.08)),
        bend=0.02, eye=0.034, zone="near_bed", tilt=14.0,
    ),
)

OTHERS = (
    Species(
        "tang", 1.0, 0.32,
        up=(0.02, 0.14, 0.24, 0.29, 0.3, 0.27, 0.19, 0.09, 0.04),
        down=(0.02, 0.13, 0.22, 0.27, 0.28, 0.25, 0.18, 0.09, 0.04),
        tail="crescent", tail_length=0.18, tail_spread=0.19,
        back=(0.1, 0.22, 0.7), flank=(0.14, 0.3, 0.84), belly=(0.2, 0.4, 0.86),
        mark=(0.03, 0.04, 0.14), fin=(0.92, 0.8, 0.14),
        pattern="mask", strength=0.9, fins=(Fin(-1, 0.22, 0.92, 0.07), Fin(1, 0.4, 0.92, 0.07)), school=0.4,
    ),
    Species(
        "parrotfish", 0.62, 0.42,
        up=(0.06, 0.13, 0.17, 0.185, 0.18, 0.165, 0.13, 0.09, 0.07),
        down=(0.05, 0.11, 0.15, 0.17, 0.17, 0.155, 0.125, 0.09, 0.07),
        tail="crescent", tail_length=0.17, tail_spread=0.15,
        back=(0.14, 0.56, 0.56), flank=(0.24, 0.7, 0.62), belly=(0.6, 0.82, 0.6),
        mark=(0.84, 0.4, 0.56), fin=(0.3, 0.5, 0.8),
        pattern="lattice", count=11, strength=0.8, fins=(Fin(-1, 0.24, 0.9, 0.06), Fin(1, 0.56, 0.9, 0.055)),
    ),
    Species(
        "barracuda", 0.42, 0.55,
        up=(0.0, 0.03, 0.05, 0.055, 0.056, 0.056, 0.052, 0.042, 0.028),
        down=(0.0, 0.035, 0.05, 0.055, 0.058, 0.058, 0.052, 0.042, 0.028),
        tail="forked", tail_length=0.15, tail_spread=0.11,
        back=(0.26, 0.3, 0.3), flank=(0.7, 0.74, 0.72), belly=(0.9, 0.92, 0.9),
        mark=(0.12, 0.14, 0.15), fin=(0.3, 0.33, 0.33),
        pattern="blotches", count=8, strength=0.8,
        fins=(Fin(-1, 0.42, 0.52, 0.06, "triangle"), Fin(-1, 0.74, 0.86, 0.06, "triangle"),
              Fin(1, 0.74, 0.86, 0.06, "triangle")),
        school=0.2, bend=0.02, eye=0.016,
    ),
    Species(
        "butterflyfish", 0.31, 0.24,
        up=(0.01, 0.05, 0.18, 0.29, 0.34, 0.34, 0.28, 0.15, 0.06),
        down=(0.015, 0.05, 0.17, 0.27, 0.32, 0.32, 0.26, 0.14, 0.06),
        tail="straight", tail_length=0.14, tail_spread=0.1,
        back=(0.9, 0.8, 0.2), flank=(0.94, 0.9, 0.62), belly=(0.96, 0.94, 0.84),
        mark=(0.06, 0.06, 0.08), fin=(0.92, 0.74, 0.12),
        pattern="diagonal", count=8, strength=0.85,
        fins=(Fin(-1, 0.34, 0.97, 0.09), Fin(1, 0.56, 0.97, 0.08)), eye=0.03,
    ),
    Species(
        "puffer", 0.24, 0.26,
        up=(0.08, 0.16, 0.22, 0.25, 0.24, 0.2, 0.13, 0.08, 0.055),
        down=(0.07, 0.18, 0.28, 0.33, 0.33, 0.26, 0.16, 0.09, 0.055),
        tail="round", tail_length=0.18, tail_spread=0.08,
        back=(0.42, 0.4, 0.2), flank=(0.78, 0.74, 0.42), belly=(0.96, 0.95, 0.9),
        mark=(0.16, 0.13, 0.06), fin=(0.76, 0.68, 0.34),
        pattern="spots", count=26, strength=0.85,
        fins=(Fin(-1, 0.74, 0.86, 0.09, "triangle"), Fin(1, 0.76, 0.88, 0.08, "triangle")),
        eye=0.045, bend=0.02,
    ),
    Species(
        "boxfish", 0.18, 0.22,
        up=(0.1, 0.22, 0.24, 0.24, 0.24, 0.24, 0.22, 0.08, 0.05),
        down=(0.08, 0.21, 0.24, 0.24, 0.24, 0.24, 0.21, 0.08, 0.05),
        tail="round", tail_length=0.22, tail_spread=0.1,
        back=(0.9, 0.76, 0.1), flank=(0.96, 0.84, 0.18), belly=(0.97, 0.9, 0.4),
        mark=(0.08, 0.08, 0.1), fin=(0.9, 0.78, 0.2),
        pattern="lattice", count=6, strength=0.7, fins=(Fin(-1, 0.76, 0.88, 0.08), Fin(1, 0.76, 0.88, 0.08)),
        bend=0.01, eye=0.04, zone="near_bed",
    ),
    Species(
        "angelfish", 0.14, 0.28,
        up=(0.01, 0.1, 0.2, 0.27, 0.3, 0.28, 0.22, 0.12, 0.06),
        down=(0.01, 0.1, 0.2, 0.27, 0.3, 0.28, 0.22, 0.12, 0.06),
        tail="straight", tail_length=0.2, tail_spread=0.13,
        back=(0.8, 0.8, 0.74), flank=(0.88, 0.88, 0.82), belly=(0.92, 0.92, 0.88),
        mark=(0.05, 0.05, 0.06), fin=(0.55, 0.55, 0.5),
        pattern="bands", count=3, strength=0.95,
        fins=(Fin(-1, 0.45, 0.95, 0.42, "swept", 0.3), Fin(1, 0.45, 0.95, 0.42, "swept", 0.3)), bend=0.02, eye=0.032,
    ),
    Species(
        "lionfish", 0.10, 0.34,
        up=(0.02, 0.1, 0.15, 0.165, 0.16, 0.145, 0.115, 0.08, 0.06),
        down=(0.02, 0.1, 0.15, 0.165, 0.16, 0.14, 0.11, 0.08, 0.06),
        tail="round", tail_length=0.2, tail_spread=0.13,
        back=(0.66, 0.24, 0.16), flank=(0.84, 0.56, 0.46), belly=(0.92, 0.8, 0.72),
        mark=(0.42, 0.08, 0.06), fin=(0.74, 0.4, 0.32),
        pattern="bands", count=9, strength=0.85,
        fins=(Fin(-1, 0.22, 0.66, 0.3, "spiny", 0.1), Fin(-1, 0.7, 0.9, 0.12),
              Fin(1, 0.28, 0.6, 0.26, "spiny", 0.16), Fin(1, 0.68, 0.88, 0.12)),
        zone="near_bed", eye=0.024,
    ),
)

# fmt: on

SPECIES: tuple[str, ...] = tuple(species.name for species in DEMO)
"""The eight species of the sample data, most frequent first."""

OTHER_SPECIES: tuple[str, ...] = tuple(species.name for species in OTHERS)
"""Eight further species with other shapes and patterns, for a base checkpoint that must not know the sample data."""

_BY_NAME = {species.name: species for species in DEMO + OTHERS}


def find_species(name: str) -> Species:
    """The species called `name`.

    Raises:
        ValueError: no species has that name.
    """
    if name not in _BY_NAME:
        raise ValueError(f"unknown species {name!r}, expected one of {', '.join(_BY_NAME)}")
    return _BY_NAME[name]
