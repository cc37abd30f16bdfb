"""Skin patterns of the generated fish, as weights in [0, 1] over body coordinates."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from model.data.reef.catalogue import Pattern

Map = NDArray[np.float32]


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], cells: tuple[int, int]) -> Map:
    """Random clouds: `shape` (height, width), values about 0 to 1, `cells` (rows, columns) blobs across."""
    coarse = rng.random((max(cells[0], 1) + 1, max(cells[1], 1) + 1), dtype=np.float32)
    return np.asarray(cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC), np.float32)


def pattern_weight(pattern: Pattern, count: int, u: Map, v: Map, rng: np.random.Generator) -> Map:
    """How strongly the pattern's colour covers each pixel.

    Args:
        pattern: which.
        count: bars, stripes or spots.
        u: shape (1, w), place along the body, 0 at the nose and 1 at the tail base.
        v: shape (h, w), place across the body, -1 at the back's edge and 1 at the belly's.
        rng: individual variation between fish of one species.

    Returns:
        Shape (h, w), values in [0, 1].
    """
    shift, width = rng.uniform(-0.25, 0.25), rng.uniform(0.85, 1.15)
    if pattern == "plain":
        weight = 0.5 * np.cos(np.pi * (v + 0.2)) * np.ones_like(u)
    elif pattern == "mottle":
        clouds = smooth_noise(rng, v.shape, (6, 16)) + 0.4 * smooth_noise(rng, v.shape, (12, 36))
        line = np.exp(-(((v + 0.25 - 0.3 * (u - 0.3)) / 0.09) ** 2))
        weight = _edge(clouds, 0.72, 0.12) * _edge(-v, -0.45, 0.2) * (1 - line)
    elif pattern == "bars":
        weight = _edge(np.cos(2 * np.pi * (u * count * width + shift + 0.05 * v)), 0.2, 0.35) * _edge(-v, -0.5, 0.3)
    elif pattern == "wavy_back":
        wave = np.cos(2 * np.pi * (u * count * width + shift + 0.35 * np.sin(5 * v + 9 * u)))
        weight = _edge(wave, 0.0, 0.3) * _edge(-v, 0.05, 0.12)
    elif pattern == "stripes":
        wave = np.cos(2 * np.pi * ((v + 0.15 * np.sin(4 * u)) * count / 2 * width + shift))
        weight = _edge(wave, 0.25, 0.3) * np.ones_like(u)
    elif pattern == "bands":
        weight = _edge(np.cos(2 * np.pi * (u * count * width + shift)), -0.1, 0.25) + 0 * v
    elif pattern == "diagonal":
        lines = _edge(np.cos(2 * np.pi * ((u + 0.3 * v) * count + shift)), 0.55, 0.25) * _edge(u, 0.3, 0.04)
        weight = np.maximum(lines, np.exp(-(((u - 0.17) / 0.035) ** 2)))
    elif pattern == "lattice":
        a, b = (u * 1.0 + 0.22 * v) * count, (u * 1.0 - 0.22 * v) * count
        weight = _edge(np.abs(np.cos(np.pi * (a + shift)) * np.cos(np.pi * (b + shift))), 0.55, 0.2)
    elif pattern == "warts":
        rows = np.cos(np.pi * (v * count + shift)) * np.cos(2 * np.pi * (u * 9 * width))
        weight = _edge(rows, 0.45, 0.25)
    elif pattern == "blotches":
        clouds = smooth_noise(rng, v.shape, (3, count * 2))
        weight = _edge(clouds, 0.55, 0.15) * np.exp(-(((v - 0.1) / 0.45) ** 2))
    elif pattern == "mask":
        curve = np.abs(v + 0.35 - 1.1 * (u - 0.55) ** 2 + 0.1 * shift)
        weight = _edge(-curve, -0.22, 0.12) * _edge(u, 0.25, 0.05)
    else:
        weight = _spots(count, u, v, rng)
    return np.clip(weight, 0, 1).astype(np.float32)


def _edge(value: Map, at: float, softness: float) -> Map:
    """0 below `at`, 1 above it, with a soft step between."""
    return np.asarray(np.clip((value - at) / softness + 0.5, 0, 1), np.float32)


def _spots(count: int, u: Map, v: Map, rng: np.random.Generator) -> Map:
    mask = np.zeros(v.shape, np.uint8)
    inside = np.flatnonzero((u[0] > 0.18) & (u[0] < 0.92))
    height = max(1, int((np.abs(v[:, v.shape[1] // 2]) < 1).sum()))
    for place, across, size in rng.random((count, 3)):
        column = int(inside[int(place * (len(inside) - 1))])
        row = int(np.argmin(np.abs(v[:, column] - (across * 1.5 - 0.75))))
        cv2.circle(mask, (column, row), max(1, round(height * (0.03 + 0.04 * size))), 255, -1, cv2.LINE_AA)
    return np.asarray(mask.astype(np.float32) / 255, np.float32)
