"""Trains one detector on several devices of this machine, one process each."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessException, start_processes

from model.data.dataset import DetectionDataset
from model.detectors.base import Detector
from model.detectors.factory import load, resolve_device
from model.errors import ModelError
from model.training.config import Progress, TrainingConfig, TrainingReport

LONGEST_WAIT = timedelta(hours=6)
"""For the other processes, e.g. while the first tries the weights on the validation images."""
_POLL_SECONDS = 0.2

Message = Progress | TrainingReport | ModelError


@dataclass(frozen=True)
class _Work:
    """What every process is told.

    Attributes:
        folder: with the detector to start from; the first process leaves the trained one there.
        devices: one a process.
        train: training images.
        validation: held-out images.
        config: with the share of the batch that one process takes.
    """

    folder: Path
    devices: tuple[str, ...]
    train: DetectionDataset
    validation: DetectionDataset | None
    config: TrainingConfig

    @property
    def start(self) -> Path:
        return self.folder / "start"

    @property
    def trained(self) -> Path:
        return self.folder / "trained"


def fit_on(
    devices: Sequence[str],
    detector: Detector,
    train: DetectionDataset,
    validation: DetectionDataset | None,
    config: TrainingConfig,
    on_progress: Callable[[Progress], None] | None = None,
) -> tuple[Detector, TrainingReport]:
    """`Detector.fit` on several devices: each step's batch is divided among them, gradients are averaged.

    With one device this is `detector.fit`. With more, every device takes `config.batch_size / len(devices)` images,
    rounded up; normalisation sees the images of its own device only. A training is repeatable and can be resumed with
    the same number of devices.

    Args:
        devices: at least one; the same name twice is allowed, e.g. `cpu` in a test.
        detector: to start from; not to be used afterwards.
        train: see `Detector.fit`.
        validation: see `Detector.fit`.
        config: see `Detector.fit`; `batch_size` is that of all devices together.
        on_progress: called in this process; what it raises ends the training on all devices.

    Returns:
        The trained detector, on the first device, and what happened.

    Raises:
        ValueError: no device, or one that does not exist.
        ModelError: as `Detector.fit`.
        RuntimeError: a process failed otherwise, or was killed; the text has its trace.
    """
    names = tuple(resolve_device(name) for name in devices)
    if not names:
        raise ValueError("a training needs at least one device, found none")
    if len(names) == 1:
        return detector, detector.fit(train, validation, config, on_progress)
    each = replace(config, batch_size=-(-config.batch_size // len(names)))
    if config.checkpoint is not None:
        config.checkpoint.mkdir(parents=True, exist_ok=True)
    # Beside the state: in the system's folder for temporary files a killed training's weights would stay for good.
    with tempfile.TemporaryDirectory(prefix="devices-", dir=config.checkpoint) as folder:
        work = _Work(Path(folder), names, train, validation, each)
        detector.save(work.start)
        report = _run(work, on_progress)
        return load(work.trained, device=names[0]), report


def _run(work: _Work, on_progress: Callable[[Progress], None] | None) -> TrainingReport:
    context = torch.multiprocessing.get_context("spawn")
    messages: SimpleQueue[Message] = context.SimpleQueue()
    # Spawned, because a CUDA context does not survive a fork; torch ends them when this process ends.
    processes = start_processes(_process, (work, messages), len(work.devices), join=False, start_method="spawn")
    report: TrainingReport | None = None
    try:
        ended = False
        while not ended:
            try:
                ended = processes.join(timeout=_POLL_SECONDS)
            except ProcessException as error:
                _raise_what_was_meant(messages)
                raise RuntimeError(f"the training on {', '.join(work.devices)} failed: {error}") from error
            while not messages.empty():
                message = messages.get()
                if isinstance(message, ModelError):
                    raise message
                if isinstance(message, TrainingReport):
                    report = message
                elif on_progress is not None:
                    on_progress(message)
    finally:
        for process in processes.processes:
            process.kill()
            process.join()
        messages.close()
    assert report is not None, "every process ended well, and the first one reports before it ends"
    return report


def _raise_what_was_meant(messages: SimpleQueue[Message]) -> None:
    """An error that a process raised on purpose says more than that the process ended."""
    while not messages.empty():
        message = messages.get()
        if isinstance(message, ModelError):
            raise message


def _process(rank: int, work: _Work, messages: SimpleQueue[Message]) -> None:
    # torch sends SIGINT when the parent is gone; a process that waits for the others in C would never see it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    device = torch.device(work.devices[rank])
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // len(work.devices)))
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all are on this machine, whatever its name resolves to
    distinct = len(set(work.devices)) == len(work.devices)
    dist.init_process_group(
        "nccl" if device.type == "cuda" and distinct else "gloo",
        init_method=(work.folder / "rendezvous").as_uri(),
        rank=rank,
        world_size=len(work.devices),
        timeout=LONGEST_WAIT,
    )
    try:
        detector = load(work.start, device=work.devices[rank])
        report = detector.fit(work.train, work.validation, work.config, _teller(messages) if rank == 0 else None)
        if rank == 0:
            detector.save(work.trained)
            messages.put(report)
    except ModelError as error:
        messages.put(error)
        raise
    dist.destroy_process_group()


def _teller(messages: SimpleQueue[Message]) -> Callable[[Progress], None]:
    """Sends progress, at most as often as it is read, so that they never pile up."""
    last = -1.0

    def tell(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= _POLL_SECONDS or progress.iteration == progress.iterations:
            last = time.monotonic()
            messages.put(progress)

    return tell
