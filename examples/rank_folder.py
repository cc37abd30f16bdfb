"""Rank a folder of images by what they would teach a detector: `python examples/rank_folder.py IMAGES DETECTOR`.

DETECTOR is a folder with weights.safetensors and detector.json, as every version of the backend has one. Nothing but
`model/` is used: no Label Studio, no server.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from model.acquisition.strategy import StrategyConfig, create_strategy, strategy_names
from model.data.dataset import DetectionDataset, LabelledImage
from model.detectors.factory import load
from model.errors import ModelError
from model.names import measure_threshold
from model.simulation.selection import choose

SUFFIXES = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def rank_folder(
    folder: Path, detector_folder: Path, strategy: StrategyConfig, *, seed: int = 0, device: str = "auto"
) -> dict[str, Any]:
    """The images below a folder, most informative first.

    Args:
        folder: its images, and those of folders in it, are the pool.
        detector_folder: of a trained detector.
        strategy: that ranks; what it wants to know of labelled images it finds empty, because there are none.
        seed: of what the strategy draws.
        device: auto, cpu, cuda, cuda:1, ...

    Returns:
        Plain values: `detector`, `classes`, `strategy`, `images` (`rank` from 1, `file`, `informativeness`, which is
        null for an image that cannot be read: those come last) and `unreadable`, a sentence for each of them.

    Raises:
        WeightsRefused: there is no detector in `detector_folder`.
        ValueError: there is no strategy of that name, or no such device.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    detector = load(detector_folder, device=device)
    no_boxes, no_labels = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    images = [LabelledImage(path.relative_to(folder).as_posix(), path, no_boxes, no_labels) for path in paths]
    chosen = choose(
        create_strategy(strategy),
        detector,
        DetectionDataset(tuple(detector.classes), images),
        labelled=[],
        budget=max(1, len(images)),
        seed=seed,
        min_score=measure_threshold(detector.architecture),
    )
    rows = [
        {"rank": rank, "file": images[position].key, "informativeness": value}
        for rank, (position, value) in enumerate(zip(chosen.tasks, chosen.informativeness, strict=True), 1)
    ]
    return {
        "detector": detector.architecture,
        "classes": list(detector.classes),
        "strategy": strategy.name,
        "images": rows,
        "unreadable": list(chosen.unreadable),
    }


def table(document: dict[str, Any]) -> str:
    """The ranking for people."""
    lines = [f"{'rank':>4}  {'informativeness':>15}  image"]
    for row in document["images"]:
        value = "unreadable" if row["informativeness"] is None else f"{row['informativeness']:.4f}"
        lines.append(f"{row['rank']:>4}  {value:>15}  {row['file']}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and print the ranking; 1 where there is nothing to rank or no detector."""
    parser = argparse.ArgumentParser(description="Rank a folder of images by what they would teach a detector.")
    parser.add_argument("images", type=Path, help="folder; images in folders below it count, too")
    parser.add_argument("detector", type=Path, help="folder with weights.safetensors and detector.json")
    parser.add_argument("--strategy", choices=strategy_names(), default="uncertainty")
    parser.add_argument("--diversity", action="store_true", help="first those images that differ from each other")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    asked = parser.parse_args(arguments)
    config = StrategyConfig(asked.strategy, diversity=asked.diversity)
    try:
        document = rank_folder(asked.images, asked.detector, config, seed=asked.seed, device=asked.device)
    except (ModelError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    if not document["images"]:
        print(f"{asked.images} holds no image; expected files that end in {', '.join(SUFFIXES)}.", file=sys.stderr)
        return 1
    print(json.dumps(document, indent=2) if asked.json else table(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
