"""The weights that the first training of a project starts from: which there are, and how to get better ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from al_backend.errors import BackendError
from al_backend.registry import Registry
from model.detectors.base_files import PICKLED, SHIPPED, TORCHVISION_FILES, base_file


def fetch_checkpoint(registry: Registry, detector: str, scratch: Path) -> dict[str, Any]:
    """Ultralytics' or torchvision's COCO weights as `base/<detector>.safetensors` of the registry.

    What is there already stays. Without internet, the original file is taken from `base/` if somebody put it there.

    Args:
        registry: that all workers share.
        detector: architecture name.
        scratch: folder for a registry that is not on a local disk.

    Returns:
        `detector`, `file`, and `classes`: how many it knows.

    Raises:
        BackendError: there are no published weights of that name, or they cannot be had; the message says why and
            what to do without internet.
    """
    from model.detectors import base_weights, torchvision_weights  # these bring torch
    from model.detectors.factory import TORCHVISION, YOLO
    from model.detectors.weights import read_weights

    if detector not in YOLO + TORCHVISION:
        raise BackendError(
            f"No weights are published for {detector!r}; there are some for {', '.join(YOLO + TORCHVISION)}."
        )
    folder = registry.base_folder or scratch / "base"
    fetch = base_weights.fetch_base if detector in YOLO else torchvision_weights.fetch_base
    file = fetch(detector, folder)
    if file is None:
        raise BackendError(
            f"The weights of {detector} could not be had; the line above says why. Without internet, download the file "
            f"that it names elsewhere, put it into {folder} as it is, and run this again."
        )
    registry.share_base(file)
    _, description = read_weights(file)
    return {"detector": detector, "file": str(file), "classes": len(description["classes"])}


def may_be_pickled(detector: str) -> bool:
    """Whether the weights that a detector starts from may be a pickle, which restricted loaders open.

    Naming the file is the permission. A project cannot name one (`LearningSettings.overridden`), only the operator can.
    """
    return detector.endswith(".pt")


def describe_checkpoint(registry: Registry, detector: str) -> tuple[bool, str]:
    """Whether trainings of a detector start from trained weights, and a sentence that says from which."""
    if detector.endswith((".yaml", ".yml")):
        return True, f"{detector} is a network of your own: first trainings begin from random weights."
    file = base_file(detector, registry.base_folder)
    if file is None and detector.endswith(".pt"):
        return False, f"There is no file {detector} here, so no training can start."
    if file is None:
        return False, f"There are no weights to start from, so {detector} begins from random ones."
    if file.suffix in PICKLED and file.name != TORCHVISION_FILES.get(detector) and not may_be_pickled(detector):
        return False, (
            f"{file} is pickled, so trainings refuse it. Put a .safetensors file there; an Ultralytics .pt file that "
            "you trust can be named as AL_DETECTOR, with its whole path."
        )
    if file.parent != SHIPPED:
        return True, f"First trainings start from {file.name}."
    return True, (
        "First trainings start from the small checkpoint that comes with the project, made from drawn underwater "
        f"scenes; for photographs `al-backend fetch-weights {detector}` gets a better one."
    )
