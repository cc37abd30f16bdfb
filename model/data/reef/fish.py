"""Draws one fish as a small picture with transparency, nose to the left, before it is placed in a scene."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from model.data.reef.catalogue import Fin, Species
from model.data.reef.patterns import pattern_weight, smooth_noise

Float = NDArray[np.float32]
MIN_SPRITE = 48
"""Pixels: shorter fish are drawn at this length and shrunk, so that their pattern does not alias."""


@dataclass(frozen=True, slots=True, eq=False)
class Sprite:
    """A picture with transparency.

    Attributes:
        rgba: shape (h, w, 4), float32 in [0, 1], colours already multiplied by alpha.
        scale: drawn pixels per wanted pixel, 1 or more.
    """

    rgba: Float
    scale: float


@dataclass(frozen=True, slots=True, eq=False)
class _Frame:
    """Body coordinates of a sprite: per column the body's centre and half heights, in body lengths."""

    species: Species
    pixels: float
    margin: float
    middle: float
    u: Float
    centre: Float
    up: Float
    down: Float

    def at(self, places: Float, offsets: Float) -> NDArray[np.int32]:
        """Polygon in 1/16 pixels from places along the body and signed offsets from its centre line."""
        x = self.margin + places * self.pixels
        y = self.middle + (np.interp(places, self.u, self.centre) + offsets) * self.pixels
        return np.round(np.stack([x, y], 1) * 16).astype(np.int32)


def draw_fish(species: Species, length: float, rng: np.random.Generator, phase: float) -> Sprite:
    """One individual.

    Args:
        species: what to draw.
        length: total length in pixels, above 0.
        rng: individual variation; the same state gives the same individual at every size and phase.
        phase: of the swimming wave, in turns.
    """
    drawn = max(length, MIN_SPRITE)
    frame, shape = _frame(species, drawn, rng, phase)
    y = (np.arange(shape[0], dtype=np.float32)[:, None] - frame.middle) / frame.pixels - frame.centre
    half = np.maximum(np.where(y < 0, frame.up, frame.down), 1e-4)
    v = np.clip(y / half, -1.2, 1.2)
    body = np.clip((half - np.abs(y)) * frame.pixels + 0.5, 0, 1) * ((frame.u >= 0) & (frame.u <= 1.02))

    skin = _skin(frame, v, rng)
    fins = _fin_mask(frame, shape)
    rays = (0.82 + 0.18 * np.cos(2 * np.pi * frame.u * 38))[..., None]
    fin_colour = np.asarray(species.fin, np.float32) * rng.uniform(0.85, 1.15) * rays
    _pectoral(frame, skin, rng)
    _face(frame, skin)

    fins *= rng.uniform(0.7, 0.95)
    alpha = np.maximum(body, fins)
    colour = skin * body[..., None] + fin_colour * (np.maximum(fins - body, 0))[..., None]
    rgba = np.dstack([np.clip(colour, 0, 1), alpha]).astype(np.float32)
    return Sprite(rgba, drawn / length)


def _frame(species: Species, length: float, rng: np.random.Generator, phase: float) -> tuple[_Frame, tuple[int, int]]:
    stretch = rng.uniform(0.9, 1.1)
    pixels = length / (1 + species.tail_length)
    margin = 3.0
    width = math.ceil(length + 2 * margin) + 1
    u = (np.arange(width, dtype=np.float32) - margin) / pixels
    up, down = (_outline(values, u, pixels) * stretch for values in (species.up, species.down))
    reach = 0.35 + 0.65 * np.clip(u, 0, 1.4) if species.bend > 0.1 else np.clip(u - 0.25, 0, 1.2) ** 1.5
    centre = species.bend * rng.uniform(0.6, 1.4) * reach * np.sin(2 * np.pi * (u * species.waves - phase))
    tallest = max([0.0, species.tail_spread, *(fin.height for fin in species.fins)]) + 0.02
    extent = max(float(up.max()), float(down.max())) + tallest + float(np.abs(centre).max())
    height = math.ceil(2 * (extent * pixels + margin))
    frame = _Frame(species, pixels, margin, height / 2, u, centre.astype(np.float32), up, down)
    return frame, (height, width)


def _outline(values: tuple[float, ...], u: Float, pixels: float) -> Float:
    half = np.interp(u, np.linspace(0, 1, len(values)), values).astype(np.float32)
    span = max(1, int(0.05 * pixels)) | 1
    smooth = cv2.blur(half[None], (span, 1), borderType=cv2.BORDER_REPLICATE)[0]
    # The nose has to stay where it is: smoothing would make every head blunt.
    weight = np.clip(u / 0.06, 0, 1)
    return np.asarray(smooth * weight + half * (1 - weight), np.float32)


def _skin(frame: _Frame, v: Float, rng: np.random.Generator) -> Float:
    species = frame.species
    back, flank, belly, mark = (
        np.clip(np.asarray(colour, np.float32) * rng.uniform(0.82, 1.18) + rng.uniform(-0.05, 0.05, 3), 0, 1)
        for colour in (species.back, species.flank, species.belly, species.mark)
    )
    to_belly = np.clip(v * 1.3 - 0.1, 0, 1)[..., None]
    to_back = np.clip(-v * 1.5 + 0.1, 0, 1)[..., None]
    skin = flank * (1 - to_belly) * (1 - to_back) + belly * to_belly + back * to_back
    weight = pattern_weight(species.pattern, species.count, frame.u[None], v, rng)[..., None]
    skin += (mark - skin) * (weight * (species.strength * rng.uniform(0.75, 1.0)))
    gill = np.exp(-(((frame.u[None] - 0.24 - 0.04 * (1 - v**2)) / 0.012) ** 2)) * (np.abs(v) < 0.75)
    light = (1.02 - 0.3 * v * v) * (1 - 0.3 * gill) + 0.14 * (smooth_noise(rng, v.shape, (10, 26)) - 0.5)
    skin *= light[..., None]
    return np.asarray(skin, np.float32)


