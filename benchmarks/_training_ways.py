"""The ways to train that `throughput` compares: our loop, Ultralytics' trainer, and a plain torchvision loop.

Each gives the moments at which its steps ended; waiting for images is part of a step.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_image
from torchvision.models import detection

from model.data.dataset import DetectionDataset
from model.data.yolo import write_yolo
from model.detectors.factory import create, resolve_device
from model.detectors.faster_rcnn import SAMPLED_BOXES
from model.detectors.fitting import CLASS_ROWS_FACTOR
from model.detectors.torchvision_detector import TorchvisionDetector
from model.detectors.torchvision_training import TorchvisionTrainable
from model.detectors.yolo import YoloDetector
from model.detectors.yolo_network import YoloTrainable
from model.names import FASTER_RCNN, YOLO
from model.training.augmentation import Augmentation
from model.training.config import TrainingConfig
from model.training.loop import train
from model.training.sampling import BatchSampler
from model.training.trainable import TrainableNetwork

AS_IT_IS = Augmentation(mosaic=0, scale=0, translate=0, flip=0, hue=0, saturation=0, value=0)
WORKERS = 2
LEARNING_RATE = 1e-4
CUDA = torch.cuda.is_available()

TrainingWays = dict[str, Callable[[], list[float]]]
"""By name; each trains anew."""


class _Enough(Exception):
    """The steps are done; what a library would do afterwards is not measured."""


@dataclass(frozen=True, slots=True)
class Steps:
    """What is trained.

    Attributes:
        architecture: of `factory.architectures()`.
        data: square images, so that all ways give the network the same number of pixels.
        size: side of the training images, pixels.
        batch: images per step.
        steps: how many.
        augment: whether images are augmented; each library in its own default way.
    """

    architecture: str
    data: DetectionDataset
    size: int
    batch: int
    steps: int
    augment: bool


def training_ways(steps: Steps, folder: Path) -> TrainingWays:
    """Ours and the library's in equal arithmetic (mixed on CUDA only), and ours with its own settings."""
    library = _ultralytics if steps.architecture in YOLO else _torchvision
    return {
        "ours": functools.partial(_ours, steps, mixed=CUDA),
        "library": functools.partial(library, steps, folder),
        "ours in mixed precision": functools.partial(_ours, steps, mixed=True),
    }


def _ours(steps: Steps, *, mixed: bool) -> list[float]:
    """Our loop, as `Detector.fit` starts it, but with `AS_IT_IS` unless images are augmented."""
    detector = create(steps.architecture, steps.data.classes, image_size=steps.size)
    network: TrainableNetwork
    stretch = False
    if isinstance(detector, YoloDetector):
        network = YoloTrainable(detector._network.to(memory_format=torch.channels_last))
    else:
        assert isinstance(detector, TorchvisionDetector)
        network = TorchvisionTrainable(detector.network, detector._family, len(detector.classes), CLASS_ROWS_FACTOR)
        stretch = detector._family.stretched
    augmentation = Augmentation() if steps.augment else AS_IT_IS
    sampler = BatchSampler(steps.data, steps.size, seed=0, stretch=stretch, augmentation=augmentation)
    # A quarter more, because the last fifth goes without mosaic.
    iterations = steps.steps + steps.steps // 4 + 1
    config = TrainingConfig(iterations=iterations, batch_size=steps.batch, workers=WORKERS, mixed_precision=mixed)
    moments: list[float] = []

    def note(progress: Any) -> None:
        _note(moments, steps.steps)

    try:
        train(
            network,
            sampler,
            config,
            learning_rate=LEARNING_RATE,
            device=torch.device(resolve_device("auto")),
            on_progress=note,
        )
    except _Enough:
        return moments
    raise RuntimeError(f"the training ended after {len(moments)} steps, expected {steps.steps}")


def _ultralytics(steps: Steps, folder: Path) -> list[float]:
    """Ultralytics' trainer on the same files, one optimizer step per batch, AdamW, as ours."""
    create(steps.architecture, steps.data.classes, image_size=steps.size)  # our own door comes first
    from ultralytics.models.yolo.detect import DetectionTrainer
    from ultralytics.utils import LOGGER

    LOGGER.setLevel(logging.ERROR)

    data_yaml = folder / "data.yaml"
    if not data_yaml.exists():
        few = steps.data.subset(image.key for image in steps.data.images[:2])
        for split, part in (("train", steps.data), ("val", few)):
            write_yolo(part, folder, split=split)
    off = dict.fromkeys(("mosaic", "scale", "translate", "fliplr", "hsv_h", "hsv_s", "hsv_v"), 0.0)
    threads = torch.get_num_threads()
    trainer = DetectionTrainer(
        overrides={
            "model": f"{steps.architecture}.yaml",
            "data": str(data_yaml),
            "imgsz": steps.size,
            "batch": steps.batch,
            "nbs": steps.batch,
            "epochs": 1 + steps.steps * steps.batch // len(steps.data),
            "close_mosaic": 0,
            "optimizer": "AdamW",
            "lr0": LEARNING_RATE,
            "amp": CUDA,
            "workers": WORKERS,
            "device": resolve_device("auto"),
            "project": str(folder / "runs"),
            "val": False,
            "plots": False,
            "save": False,
            "verbose": False,
            **({} if steps.augment else off),
        }
    )
    moments: list[float] = []
    # On a CPU it takes all threads but one.
    trainer.add_callback("on_train_start", lambda _: torch.set_num_threads(threads))
    trainer.add_callback("on_train_batch_end", lambda _: _note(moments, steps.steps))
    try:
        trainer.train()
    except _Enough:
        trainer.train_loader.close()
        return moments
    finally:
        torch.set_num_threads(threads)
    raise RuntimeError(f"Ultralytics' training ended after {len(moments)} steps, expected {steps.steps}")


def _torchvision(steps: Steps, folder: Path) -> list[float]:
    """The loop of torchvision's own examples: its network, its transform, a DataLoader, AdamW; no augmentation."""
    device = torch.device(resolve_device("auto"))
    options = {}
    if steps.architecture in FASTER_RCNN:
        # As many sampled proposals as ours: a step of torchvision's own 512 would be another training.
        options = {"min_size": steps.size, "max_size": steps.size, "box_batch_size_per_image": SAMPLED_BOXES}
    network: Any = getattr(detection, steps.architecture)(
        weights=None, weights_backbone=None, num_classes=len(steps.data.classes) + 1, **options
    )
    network = network.to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    files = _Files(steps.data)
    loader = DataLoader(files, batch_size=steps.batch, shuffle=True, num_workers=WORKERS, collate_fn=_columns)
    moments: list[float] = []
    while True:
        for images, targets in loader:
            on_device = [{key: value.to(device) for key, value in target.items()} for target in targets]
            with torch.autocast(device.type, torch.bfloat16, enabled=CUDA):
                loss = sum(network([image.to(device) for image in images], on_device).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            try:
                _note(moments, steps.steps)
            except _Enough:
                return moments


class _Files(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    def __init__(self, data: DetectionDataset) -> None:
        self._images = data.images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        image = self._images[index]
        pixels = decode_image(str(image.path), mode=ImageReadMode.RGB).float() / 255
        return pixels, {"boxes": torch.from_numpy(image.xyxy), "labels": torch.from_numpy(image.label) + 1}


def _columns(rows: Any) -> Any:
    return tuple(zip(*rows, strict=True))


def _note(moments: list[float], steps: int) -> None:
    if CUDA:
        torch.cuda.synchronize()
    moments.append(time.perf_counter())
    if len(moments) >= steps:
        raise _Enough
