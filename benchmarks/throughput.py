"""Images per second of our whole scoring pass and of our training, beside the libraries that the networks come from.

Ours brings every box's full class probabilities, its embedding and its side deviations; the libraries' predict brings
boxes, scores and labels. All ways of one network run in turns on the same images, so that whatever else the machine
does hits all; every round gives one ratio.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch

from benchmarks._detectors import detector_for
from benchmarks._prediction_ways import Ways, ways_for
from benchmarks._report import Goal, Options, Outcome, main, spread
from benchmarks._training_ways import CUDA, Steps, TrainingWays, training_ways
from model.data.reef import OTHER_SPECIES, write_reef
from model.images import load_image
from model.names import FASTER_RCNN, YOLO

LIGHT = ("yolov5n", "ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_fpn")
SMALL = LIGHT[:2]
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
        count = 64 if CUDA else 16
        write_reef(folder, count, seed=5, size=SCENE, species=OTHER_SPECIES)
        paths = sorted(folder.glob("*.jpg"))
        for architecture in filter(options.wants, LIGHT if options.quick else LIGHT + HEAVY):
            few = architecture not in SMALL and not CUDA
            rounds = (3 if few else 5) if options.quick else 11
            _predictions(outcome, architecture, paths[:4] if few else paths, rounds)
        _trainings(outcome, folder / "training", options)
    outcome.notes.append(
        f"Images of {SCENE[1]} x {SCENE[0]} px, network at {IMAGE_SIZE} px (SSD at its own size), "
        f"{torch.get_num_threads()} threads in torch, {'mixed' if CUDA else 'full'} precision in ours and in bare."
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
    if CUDA:
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


def _trainings(outcome: Outcome, folder: Path, options: Options) -> None:
    # One pass: what a library does between two is not counted.
    data = write_reef(folder / "scenes", 160, seed=6, size=(IMAGE_SIZE, IMAGE_SIZE), species=OTHER_SPECIES)
    steps, rounds = (10, 2) if options.quick else (20, 4)
    # Quick is small, unless somebody asks for the slow one.
    for architecture in filter(options.wants, SMALL if options.quick and not options.detectors else LIGHT):
        batch = 2 if architecture in FASTER_RCNN and not CUDA else 8
        for augment in (False, True) if architecture in YOLO else (False,):
            steps_of = Steps(architecture, data, IMAGE_SIZE, batch, steps, augment)
            _training_rows(outcome, steps_of, training_ways(steps_of, folder / "yolo"), rounds)


def _training_rows(outcome: Outcome, steps: Steps, ways: TrainingWays, rounds: int) -> None:
    speed: dict[str, list[float]] = {way: [] for way in ways}
    names = list(ways)
    for number in range(rounds):
        first = number % len(names)
        for way in names[first:] + names[:first]:
            moments = ways[way]()
            # The first steps warm up, and find batches that were prepared before the clock ran.
            warm = min(4, len(moments) // 2)
            speed[way].append(steps.batch * (len(moments) - 1 - warm) / (moments[-1] - moments[warm]))
    ratios = {
        way: spread([own / other for own, other in zip(speed["ours"], speed[way], strict=True)])
        for way in names
        if way != "ours"
    }
    source = f"training, {'augmented' if steps.augment else 'images as they are'}"
    for way in names:
        outcome.results.append(
            {
                "network": steps.architecture,
                "from": source,
                "way": way,
                "images": steps.batch,
                "rounds": rounds,
                "images_per_second": spread(speed[way]),
                "ours_times_as_fast": ratios.get(way),
            }
        )
    ratio = ratios["library"]["median"]
    name = f"{steps.architecture}, {source}: ours / library"
    outcome.goals.append(Goal(name, ratio, f"at least {GOAL_RATIO}", ratio >= GOAL_RATIO))


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
    if CUDA:
        torch.cuda.synchronize()


if __name__ == "__main__":
    raise SystemExit(main("throughput", "How many images per second, beside the libraries' own ways?", measure))
