"""Everything around the fish: water, seabed, rocks, plants, debris, bubbles, particles and the camera's flaws."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from model.data.reef.patterns import smooth_noise

Float = NDArray[np.float32]
Canvas = NDArray[np.uint8]
Polygon = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Water:
    """What the water of one scene does to light.

    Attributes:
        surface: colour at the top, shape (3,), in [0, 1].
        deep: colour at the bottom, likewise.
        turbidity: optical depth over the whole scene, 0.2 clear to 2.2 murky.
        bed: height of the seabed from the bottom, share of the image height, 0 for open water.
    """

    surface: Float
    deep: Float
    turbidity: float
    bed: float

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Water:
        """Some water: from clear blue to murky green."""
        green = rng.beta(1.3, 1.3)
        light = rng.uniform(0.6, 1.05)
        surface = np.asarray([0.22 + 0.16 * green, 0.58 + 0.08 * green, 0.70 - 0.28 * green], np.float32) * light
        deep = surface * rng.uniform(0.3, 0.75) * np.asarray([0.6, 0.95, 1.0], np.float32)
        bed = 0.0 if rng.random() < 0.25 else rng.uniform(0.12, 0.42)
        return cls(surface, deep.astype(np.float32), float(rng.uniform(0.2, 2.2)), bed)

    def colour(self, height: float) -> Float:
        """Colour of the water at `height`, 0 at the top of the image and 1 at the bottom; shape (3,)."""
        return np.asarray(self.surface + (self.deep - self.surface) * np.clip(height, 0, 1) ** 0.8, np.float32)

    def clearness(self, depth: float) -> float:
        """Share of an object's light that reaches the camera from `depth` (0 near, 1 far); at least 0.28."""
        return max(0.28, float(np.exp(-self.turbidity * (0.12 + 0.75 * depth))))

    def tint(self, depth: float) -> Float:
        """What is left of red, green and blue from `depth`, shape (3,): red goes first."""
        return np.exp(-np.asarray([0.75, 0.16, 0.22], np.float32) * (0.3 + 0.45 * self.turbidity) * (0.4 + depth))

    def through(self, colour: Float, depth: float, height: float) -> tuple[int, int, int]:
        """`colour` (RGB in [0, 1]) seen from `depth` through the water, as bytes."""
        t = self.clearness(depth)
        seen = (colour * self.tint(depth) * t + self.colour(height) * (1 - t)) * 255
        red, green, blue = np.clip(seen, 0, 255)
        return int(red), int(green), int(blue)


