"""Trains the base checkpoint that comes with this package, on generated scenes of species the demo does not have.

Run as `python -m model.base.train_base --iterations 4000 --out model/base/yolov5n.safetensors`.
"""

from __future__ import annotations

import argparse
import copy
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from model.data.dataset import DetectionDataset, LabelledImage
from model.data.reef import OTHER_SPECIES, write_reef
from model.detectors.factory import resolve_device
from model.detectors.weights import halved, load_tensors, read_weights, write_weights
from model.detectors.yolo import YoloDetector
from model.detectors.yolo_network import Network, YoloTrainable, build, check_size, network_description
from model.training.augmentation import Augmentation
from model.training.config import Progress, TrainingConfig
from model.training.evaluation import Evaluation, evaluate
from model.training.loop import train
from model.training.sampling import BatchSampler

logger = logging.getLogger("train_base")

SCENE_SEED = 977
HELD_OUT_SEED = 978
HELD_OUT = 200
SCENE_SIZE = (320, 320)


def scenes(folder: Path, count: int) -> DetectionDataset:
    """`count` scenes: half of all other species, half of the rarer ones alone, so that those are seen often enough."""
    common = write_reef(
        folder / "all", count - count // 2, seed=SCENE_SEED, size=SCENE_SIZE, species=OTHER_SPECIES, burst_share=0
    )
    rare_names = OTHER_SPECIES[3:]
    rare = write_reef(
        folder / "rare", count // 2, seed=SCENE_SEED + 1000, size=SCENE_SIZE, species=rare_names, burst_share=0
    )
    index = np.array([OTHER_SPECIES.index(name) for name in rare_names])
    renamed = [LabelledImage(f"rare-{i.key}", i.path, i.xyxy, index[i.label]) for i in rare.images]
    return DetectionDataset(OTHER_SPECIES, [*common.images, *renamed])


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the scenes, train from random weights, evaluate, write the checkpoint."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    device = torch.device(resolve_device(options.device))
    data = scenes(options.scenes, options.count)
    held_out = write_reef(
        options.scenes / "held-out", HELD_OUT, seed=HELD_OUT_SEED, size=SCENE_SIZE, species=OTHER_SPECIES, burst_share=0
    )
    logger.info("%d scenes with %d boxes", len(data), data.num_boxes)
    network = _network(options).to(device, memory_format=torch.channels_last)
    config = TrainingConfig(
        iterations=options.iterations, batch_size=options.batch_size, seed=options.seed, workers=options.workers
    )
    started = time.monotonic()

    def keep(step: int, averaged: nn.Module) -> None:
        if step % options.every == 0:
            _write(options, averaged, device, step, started, held_out)

    averaged, report = train(
        YoloTrainable(network),
        BatchSampler(
            data,
            max(options.sizes),
            seed=options.seed,
            augmentation=Augmentation(),
            size_range=(min(options.sizes), max(options.sizes)),
            max_bytes=4 << 30,
        ),
        config,
        learning_rate=options.learning_rate,
        device=device,
        on_progress=_say,
        on_step=keep,
    )
    logger.info("%s", report)
    _write(options, averaged, device, options.iterations, started, held_out)


def _network(options: argparse.Namespace) -> Network:
    network = build(network_description(options.architecture), len(OTHER_SPECIES), seed=options.seed)
    check_size(options.architecture, network)
    if options.start is not None:
        load_tensors(network, read_weights(options.start)[0], str(options.start))
    return network


def _write(
    options: argparse.Namespace,
    averaged: Network,
    device: torch.device,
    step: int,
    started: float,
    held_out: DetectionDataset,
) -> None:
    detector = YoloDetector(
        copy.deepcopy(averaged), options.architecture, OTHER_SPECIES, max(options.sizes), device, pretrained=True
    )
    result = evaluate(detector, held_out)
    minutes = (time.monotonic() - started) / 60
    logger.info("step %d, %.1f min: mAP50 %.3f, mAP50-95 %.3f", step, minutes, result.map50 or 0, result.map50_95 or 0)
    half = halved(detector.tensors())
    write_weights(options.out, half, detector.description() | {"training": _training(options, step, minutes, result)})


def _training(options: argparse.Namespace, step: int, minutes: float, result: Evaluation) -> dict[str, Any]:
    return {
        "data": f"{options.count} generated reef scenes of {SCENE_SIZE[1]} x {SCENE_SIZE[0]}, seed {SCENE_SEED}",
        "iterations": step,
        "batch_size": options.batch_size,
        "sizes": [min(options.sizes), max(options.sizes)],
        "learning_rate": options.learning_rate,
        "seed": options.seed,
        "start": None if options.start is None else read_weights(options.start)[1].get("training"),
        "minutes": round(minutes, 1),
        "held_out_scenes": result.images,
        "map50": result.map50,
        "map50_95": result.map50_95,
    }


def _say(progress: Progress) -> None:
    if progress.iteration % 50 == 0:
        logger.info(
            "%d of %d, loss %.3f, %.0f s left",
            progress.iteration,
            progress.iterations,
            progress.loss or 0,
            progress.eta_seconds or 0,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model.base.train_base", description=__doc__)
    parser.add_argument("--architecture", default="yolov5n")
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument("--scenes", type=Path, default=Path("base-scenes"), help="folder for the drawn scenes")
    parser.add_argument("--count", type=int, default=6000, help="scenes to train on")
    parser.add_argument("--start", type=Path, help="checkpoint of an earlier run to go on from")
    parser.add_argument("--iterations", type=int, default=4000)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--sizes", type=int, nargs=2, default=(192, 320), help="smallest and largest training side")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--every", type=int, default=500, help="steps between checkpoints")
    return parser


if __name__ == "__main__":
    main()
