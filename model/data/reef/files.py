"""Writes generated scenes to a folder, once: a second call with the same parameters only reads."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np

from model.data.dataset import DetectionDataset, LabelledImage
from model.data.reef.catalogue import SPECIES
from model.data.reef.scene import ReefConfig, Scene, draw

DRAWING = 1
"""Raised with every change of the drawing code that changes pictures, so that old files are drawn again."""
_MANIFEST = "reef.json"
_SAVE_EVERY = 200
_Labels = dict[str, list[list[float]]]


def draw_dataset_in_memory(
    count: int,
    *,
    seed: int,
    size: tuple[int, int] = (320, 320),
    species: Sequence[str] = SPECIES,
    start: int = 0,
    empty_share: float = 0.08,
    burst_share: float = 0.4,
) -> Iterator[Scene]:
    """Scenes `start` to `start + count - 1`, one after the other, without a file; arguments as `write_reef`."""
    config = ReefConfig(seed, size, tuple(species), empty_share, burst_share)
    return (draw(index, config) for index in range(start, start + count))


def write_reef(
    folder: Path,
    count: int,
    *,
    seed: int,
    size: tuple[int, int] = (320, 320),
    species: Sequence[str] = SPECIES,
    start: int = 0,
    progress: Callable[[int, int], None] | None = None,
    empty_share: float = 0.08,
    burst_share: float = 0.4,
) -> DetectionDataset:
    """Draw scenes `start` to `start + count - 1` as JPEG files `reef-000000.jpg` and so on.

    Files that an earlier call drew with the same parameters stay as they are; others of that name are replaced.
    The boxes are kept beside them in `reef.json`. A killed call leaves no half file and goes on where it was.

    Args:
        folder: created if missing.
        count: 0 or more.
        seed: see `ReefConfig`, as for the other arguments.
        size: (height, width) in pixels.
        species: class list.
        start: first index.
        progress: called with (pictures done, count) after each.
        empty_share: share of pictures without a fish.
        burst_share: share of pictures in bursts.

    Raises:
        ValueError: a value that `ReefConfig` refuses, or a negative `count` or `start`.
    """
    if count < 0 or start < 0:
        raise ValueError(f"count is {count} and start is {start}, expected 0 or more")
    config = ReefConfig(seed, size, tuple(species), empty_share, burst_share)
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / _MANIFEST
    known = _read_manifest(manifest, config)
    # Written before any picture: were the parameters new, a killed call must not leave the old claim in force.
    _write_manifest(manifest, config, known)
    images, unsaved = [], 0
    for done, index in enumerate(range(start, start + count), 1):
        key = f"reef-{index:06d}"
        path = folder / f"{key}.jpg"
        if key not in known or not path.is_file():
            scene = draw(index, config)
            _write_jpeg(path, scene)
            known[key] = [[float(label), *map(float, box)] for label, box in zip(scene.label, scene.xyxy, strict=True)]
            unsaved += 1
        if unsaved >= _SAVE_EVERY:
            _write_manifest(manifest, config, known)
            unsaved = 0
        rows = np.asarray(known[key], np.float32).reshape(-1, 5)
        images.append(LabelledImage(key, path, rows[:, 1:].copy(), rows[:, 0].astype(np.int64)))
        if progress is not None:
            progress(done, count)
    if unsaved:
        _write_manifest(manifest, config, known)
    return DetectionDataset(config.species, images)


def _parameters(config: ReefConfig) -> dict[str, object]:
    return json.loads(json.dumps({"drawing": DRAWING, **asdict(config)}))


def _read_manifest(path: Path, config: ReefConfig) -> _Labels:
    """The boxes of the pictures that are known to be drawn with `config`; empty where there is no such claim."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError:
        # Not ours or damaged: what it said about the pictures cannot be trusted, and all can be drawn again.
        return {}
    if not isinstance(found, dict) or found.get("parameters") != _parameters(config):
        return {}
    return dict(found["boxes"])


def _write_manifest(path: Path, config: ReefConfig, boxes: _Labels) -> None:
    _replace(path, json.dumps({"parameters": _parameters(config), "boxes": boxes}).encode())


def _write_jpeg(path: Path, scene: Scene) -> None:
    done, data = cv2.imencode(".jpg", cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])
    if not done:
        raise OSError(f"{path}: OpenCV could not encode a picture of shape {scene.image.shape} as JPEG")
    _replace(path, data.tobytes())


def _replace(path: Path, data: bytes) -> None:
    """Write `path` in one step, so that no reader ever sees a part of it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