def draw_water(water: Water, shape: tuple[int, int], rng: np.random.Generator) -> Canvas:
    """The empty water with light falling in and the seabed; shape (height, width, 3), uint8."""
    height, width = shape
    rows = np.stack([water.colour(y) for y in np.linspace(0, 1, 33)])[:, None]
    gradient = cv2.resize(rows, (1, height), interpolation=cv2.INTER_LINEAR).reshape(height, 1, 3)
    coarse = (max(2, height // 4), max(2, width // 4))
    clouds = 0.86 + 0.28 * smooth_noise(rng, coarse, (5, 6))
    if rng.random() < 0.5:
        clouds += _shafts(coarse, rng)
    image = gradient * cv2.resize(clouds.astype(np.float32), (width, height))[..., None]
    canvas = np.clip(image * 255, 0, 255).astype(np.uint8)
    if water.bed > 0:
        _draw_bed(canvas, water, rng)
    return canvas


def _shafts(shape: tuple[int, int], rng: np.random.Generator) -> Float:
    y, x = np.mgrid[0 : 1 : shape[0] * 1j, 0 : 1 : shape[1] * 1j].astype(np.float32)
    slant = rng.uniform(-0.5, 0.5)
    beams = np.interp((x + slant * y) % 1.0, np.linspace(0, 1, 15), np.append(rng.random(14), 0.5))
    return np.asarray(rng.uniform(0.2, 0.6) * np.clip(beams - 0.45, 0, 1) * (1 - y) ** 1.2, np.float32)


def _draw_bed(canvas: Canvas, water: Water, rng: np.random.Generator) -> None:
    height, width = canvas.shape[:2]
    sand = np.asarray([0.62, 0.56, 0.42], np.float32) * rng.uniform(0.5, 1.1) * (1 + rng.uniform(-0.12, 0.12, 3))
    ridge = np.interp(np.arange(width), np.linspace(0, width, 9), rng.uniform(-0.03, 0.03, 9))
    top = (1 - water.bed + ridge) * height
    first = max(0, int(top.min()) - 2)
    y = np.arange(first, height, dtype=np.float32)[:, None]
    inside = np.clip((y - top) / (0.03 * height) + 0.5, 0, 1)
    near = np.clip((y - top) / (water.bed * height), 0, 1)
    part = (height - first, width)
    grain = 0.66 + 0.35 * smooth_noise(rng, part, (5, 9)) + 0.2 * smooth_noise(rng, part, (14, 60)) * (0.3 + near)
    grain += 0.16 * smooth_noise(rng, part, (40, 110)) * near
    clear = np.maximum(0.2, np.exp(-water.turbidity * (0.95 - 0.8 * near))) * inside
    colour = (sand * water.tint(0.5)).astype(np.float32) * 255
    area = canvas[first:].astype(np.float32)
    area += (colour * grain.astype(np.float32)[..., None] - area) * clear.astype(np.float32)[..., None]
    canvas[first:] = np.clip(area, 0, 255)


def draw_rock(canvas: Canvas, water: Water, depth: float, rng: np.random.Generator) -> Polygon:
    """A boulder with a lit upper side, on the seabed, some as large and as round as a fish; returns its outline."""
    height, width = canvas.shape[:2]
    size = rng.uniform(0.04, 0.2) * min(height, width)
    x, y = rng.uniform(0, width), height * (1 - water.bed * (1 - depth) * rng.uniform(0.6, 1.0))
    angles = np.linspace(0, 2 * np.pi, 18, endpoint=False)
    radius = size * (0.8 + 0.3 * rng.random(18))
    flat = rng.uniform(0.45, 0.9)
    outline = np.stack([x + radius * np.cos(angles), y + flat * radius * np.sin(angles)], 1)
    base = np.asarray([0.3, 0.29, 0.26], np.float32) * rng.uniform(0.5, 1.3) * (1 + rng.uniform(-0.15, 0.15, 3))
    for share, light in ((1.0, 0.6), (0.8, 0.85), (0.5, 1.1)):
        lift = np.asarray([rng.uniform(-0.05, 0.05), -0.28 * (1 - share)]) * size
        layer = (outline - (x, y)) * share + (x, y) + lift
        _fill(canvas, layer, water.through((base * light).astype(np.float32), depth, y / height))
    return _sixteenths(outline)


def draw_plant(canvas: Canvas, water: Water, depth: float, rng: np.random.Generator, sway: float) -> Polygon:
    """A frond that grows from the bottom and bends by `sway` radians of its wave; returns its outline."""
    height, width = canvas.shape[:2]
    t = np.linspace(0, 1, 14)
    x0, tall = rng.uniform(-0.02, 1.02) * width, rng.uniform(0.25, 0.95) * height
    lean, wave, thick = rng.normal(0, 0.18), rng.uniform(0.01, 0.05), rng.uniform(0.008, 0.03)
    turns, start = rng.uniform(0.8, 2.0), rng.random()
    x = x0 + (lean * t**1.6 + wave * t * np.sin(2 * np.pi * (t * turns + start) + sway)) * width
    y = height * 1.02 - tall * t
    swelling = np.clip(np.sin(np.pi * np.clip(t * 0.9 + 0.1, 0, 1)), 0.1, 1)
    half = thick * min(height, width) * swelling * (1 + 0.25 * np.cos(t * 40))
    outline = np.concatenate([np.stack([x - half, y], 1), np.stack([x + half, y], 1)[::-1]])
    polygon = _sixteenths(outline)
    kelp = np.asarray([0.36, 0.34, 0.12] if rng.random() < 0.5 else [0.16, 0.42, 0.16], np.float32)
    colour = kelp * rng.uniform(0.5, 1.2)
    middle = float(polygon[:, 1].mean()) / 16 / height
    cv2.fillPoly(canvas, [polygon], water.through(colour.astype(np.float32), depth, middle), cv2.LINE_AA, 4)
    count = len(polygon) // 2
    spine = (polygon[:count] + polygon[count:][::-1]) // 2
    vein = water.through((colour * 0.65).astype(np.float32), depth, middle)
    cv2.polylines(canvas, [spine], False, vein, max(1, round(min(height, width) / 320)), cv2.LINE_AA, 4)
    return polygon


def draw_debris(canvas: Canvas, water: Water, depth: float, rng: np.random.Generator) -> Polygon:
    """A drifting leaf, weed or litter: long and pointed like a fish, but without eye, fins or pattern; its outline."""
    height, width = canvas.shape[:2]
    size = rng.uniform(0.03, 0.13) * min(height, width)
    x, y, angle = rng.uniform(0, width), rng.uniform(0.05, 0.98) * height, rng.uniform(0, np.pi)
    t = np.linspace(0, 1, 12)
    half = rng.uniform(0.12, 0.45) * np.sin(np.pi * t) ** rng.uniform(0.6, 1.4) * (1 + 0.25 * rng.random(12))
    curve = rng.uniform(-0.5, 0.5) * (t - 0.5) ** 2
    points = np.concatenate([np.stack([2 * t - 1, curve - half], 1), np.stack([2 * t - 1, curve + half], 1)[::-1]])
    turn = np.asarray([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    base = np.asarray([[0.45, 0.32, 0.16], [0.3, 0.4, 0.16], [0.72, 0.74, 0.74]][rng.integers(3)], np.float32)
    colour = water.through((base * rng.uniform(0.5, 1.2)).astype(np.float32), depth, y / height)
    outline = points @ turn.T * size + (x, y)
    _fill(canvas, outline, colour)
    return _sixteenths(outline)


def draw_bubbles(canvas: Canvas, water: Water, rng: np.random.Generator, rise: float) -> None:
    """A column of bubbles; `rise` moves it up, in image heights."""
    height, width = canvas.shape[:2]
    x = rng.uniform(0, width)
    for place, offset, size in rng.random((int(rng.integers(4, 14)), 3)):
        y = (place - rise) % 1.0
        radius = (0.004 + 0.014 * size * size) * min(height, width)
        centre = (int((x + (offset - 0.5) * 0.12 * width) * 16), int(y * height * 16))
        rim = water.through(np.asarray([0.85, 0.95, 1.0], np.float32), 0.5, y)
        cv2.circle(canvas, centre, int(radius * 16), rim, 1, cv2.LINE_AA, 4)
        glint = (int(centre[0] - radius * 5), int(centre[1] - radius * 5))
        cv2.circle(canvas, glint, max(8, int(radius * 5)), (225, 240, 240), -1, cv2.LINE_AA, 4)


def finish(canvas: Canvas, water: Water, scene: np.random.Generator, frame: np.random.Generator) -> Canvas:
    """Backscatter, vignette, sensor noise.

    Args:
        canvas: shape (h, w, 3), uint8.
        water: of the scene.
        scene: random numbers that stay the same within a burst.
        frame: random numbers of this picture alone.
    """
    height, width = canvas.shape[:2]
    y, x = np.mgrid[-1:1:24j, -1:1:24j].astype(np.float32)
    cx, cy = scene.uniform(-0.4, 0.4, 2)
    gain = scene.uniform(0.95, 1.12) - scene.uniform(0.08, 0.38) * ((x - cx) ** 2 + (y - cy) ** 2) / 2
    image = canvas.astype(np.float32)
    blur = scene.uniform(0.0, 0.35) + 0.22 * water.turbidity
    sigma = blur * min(height, width) / 320
    if sigma > 0.3:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32)
    image *= cv2.resize(gain.astype(np.float32), (width, height))[..., None]
    snow = _snow((height, width), water.turbidity * frame.uniform(0.6, 1.2), frame)
    image += snow[..., None] * (water.surface * 0.6 + 0.4)
    noise = np.frombuffer(frame.bytes(image.size), np.int8).reshape(image.shape)
    image += noise.astype(np.float32) * np.float32(scene.uniform(0.015, 0.09))
    return np.clip(image, 0, 255).astype(np.uint8)


def _snow(shape: tuple[int, int], density: float, rng: np.random.Generator) -> Float:
    height, width = shape
    unit = min(shape) / 320
    fine = np.zeros(shape, np.float32)
    count = int(110 * density)
    places = rng.random((count, 2))
    fine[(places[:, 0] * height).astype(int), (places[:, 1] * width).astype(int)] = rng.uniform(60, 420, count)
    blurred = cv2.GaussianBlur(fine, (0, 0), max(0.5, 0.8 * unit))
    coarse = np.zeros((max(2, round(80 * height / min(shape))), max(2, round(80 * width / min(shape)))), np.float32)
    for row, column, size in rng.random((int(5 * density), 3)):
        centre = (int(column * coarse.shape[1]), int(row * coarse.shape[0]))
        cv2.circle(coarse, centre, int(1 + 2.5 * size), float(rng.uniform(12, 45)), -1)
    flakes = cv2.resize(cv2.GaussianBlur(coarse, (0, 0), 1.0), (width, height))
    return np.asarray(blurred + flakes, np.float32)


def _fill(canvas: Canvas, outline: NDArray[np.float64], colour: tuple[int, int, int]) -> None:
    cv2.fillPoly(canvas, [_sixteenths(outline)], colour, cv2.LINE_AA, 4)


def _sixteenths(outline: NDArray[np.float64]) -> Polygon:
    """Corners in 1/16 pixels, as OpenCV takes them with `shift=4`; shape (n, 2)."""
    return np.round(outline * 16).astype(np.int32)
