"""How much memory a training on 20,000 image files takes.

A process of its own reads the data set from its files, trains 100 steps on it and says how much it held at most. Few
files are drawn and the others are links to them, which the training cannot know.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks._report import Goal, Options, Outcome, main
from model.data.reef import OTHER_SPECIES, write_reef
from model.data.yolo import read_yolo, write_yolo
from model.detectors.factory import create, find_base
from model.training.config import TrainingConfig
from model.training.sampling import CACHE_BYTES

FILES = 20_000
DRAWN = 20
SCENE = (480, 640)
STEPS = 100
BATCH = 16
GOAL_GB = 3.0


@dataclass(frozen=True, slots=True)
class Need:
    """Memory that a process held, in bytes, and what it did.

    Attributes:
        before: with all libraries loaded, before the data set was read.
        read: most until the data set was read.
        peak: most until the training ended.
        images: of the data set.
        reading_seconds: it took to read the data set.
        training_seconds: it took to train.
    """

    before: int
    read: int
    peak: int
    images: int
    reading_seconds: float
    training_seconds: float


def measure(options: Options) -> Outcome:
    """YOLOv5n at one image size, or at two."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="al-benchmark-") as name:
        data_yaml = _write_files(Path(name))
        for size in (160,) if options.quick else (160, 320, 640):
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                need = pool.submit(_train, data_yaml, size).result()
            outcome.results.append(
                {
                    "image_size": size,
                    "images": need.images,
                    "steps": STEPS,
                    "libraries_gb": round(need.before / 1e9, 2),
                    "data_set_read_gb": round(need.read / 1e9, 2),
                    "peak_gb": round(need.peak / 1e9, 2),
                    "reading_s": round(need.reading_seconds, 1),
                    "training_s": round(need.training_seconds, 1),
                    "all_images_decoded_gb": round(FILES * size * size * SCENE[0] / SCENE[1] * 3 / 1e9, 2),
                }
            )
    peak = max(row["peak_gb"] for row in outcome.results)
    outcome.goals.append(
        Goal(f"peak memory of {STEPS} steps on {FILES} files, GB", peak, f"under {GOAL_GB:g}", peak < GOAL_GB)
    )
    outcome.notes.append(
        f"YOLOv5n, batches of {BATCH}, files of {SCENE[1]} x {SCENE[0]} px. Decoded images are kept up to "
        f"{CACHE_BYTES / 1e9:.2f} GB, whatever the data set's size."
    )
    return outcome


def _write_files(folder: Path) -> Path:
    """`FILES` images and label files in the YOLO layout; the path of its data.yaml."""
    drawn = write_reef(folder / "drawn", DRAWN, seed=8, size=SCENE, species=OTHER_SPECIES)
    data_yaml = write_yolo(drawn, folder / "set")
    for image in sorted((folder / "set" / "images" / "train").iterdir()):
        label = folder / "set" / "labels" / "train" / f"{image.stem}.txt"
        for number in range(FILES // DRAWN - 1):
            for source in (image, label):
                _link(source, source.with_name(f"{source.stem}-{number:04d}{source.suffix}"))
    return data_yaml


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # some file systems have no links, and some only so many of one file
        shutil.copyfile(source, target)


def _train(data_yaml: Path, size: int) -> Need:
    detector = create("yolov5n", OTHER_SPECIES, image_size=size, base=find_base("yolov5n", None))
    before, started = _peak(), time.monotonic()
    data = read_yolo(data_yaml, "train")
    read, between = _peak(), time.monotonic()
    detector.fit(data, None, TrainingConfig(iterations=STEPS, batch_size=BATCH))
    peak = _peak()
    return Need(before, read, peak, len(data), between - started, time.monotonic() - between)


def _peak() -> int:
    """Most resident memory of this process so far, bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # what `getrusage` says of a young process on Linux may be its parent's
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    raise SystemExit(main("training_memory", "How much memory does a training on 20,000 files take?", measure))
