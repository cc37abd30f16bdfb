"""Weights files: safetensors with a description, written whole or not at all, and never unpickled."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from model.errors import WeightsRefused

logger = logging.getLogger(__name__)

FORMAT = 1
WEIGHTS_NAME = "weights.safetensors"
DESCRIPTION_NAME = "detector.json"
_HEADER_KEY = "detector"


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide what weights mean."""
    return {name: version(name) for name in ("torch", "torchvision", "ultralytics")}


def write_weights(path: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write `tensors` to `path`, with `description` (plain JSON values) in the file's header.

    The file appears under its name only when it is complete.
    """
    document = {"format": FORMAT, **description, "versions": library_versions()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    contiguous = {
        name: value.detach().to("cpu", memory_format=torch.contiguous_format).contiguous()
        for name, value in tensors.items()
    }
    save_file(contiguous, temporary, metadata={"format": "pt", _HEADER_KEY: json.dumps(document)})
    os.replace(temporary, path)


def halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with float16 for all that is floating, half as large in a file; loading widens them again."""
    return {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}


def save_folder(folder: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write `weights.safetensors` and `detector.json` into `folder`, which is created if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder / WEIGHTS_NAME, tensors, description)
    document = {"format": FORMAT, **description, "versions": library_versions()}
    temporary = folder / f".{DESCRIPTION_NAME}.{os.getpid()}.tmp"
    temporary.write_text(json.dumps(document, indent=2) + "\n")
    os.replace(temporary, folder / DESCRIPTION_NAME)


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (floating ones as float32, on the CPU) and the description of a weights file.

    The description comes from the file's header, else from a `detector.json` beside it.

    Raises:
        WeightsRefused: no such file, not safetensors, damaged, without description, or of a newer format.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise WeightsRefused(f"{path} cannot be read as safetensors: {error}") from error
    floats = {name: value.float() if value.dtype.is_floating_point else value for name, value in tensors.items()}
    return floats, _description(path, header)


def read_description(folder: Path) -> dict[str, Any]:
    """`detector.json` of a saved detector.

    Raises:
        WeightsRefused: missing, not JSON, or of a newer format.
    """
    return _checked(folder / DESCRIPTION_NAME, _read_json(folder / DESCRIPTION_NAME))


def require_permission(path: Path, *, allow_pickle: bool) -> None:
    """Refuse to open a pickled file unless the caller said that it may be.

    Raises:
        WeightsRefused: it may not.
    """
    if not allow_pickle:
        raise WeightsRefused(
            f"{path} is a pickled file, which can run code when it is opened; give a .safetensors file, or allow it "
            "explicitly (allow_pickle=True) if you trust where it comes from"
        )


def warn_of_random_weights(architecture: str) -> None:
    """Say in the log what it costs to start from nothing; `architecture` is a name or the path of a YAML file."""
    logger.warning(
        "%s starts from random weights: without a base checkpoint the first trainings teach it little and its "
        "rankings are noise. Put %s.safetensors into the folder of base weights",
        architecture,
        Path(architecture).stem,
    )


def load_tensors(network: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Fill `network` with stored weights, all of them.

    Raises:
        WeightsRefused: a tensor is missing, left over or of another shape.
    """
    wanted = network.state_dict()
    wrong = [
        f"{n} {tuple(tensors[n].shape)} instead of {tuple(wanted[n].shape)}"
        for n in wanted.keys() & tensors.keys()
        if tensors[n].shape != wanted[n].shape
    ]
    problems = [f"missing {n}" for n in sorted(wanted.keys() - tensors.keys())]
    problems += [f"unknown {n}" for n in sorted(tensors.keys() - wanted.keys())] + sorted(wrong)
    if problems:
        raise WeightsRefused(
            f"{source} does not fit this network ({len(problems)} tensors differ): {'; '.join(problems[:3])}"
        )
    network.load_state_dict(tensors)


def _description(path: Path, header: Mapping[str, str]) -> dict[str, Any]:
    if _HEADER_KEY in header:
        return _checked(path, json.loads(header[_HEADER_KEY]))
    return read_description(path.parent)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise WeightsRefused(
            f"{path} cannot be read, so nothing says which network the weights belong to: {error}"
        ) from error


def _checked(path: Path, document: Any) -> dict[str, Any]:
    missing = {"format", "family", "architecture", "classes", "image_size"} - set(
        document if isinstance(document, dict) else ()
    )
    if missing:
        raise WeightsRefused(f"the description of {path} lacks {', '.join(sorted(missing))}")
    if document["format"] > FORMAT:
        raise WeightsRefused(
            f"{path} has format {document['format']}, this program reads up to {FORMAT}: install a newer version"
        )
    return dict(document)
