"""Where and with what something was measured."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

PACKAGES = ("al-backend", "torch", "torchvision", "ultralytics", "numpy", "polars", "faster-coco-eval")


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Python and those of the packages that are installed; by default the ones that decide about results."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Processor, cores, memory and GPUs of this machine."""
    import torch  # takes seconds, and only this asks for it

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "processor": _processor(),
        "cores": psutil.cpu_count(logical=False),
        "threads": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpus": gpus,
        "system": platform.platform(terse=True),
    }


def made_on(device: str) -> dict[str, str]:
    """What a training ran on, for its own record: an experiment may go on elsewhere, and with another release.

    Args:
        device: as PyTorch names it.
    """
    import torch  # takes seconds, and only this asks for it

    kind = torch.device(device)
    name = torch.cuda.get_device_name(kind) if kind.type == "cuda" else _processor()
    return {"device": f"{kind.type}, {name}", **versions()}


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
