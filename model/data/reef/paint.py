"""Puts water, things and fish on one canvas from far to near, and keeps account of which fish each pixel shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from model.data.reef.cast import Swimmer
from model.data.reef.fish import draw_fish
from model.data.reef.water import Canvas, Polygon, Water, draw_bubbles, draw_debris, draw_plant, draw_rock, draw_water

MIN_VISIBLE = 0.3
"""A fish of which less than this share can be seen gets no box."""
MIN_SIDE = 3
"""Pixels: a box with a shorter side is no use to anybody."""

Owner = NDArray[np.uint8]
Boxes = tuple[NDArray[np.float32], NDArray[np.int64]]
Layer = tuple[float, Callable[[], None]]
"""How far away something is, and what draws it."""


def paint(
    size: tuple[int, int], water: Water, fish: Sequence[Swimmer], rng: np.random.Generator, step: int
) -> tuple[Canvas, NDArray[np.float32], NDArray[np.int64]]:
    """Draw the scene at moment `step` of its burst.

    Args:
        size: (height, width) in pixels.
        water: of the scene.
        fish: far ones first, at most 254.
        rng: of the scene; used in the same way at every step, so that only what moves differs.
        step: 0 for the first picture of a burst.

    Returns:
        The canvas (h, w, 3) uint8, boxes (n, 4) float32 in pixels and labels (n,) int64 of the visible fish.
    """
    canvas = draw_water(water, size, rng)
    owner = np.zeros(size, np.uint8)
    areas = np.zeros(len(fish))
    layers = _things(canvas, owner, water, rng, step)

    def place(number: int) -> Callable[[], None]:
        def draw() -> None:
            areas[number] = _place(canvas, owner, number + 1, fish[number], water, step)

        return draw

    layers += [(one.depth, place(number)) for number, one in enumerate(fish)]
    for _, draw in sorted(layers, key=lambda layer: -layer[0]):
        draw()
    if rng.random() < 0.3:
        draw_bubbles(canvas, water, rng, 0.06 * step)
    boxes, labels = _boxes(owner, areas, fish)
    return canvas, boxes, labels


def _things(canvas: Canvas, owner: Owner, water: Water, rng: np.random.Generator, step: int) -> list[Layer]:
    """Rocks, plants and debris with their depths; each hides the fish behind it when it is drawn."""

    def later(make: Callable[[Canvas, Water, float, np.random.Generator], Polygon], depth: float) -> Layer:
        own = np.random.default_rng(int(rng.integers(2**31)))

        def draw() -> None:
            cv2.fillPoly(owner, [make(canvas, water, depth, own)], 0, cv2.LINE_8, 4)

        return depth, draw

    rocks = int(rng.integers(0, 6)) if water.bed > 0 else 0
    plants = int(rng.choice([0, 2, 4, 7], p=[0.35, 0.3, 0.22, 0.13]))
    debris = int(rng.choice([0, 1, 2, 4], p=[0.45, 0.25, 0.2, 0.1]))
    waving = partial(draw_plant, sway=0.25 * step)
    things = [later(draw_rock, float(depth)) for depth in rng.uniform(0.45, 1.0, rocks)]
    things += [later(waving, float(depth)) for depth in rng.uniform(0.1, 1.0, plants)]
    things += [later(draw_debris, float(depth)) for depth in rng.uniform(0.1, 1.0, debris)]
    return things


def _place(canvas: Canvas, owner: Owner, number: int, fish: Swimmer, water: Water, step: int) -> float:
    """Blend one fish in; returns its whole area in pixels, hidden and cut-off parts included."""
    height, width = canvas.shape[:2]
    rng = np.random.default_rng(fish.seed)
    light = rng.uniform(0.75, 1.1)
    sprite = draw_fish(fish.species, fish.length * min(height, width), rng, fish.phase + 0.13 * step)
    rgba = sprite.rgba
    if sprite.scale > 1:
        small = tuple(max(2, round(side / sprite.scale)) for side in rgba.shape[1::-1])
        rgba = np.asarray(cv2.resize(rgba, small, interpolation=cv2.INTER_AREA), np.float32)
    turn = np.deg2rad(fish.angle)
    matrix = np.asarray([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = matrix @ np.diag([-fish.facing * fish.yaw, fish.squash])
    # The nose points to the left in the sprite, so a fish swims along minus its first axis.
    ahead = -matrix[:, 0] * fish.speed * step / max(fish.yaw, 1e-6)
    centre = np.asarray([(fish.x + ahead[0]) * width, (fish.y + ahead[1]) * height])
    half = np.asarray([rgba.shape[1], rgba.shape[0]]) / 2
    reach = np.abs(matrix) @ half + 1
    left, top = np.maximum(np.floor(centre - reach), 0).astype(int)
    right, bottom = np.minimum(np.ceil(centre + reach), (width, height)).astype(int)
    area = float((rgba[..., 3] > 0.5).sum() * abs(np.linalg.det(matrix)))
    if right <= left or bottom <= top:
        return area
    offset = centre - matrix @ half - (left, top)
    warped = cv2.warpAffine(rgba, np.column_stack([matrix, offset]), (int(right - left), int(bottom - top)))
    alpha = warped[..., 3:]
    clear = water.clearness(fish.depth)
    colour = warped[..., :3] * (water.tint(fish.depth) * clear * light) + alpha * water.colour(fish.y) * (1 - clear)
    patch = canvas[top:bottom, left:right]
    patch[:] = np.clip(patch * (1 - alpha) + colour * 255, 0, 255)
    owner[top:bottom, left:right][alpha[..., 0] > 0.5] = number
    return area


def _boxes(owner: Owner, areas: NDArray[np.float64], fish: Sequence[Swimmer]) -> Boxes:
    boxes, labels = [], []
    for number, one in enumerate(fish):
        mine = owner == number + 1
        columns, rows = np.flatnonzero(mine.any(0)), np.flatnonzero(mine.any(1))
        if not len(rows) or mine.sum() < MIN_VISIBLE * areas[number]:
            continue
        box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        if min(box[2] - box[0], box[3] - box[1]) >= MIN_SIDE:
            boxes.append(box)
            labels.append(one.label)
    return np.asarray(boxes, np.float32).reshape(-1, 4), np.asarray(labels, np.int64)
