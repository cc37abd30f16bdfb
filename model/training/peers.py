"""Processes that train one network together, each on its own share of every batch.

The gradients are averaged here and not by `DistributedDataParallel`, because a process that runs out of memory in the
middle of a step must still take part in it: the others would wait for it for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


class Peers:
    """This process among those that train together.

    Args:
        rank: of this process, from 0.
        size: number of processes; with 1 nothing here costs anything.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @classmethod
    def here(cls) -> Peers:
        """Those of torch's process group where one was set up (see `model.detectors.several_devices`), else nobody."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.size == 1

    @property
    def first(self) -> bool:
        """Whether this process speaks for all: it writes the state and reports."""
        return self.rank == 0

    def step(self, compute: Callable[[], Tensor], parameters: Iterable[nn.Parameter], device: torch.device) -> Tensor:
        """Compute gradients, and average them over all processes.

        Args:
            compute: leaves gradients in the parameters and returns this process's loss.
            parameters: the same ones in the same order everywhere; those that have no gradient anywhere keep none.
            device: of the parameters.

        Raises:
            MemoryError: another process ran out of memory; what failed here is raised as it is.
        """
        if self.alone:
            return compute()
        problem: Exception | None = None
        loss = torch.zeros((), device=device)
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        try:
            loss = compute()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            problem = error
        failures = self._average(trained, problem is not None, device)
        if problem is not None:
            raise problem
        if failures:
            raise MemoryError(f"out of memory on {failures} of the {self.size} devices that train together")
        return loss

    def average_buffers(self, module: nn.Module | None) -> None:
        """Make the floating-point buffers of a module the mean over all processes."""
        if self.alone or module is None:
            return
        for buffer in module.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer /= self.size

    def from_first(self, value: T) -> T:
        """What process 0 has; the others' value is dropped."""
        if self.alone:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def from_all(self, value: T) -> list[T]:
        """What each process has, by rank; all of them have to call this."""
        if self.alone:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def _average(self, parameters: list[nn.Parameter], failed: bool, device: torch.device) -> int:
        """One reduction for all gradients, whose last elements say who has some and how many processes failed."""
        gradients = [None if failed else parameter.grad for parameter in parameters]
        flat = [
            torch.zeros(parameter.numel(), device=device) if gradient is None else gradient.float().flatten()
            for parameter, gradient in zip(parameters, gradients, strict=True)
        ]
        told = torch.tensor([*(float(gradient is not None) for gradient in gradients), float(failed)], device=device)
        everything = torch.cat([*flat, told])
        dist.all_reduce(everything)
        mean, told = everything[: -len(told)] / self.size, everything[-len(told) :].cpu()
        start = 0
        for index, parameter in enumerate(parameters):
            part = mean[start : start + parameter.numel()]
            start += parameter.numel()
            parameter.grad = part.view_as(parameter).to(parameter.dtype) if told[index] else None
        return round(float(told[-1]))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out, on a GPU or in the process."""
    text = str(error).lower()
    return (
        isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "out of memory" in text or "can't allocate" in text
    )
