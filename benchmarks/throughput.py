"""Images per second of our whole scoring pass and of our training, beside the libraries that the networks come from.

Ours brings every box's full class probabilities, its embedding and its side deviations; the libraries' predict brings
boxes, scores and labels. All ways of one network run in turns on the same images, so that whatever else the machine
does hits all; every round gives one ratio.
"""

from __future__ import annotations

import functools
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks._detectors import detector_for
from benchmarks._prediction_ways import Ways, ways_for
from benchmarks._report import Goal, Options, Outcome, main, spread
from model.data.reef import OTHER_SPECIES, write_reef
from model.images import load_image

LIGHT = ("yolov5n", "ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_fpn")
HEAVY = ("ssd300_vgg16", "fasterrcnn_resnet50_fpn_v2")
IMAGE_SIZE = 320
SCENE = (480, 640)
GOAL_RATIO = 0.95
GOAL_CUDA = 3.0


def measure(options: Options) -> Outcome:
    """Prediction of every network, then training."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="al-benchmark-") as name:
        folder = Path(name)
        cuda = torch.cuda.is_available()
        count = 64 if cuda else 16
        write_reef(folder, count, seed=5, size=SCENE, species=OTHER_SPECIES)
        paths = sorted(folder.glob("*.jpg"))
        for architecture in LIGHT if options.quick else LIGHT + HEAVY:
            few = architecture in HEAVY and not cuda
            _predictions(outcome, architecture, paths[:4] if few else paths, rounds=5 if options.quick else 11)
    outcome.notes.append(
        f"Images of {SCENE[1]} x {SCENE[0]} px, network at {IMAGE_SIZE} px (SSD at its own size), "
        f"{torch.get_num_threads()} threads in torch, {'mixed' if cuda else 'full'} precision in ours and in bare."
    )
    return outcome


def _predictions(outcome: Outcome, architecture: str, paths: list[Path], rounds: int) -> None:
    images = [load_image(path) for path in paths]
    detector = detector_for(architecture, OTHER_SPECIES, IMAGE_SIZE, images)
    for source, ways in zip(("memory", "files"), ways_for(detector, paths, images), strict=True):
        seconds, boxes = _in_turns(ways, rounds)
        ratios = {
            way: spread([other / own for own, other in zip(seconds["ours"], seconds[way], strict=True)])
            for way in ways
            if way != "ours"
        }
        for way in ways:
            outcome.results.append(
                {
                    "network": architecture,
                    "from": source,
                    "way": way,
                    "images": len(paths),
                    "rounds": rounds,
                    "images_per_second": spread([len(paths) / value for value in seconds[way]]),
                    "ours_times_as_fast": ratios.get(way),
                    "boxes": boxes[way],
                }
            )
        _judge(outcome, architecture, source, ratios)


def _judge(outcome: Outcome, architecture: str, source: str, ratios: dict[str, dict[str, float]]) -> None:
    name = f"{architecture}, from {source}: ours"
    hardest = min((ratios[way]["median"], way) for way in ratios if way.startswith("library"))
    if torch.cuda.is_available():
        usual = ratios.get("one_call_per_file")
        if usual is not None:
            ratio = usual["median"]
            outcome.goals.append(
                Goal(f"{name} / one predict(path) per image", ratio, f"at least {GOAL_CUDA:g}", ratio >= GOAL_CUDA)
            )
    else:
        ratio, way = hardest
        goal = f"at least {GOAL_RATIO}"
        outcome.goals.append(Goal(f"{name} / {way.replace('_', ' ')}", ratio, goal, ratio >= GOAL_RATIO))


def _in_turns(ways: Ways, rounds: int) -> tuple[dict[str, list[float]], dict[str, int]]:
    boxes = {name: way() for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            _wait_for_device()
            started = time.perf_counter()
            ways[name]()
            _wait_for_device()
            seconds[name].append(time.perf_counter() - started)
    return seconds, boxes


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    raise SystemExit(main("throughput", "How many images per second, beside the libraries' own ways?", measure))
