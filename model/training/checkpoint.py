"""The state of a running training in one file, so that a killed training goes on where it was.

Safetensors with a JSON header, never pickled; the file appears under its name only when it is complete.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from model.training.config import TrainingConfig

logger = logging.getLogger(__name__)

FORMAT = 2
STATE_NAME = "training.safetensors"
_HEADER_KEY = "training"
_NO_MATTER = ("checkpoint", "checkpoint_every", "workers")
"""Settings that a training may be resumed with other values of, because they do not change its result."""


def identity(config: TrainingConfig, *parts: object, module: nn.Module) -> str:
    """What a stored state must agree with to belong to a training: settings, data and the weights it started from.

    Args:
        config: of the training.
        parts: whatever else decides its result, with a `str` that says all of it.
        module: before the first step.
    """
    settings = {name: value for name, value in asdict(config).items() if name not in _NO_MATTER}
    digest = hashlib.sha256(json.dumps([settings, *map(str, parts)], sort_keys=True, default=str).encode())
    for name, value in module.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class Checkpoint:
    """Writes and reads the state of one training.

    Args:
        folder: created if missing; holds one file, which a training of another identity replaces.
        identity: from `identity`.
        modules: all modules whose weights and buffers change, by name.
        optimizer: with its parameters in the same order whenever the training is set up.
        scaler: of the gradients.
        device: whose random numbers are drawn besides the CPU's.
        rank: of this process among those that train together and read the same state, each with random numbers of its
            own.

    Attributes:
        problem: what kept the state from being written or read, None while nothing did.
    """

    def __init__(
        self,
        folder: Path,
        identity: str,
        modules: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        device: torch.device,
        rank: int = 0,
    ) -> None:
        self._path, self._identity, self._rank = folder / STATE_NAME, identity, rank
        self._modules, self._optimizer, self._scaler, self._device = modules, optimizer, scaler, device
        self.problem: str | None = None

    def random_state(self) -> dict[str, Tensor]:
        """Where this process is among its random numbers, by device type."""
        state = {"cpu": torch.get_rng_state()}
        if self._device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self._device)
        return state

    def save(
        self, counters: Mapping[str, Any], tensors: Mapping[str, Tensor], random: Sequence[Mapping[str, Tensor]]
    ) -> None:
        """Write everything; a full disk is no reason to end a training, so that only becomes `problem`.

        Args:
            counters: plain JSON values.
            tensors: more tensors, on any device.
            random: the `random_state` of each process, by rank.
        """
        everything = {f"more/{name}": value for name, value in tensors.items()}
        for part, module in self._modules.items():
            everything |= {f"{part}/{name}": value for name, value in module.state_dict().items()}
        for index, state in self._optimizer.state_dict()["state"].items():
            everything |= {f"optimizer/{index}/{name}": value for name, value in state.items()}
        for rank, states in enumerate(random):
            everything |= {f"random/{rank}/{kind}": state for kind, state in states.items()}
        document = {
            "format": FORMAT,
            "identity": self._identity,
            "scaler": self._scaler.state_dict(),
            "counters": dict(counters),
        }
        try:
            _write(self._path, everything, document)
        except (OSError, SafetensorError) as error:
            self._say(f"the state of the training could not be written to {self._path}: {error}")

    def restore(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Put everything back as it was and give what `save` was given; None where there is nothing to resume."""
        if not self._path.is_file():
            return None
        try:
            with safe_open(self._path, framework="pt", device="cpu") as file:
                document = json.loads((file.metadata() or {})[_HEADER_KEY])
                if document["format"] != FORMAT or document["identity"] != self._identity:
                    logger.info("%s belongs to another training, which this one replaces", self._path)
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            self._say(f"{self._path} cannot be read, so the training starts from its beginning: {error}")
            return None
        for part, module in self._modules.items():
            module.load_state_dict(_below(tensors, part))
        self._restore_optimizer(_below(tensors, "optimizer"))
        self._scaler.load_state_dict(document["scaler"])
        random = _below(tensors, f"random/{self._rank}")
        torch.set_rng_state(random["cpu"])
        if self._device.type == "cuda" and "cuda" in random:
            torch.cuda.set_rng_state(random["cuda"], self._device)
        return document["counters"], _below(tensors, "more")

    def _restore_optimizer(self, tensors: Mapping[str, Tensor]) -> None:
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            index, key = name.split("/")
            parameter = parameters[int(index)]
            if value.shape == parameter.shape and value.ndim:
                # In the memory layout of the parameter, so that every operation runs as it did.
                value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
            state.setdefault(int(index), {})[key] = value
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": state})

    def _say(self, problem: str) -> None:
        logger.warning("Training: %s", problem)
        self.problem = problem


def _below(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name[len(part) + 1 :]: value for name, value in tensors.items() if name.startswith(f"{part}/")}


def _write(path: Path, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Always the same name, so that kills do not fill the folder with halves.
    temporary = path.with_name(f".{path.name}.tmp")
    ready: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in tensors.items():
        ready[name] = value.detach().to("cpu", memory_format=torch.contiguous_format).contiguous()
        if value.numel() and ready[name].data_ptr() in seen:  # safetensors refuses tensors that share memory
            ready[name] = ready[name].clone()
        seen.add(ready[name].data_ptr())
    save_file(ready, temporary, metadata={"format": "pt", _HEADER_KEY: json.dumps(document)})
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
