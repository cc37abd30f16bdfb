"""Makes detectors by the name of their architecture, and opens saved ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from model.detectors.base import Detector
from model.detectors.base_files import TORCHVISION_FILES, base_file
from model.detectors.weights import WEIGHTS_NAME, read_description
from model.errors import WeightsRefused

YOLO = ("yolov5n", "yolov5s", "yolov5m", "yolov5l", "yolov5x")
SSD = ("ssd300_vgg16", "ssdlite320_mobilenet_v3_large")
FASTER_RCNN = ("fasterrcnn_resnet50_fpn_v2", "fasterrcnn_mobilenet_v3_large_fpn")
TORCHVISION = SSD + FASTER_RCNN
ULTRALYTICS_SUFFIXES = (".pt", ".yaml", ".yml")


def architectures() -> tuple[str, ...]:
    """Names that `create` knows; it also takes the path of an Ultralytics `.yaml` or `.pt` file."""
    return YOLO + TORCHVISION


def resolve_device(name: str) -> str:
    """`auto` becomes `cuda` where there is one, else `cpu`; other names are checked.

    Raises:
        ValueError: no such device here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {name!r} was asked for, found {torch.cuda.device_count()} CUDA devices; use cpu or auto"
        )
    return name


def create(
    architecture: str,
    classes: Sequence[str] | None,
    *,
    image_size: int = 640,
    device: str = "auto",
    base: Path | None = None,
    seed: int = 0,
    allow_pickle: bool = False,
) -> Detector:
    """A detector for `classes`, which still has to learn them.

    Args:
        architecture: one of `architectures()`, or the path of an Ultralytics `.yaml` or `.pt` file.
        classes: unique label names, in order; may be empty until the first `fit`. None for those of `base`.
        image_size: pixels of the longer side that the network sees; SSD has one size of its own and takes no other.
        device: see `resolve_device`.
        base: checkpoint to start from (`find_base`); classes that it knows by the same name keep their weights.
            None starts from random weights, which is said in the log.
        seed: of fresh weights.
        allow_pickle: open `.pt` and `.pth` files, with the restricted loader of Ultralytics or PyTorch.

    Raises:
        ValueError: unknown architecture or device, or class names that are not unique.
        WeightsRefused: `base` is damaged, of another architecture, or pickled without permission.
    """
    if classes is not None and len(set(classes)) != len(classes):
        raise ValueError(f"class names must be unique, found {tuple(classes)}")
    if architecture not in architectures() and not architecture.endswith(ULTRALYTICS_SUFFIXES):
        raise ValueError(
            f"unknown architecture {architecture!r}; expected one of {', '.join(architectures())}, or the path of an "
            "Ultralytics .yaml or .pt file"
        )
    options: dict[str, Any] = {
        "image_size": image_size,
        "device": torch.device(resolve_device(device)),
        "base": base,
        "seed": seed,
        "allow_pickle": allow_pickle,
    }
    if architecture in TORCHVISION:
        from model.detectors import torchvision_detector

        return torchvision_detector.create(architecture, classes, **options)
    from model.detectors import yolo  # importing Ultralytics takes seconds, so only when it is needed

    return yolo.create(architecture, classes, **options)


def load(folder: Path, *, device: str = "auto") -> Detector:
    """A detector that `Detector.save` wrote to `folder`.

    Raises:
        WeightsRefused: files are missing, damaged, or of another kind of detector.
    """
    family = read_description(folder)["family"]
    path, chosen = folder / WEIGHTS_NAME, torch.device(resolve_device(device))
    if family in ("ssd", "faster_rcnn"):
        from model.detectors import torchvision_detector

        return torchvision_detector.from_weights(path, device=chosen)
    if family != "yolo":
        raise WeightsRefused(f"{folder} holds a {family!r} detector, which this version does not know")
    from model.detectors import yolo

    return yolo.from_weights(path, device=chosen)


def find_base(architecture: str, folder: Path | None) -> Path | None:
    """A checkpoint to start from: the user's in `folder`, else the one that comes with this package, else None.

    Args:
        architecture: looked for as `base_files.base_file` does; a file as torchvision publishes it is converted.
        folder: of base weights; None or missing means that there are no own ones.
    """
    found = base_file(architecture, folder)
    if folder is None or found is None or found.name != TORCHVISION_FILES.get(architecture):
        return found
    from model.detectors import torchvision_weights

    return torchvision_weights.fetch_base(architecture, folder) or base_file(architecture, None)