def _fin_mask(frame: _Frame, shape: tuple[int, int]) -> Float:
    mask = np.zeros(shape, np.uint8)
    polygons = [_fin(frame, fin) for fin in frame.species.fins] + [_tail(frame)]
    for polygon in polygons:
        cv2.fillPoly(mask, [polygon], 255, cv2.LINE_AA, 4)
    return np.asarray(mask.astype(np.float32) / 255, np.float32)


def _fin(frame: _Frame, fin: Fin) -> NDArray[np.int32]:
    t = np.linspace(0, 1, 28, dtype=np.float32)
    rise = {
        "soft": np.clip(np.sin(np.pi * (t * 0.85 + 0.12)), 0, 1) ** 0.6,
        "fringe": np.clip(np.sin(np.pi * t), 0, 1) ** 0.35 * (0.93 + 0.07 * np.cos(t * 60)),
        "triangle": np.clip(t / 0.3, 0, 1) * (1 - 0.75 * np.clip((t - 0.3) / 0.7, 0, 1)),
        "swept": np.clip(t, 0, 1) ** 2 * (1 - np.clip((t - 0.8) / 0.2, 0, 1) ** 2),
        "spiny": np.clip(np.sin(np.pi * (t * 0.8 + 0.2)), 0, 1) ** 0.7 * np.where(np.arange(28) % 4 < 2, 1.0, 0.62),
    }[fin.shape].astype(np.float32)
    base = fin.start + (fin.end - fin.start) * t
    edge = np.interp(base, frame.u, frame.up if fin.side < 0 else frame.down).astype(np.float32)
    places = np.concatenate([base + fin.lean * rise, base[::-1]])
    offsets = fin.side * np.concatenate([edge + fin.height * rise, edge[::-1] * 0.7])
    return frame.at(places.astype(np.float32), offsets.astype(np.float32))


def _tail(frame: _Frame) -> NDArray[np.int32]:
    species, root = frame.species, frame.species.up[-1]
    length, spread = species.tail_length, species.tail_spread
    arc = [(1 + length * (0.35 + 0.65 * math.cos(a)), spread * math.sin(a)) for a in np.linspace(-1.4, 1.4, 9)]
    crescent = [(0.55, -0.75), (1.0, -1.0), (0.6, -0.4), (0.5, 0.0), (0.6, 0.4), (1.0, 1.0), (0.55, 0.75)]
    edge = {
        "forked": [(1 + length, -spread), (1 + 0.42 * length, 0), (1 + length, spread)],
        "crescent": [(1 + x * length, y * spread) for x, y in crescent],
        "straight": [(1 + 0.95 * length, -spread), (1 + length, 0), (1 + 0.95 * length, spread)],
        "round": arc,
        "pointed": [(1 + 0.5 * length, -spread), (1 + length, 0), (1 + 0.5 * length, spread)],
    }[species.tail]
    outline = [(0.97, -root), *edge, (0.97, root)]
    places, offsets = np.asarray(outline, np.float32).T
    return frame.at(places, offsets)


def _pectoral(frame: _Frame, skin: Float, rng: np.random.Generator) -> None:
    depth = float(np.interp(0.33, frame.u, frame.down))
    droop = rng.uniform(0.3, 0.9)
    size = min(0.16, 1.1 * depth + 0.02)
    places = np.asarray([0.29, 0.31 + size, 0.29 + size * 0.8, 0.3], np.float32)
    offsets = np.asarray([0.15, 0.2 + droop * 0.5, 0.4 + droop * 0.5, 0.45], np.float32) * depth
    mask = np.zeros(skin.shape[:2], np.uint8)
    cv2.fillPoly(mask, [frame.at(places, offsets)], 160, cv2.LINE_AA, 4)
    weight = mask.astype(np.float32)[..., None] / 255
    skin += (np.asarray(frame.species.fin, np.float32) - skin) * weight


def _face(frame: _Frame, skin: Float) -> None:
    species = frame.species
    where = 0.11 if species.eye < 0.03 else 0.14
    lift = -0.35 * float(np.interp(where, frame.u, frame.up))
    x, y = frame.at(np.asarray([where], np.float32), np.asarray([lift], np.float32))[0]
    radius = species.eye * frame.pixels
    for share, colour in ((1.0, (0.86, 0.82, 0.62)), (0.68, (0.02, 0.02, 0.03))):
        cv2.circle(skin, (int(x), int(y)), max(8, int(radius * share * 16)), colour, -1, cv2.LINE_8, 4)
    mouth = frame.at(np.asarray([0.005, 0.065], np.float32), np.asarray([0.006, 0.022], np.float32))
    cv2.polylines(skin, [mouth], False, (0.1, 0.08, 0.08), max(1, round(frame.pixels * 0.006)), cv2.LINE_8, 4)
