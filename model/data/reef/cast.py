"""Which fish swim in a scene, and where: plain numbers, nothing is drawn here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from model.data.reef.catalogue import Species
from model.data.reef.water import Water


@dataclass(frozen=True, slots=True)
class Swimmer:
    """One fish of a scene: places and lengths in shares of the image, speeds in shares a frame."""

    label: int
    species: Species
    x: float
    y: float
    depth: float
    length: float
    angle: float
    facing: int
    yaw: float
    squash: float
    speed: float
    phase: float
    seed: int


def cast(catalogue: Sequence[Species], empty_share: float, water: Water, rng: np.random.Generator) -> list[Swimmer]:
    """Who is in the scene, far ones first."""
    if rng.random() < empty_share:
        return []
    weights = np.asarray([species.abundance for species in catalogue])
    fish: list[Swimmer] = []
    for _ in range(int(rng.choice([1, 2, 3, 4], p=[0.4, 0.32, 0.18, 0.1]))):
        label = int(rng.choice(len(catalogue), p=weights / weights.sum()))
        first = _individual(label, catalogue[label], water, fish, rng)
        fish.append(first)
        if rng.random() < first.species.school:
            fish.extend(_school(first, water, int(rng.integers(1, 4)), rng))
    return sorted(fish, key=lambda one: -one.depth)


def _individual(
    label: int, species: Species, water: Water, others: Sequence[Swimmer], rng: np.random.Generator
) -> Swimmer:
    depth = float(rng.beta(1.1, 1.3))
    length = float(np.clip(species.size * rng.uniform(0.75, 1.3) * (1.15 - 0.8 * depth), 0.07, 0.62))
    lowest = 1 - water.bed * 0.9 if water.bed > 0 else 0.35
    low, high = {"water": (0.06, 0.9), "near_bed": (0.3, 0.95), "bed": (lowest, 0.97)}[species.zone]
    # The most separate of a few places: fish overlap, but rarely as much as chance alone would have it.
    places = rng.uniform((0.04, low), (0.96, high), (4, 2))
    gaps = [min((math.hypot(x - o.x, y - o.y) for o in others), default=1.0) for x, y in places]
    x, y = places[int(np.argmax(gaps))]
    lying = species.zone == "bed"
    return Swimmer(
        label, species, float(x), float(y), depth, length,
        angle=float(np.clip(rng.normal(0, species.tilt), -60, 60)),
        facing=int(rng.choice((-1, 1))),
        yaw=float(rng.uniform(0.78, 1.0) if rng.random() < 0.75 else rng.uniform(0.5, 0.78)),
        squash=float(rng.uniform(0.5, 0.95) if lying else rng.uniform(0.92, 1.0)),
        speed=float(rng.uniform(0.0, 0.05) * (0.3 if lying else 1.0)),
        phase=float(rng.random()),
        seed=int(rng.integers(2**31)),
    )  # fmt: skip


def _school(leader: Swimmer, water: Water, count: int, rng: np.random.Generator) -> Iterator[Swimmer]:
    for _ in range(count):
        other = _individual(leader.label, leader.species, water, (), rng)
        dx, dy = rng.uniform(0.5, 1.5) * leader.length * rng.choice((-1, 1)), rng.uniform(-0.9, 0.9) * leader.length
        yield Swimmer(
            leader.label, leader.species, leader.x + float(dx), leader.y + float(dy),
            depth=float(np.clip(leader.depth + rng.normal(0, 0.06), 0, 1)),
            length=leader.length * float(rng.uniform(0.85, 1.1)), angle=leader.angle + float(rng.normal(0, 6)),
            facing=leader.facing, yaw=leader.yaw, squash=other.squash, speed=leader.speed,
            phase=other.phase, seed=other.seed,
        )  # fmt: skip
