"""The one training loop: every detector family trains here, through a small adapter."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from model.errors import ModelError
from model.training.averaging import WeightAverage
from model.training.config import Progress, TrainingConfig, TrainingReport
from model.training.sampling import Batch, BatchSampler

logger = logging.getLogger(__name__)

MAX_GRADIENT_NORM = 10.0
FINAL_RATE = 0.01
"""Of the peak learning rate, at the last step."""
SMALLEST_BATCH_FOR_NORM = 8
"""Below this, batch statistics are too noisy to learn from and batch normalisation stays fixed."""
LOSS_WINDOW = 10
"""Steps over which the reported loss is averaged; on a GPU it is only read back this often."""


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """True boxes of one image, on the training device.

    Attributes:
        xyxy: shape (n, 4), float32, pixels of the training image; n may be 0.
        label: shape (n,), int64.
    """

    xyxy: Tensor
    label: Tensor


class TrainableNetwork(Protocol):
    """What a detector family gives the loop.

    Attributes:
        module: trained in place.
        blocks: leading backbone blocks, in order, that can be frozen.
        fast_parameters: those that learn at `fast_factor` times the rate, e.g. the rows of new classes.
        fast_factor: at least 1.
    """

    module: nn.Module
    blocks: Sequence[nn.Module]
    fast_parameters: Sequence[nn.Parameter]
    fast_factor: float

    def loss(self, images: Tensor, targets: Sequence[Target]) -> Tensor:
        """Mean loss per image, a scalar; `images` has shape (b, 3, h, w), float32 in [0, 1], RGB."""
        ...


def train(
    network: TrainableNetwork,
    sampler: BatchSampler,
    config: TrainingConfig,
    *,
    learning_rate: float,
    frozen_blocks: int = 0,
    device: torch.device,
    on_progress: Callable[[Progress], None] | None = None,
    on_step: Callable[[int, nn.Module], None] | None = None,
) -> tuple[nn.Module, TrainingReport]:
    """Train for `config.iterations` steps: AdamW, linear warm-up, cosine decay, clipped gradients, averaged weights.

    Args:
        network: trained in place; its module is left at the last, not averaged, weights.
        sampler: source of batches.
        config: settings; `learning_rate` and `freeze` are taken from the arguments instead.
        learning_rate: peak rate.
        frozen_blocks: leading blocks that stay fixed.
        device: where `network.module` is.
        on_progress: called after every step; what it raises ends the training at once.
        on_step: called after every step with the step's number and the averaged module, e.g. to write a checkpoint.

    Returns:
        The averaged module in eval mode, and what happened.

    Raises:
        ModelError: the loss is not finite.
        NotEnoughLabels: no image can be read.
    """
    run = _Run(network, sampler, config, learning_rate, frozen_blocks, device)
    # Some networks draw random numbers from torch's global state; the caller's stays as it was.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        return run.go(on_progress, on_step)


class _Run:
    def __init__(
        self,
        network: TrainableNetwork,
        sampler: BatchSampler,
        config: TrainingConfig,
        learning_rate: float,
        frozen_blocks: int,
        device: torch.device,
    ) -> None:
        self.network, self.sampler, self.config, self.device = network, sampler, config, device
        self.frozen = list(network.blocks[:frozen_blocks])
        self.batch_size = max(1, config.batch_size)
        self.notes: list[str] = []
        self.losses: list[Tensor] = []
        for block in self.frozen:
            block.requires_grad_(False)
        self.optimizer = build_optimizer(network, learning_rate, config.weight_decay)
        self.average = WeightAverage(network.module, config.ema_decay)
        self.precision = mixed_precision_type(device) if config.mixed_precision else None
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision is torch.float16)

    def go(
        self,
        on_progress: Callable[[Progress], None] | None,
        on_step: Callable[[int, nn.Module], None] | None,
    ) -> tuple[nn.Module, TrainingReport]:
        started = time.monotonic()
        total, done = self.config.iterations, 0
        while done < total:
            batches = self.sampler.batches(
                done, total, self.batch_size, mosaic_until=total - total // 5, workers=self.config.workers
            )
            self._training_mode()
            try:
                for batch in batches:
                    self._step(batch, done)
                    done += 1
                    if on_step is not None:
                        on_step(done, self.average.module)
                    if on_progress is not None:
                        on_progress(self._progress(done, time.monotonic() - started))
            except (RuntimeError, MemoryError) as error:
                self._halve_batch(error, done)
            finally:
                batches.close()
        self._mean_loss(self.losses)
        return self.average.module, self._report(time.monotonic() - started)

    def _step(self, batch: Batch, index: int) -> None:
        factor = rate_factor(index, self.config.iterations)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        images, targets = to_device(batch, self.device)
        with torch.autocast(self.device.type, self.precision or torch.bfloat16, enabled=self.precision is not None):
            loss = self.network.loss(images, targets)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.network.module.parameters(), MAX_GRADIENT_NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(self.network.module)
        self.losses.append(loss.detach())

    def _training_mode(self) -> None:
        """Train mode, but with fixed statistics in frozen blocks, and everywhere when the batch is small."""
        self.network.module.train()
        for block in self.frozen:
            block.eval()
        if self.batch_size < SMALLEST_BATCH_FOR_NORM:
            for module in self.network.module.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def _halve_batch(self, error: Exception, done: int) -> None:
        if not is_out_of_memory(error) or self.notes or self.batch_size == 1:
            raise error
        smaller = self.batch_size // 2
        note = f"out of memory at batch size {self.batch_size} after {done} steps, continued with {smaller}"
        logger.warning("Training: %s", note)
        self.notes.append(note)
        self.batch_size = smaller
        self.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _mean_loss(self, losses: Sequence[Tensor]) -> float:
        value = float(torch.stack(list(losses)).float().mean()) if losses else math.nan
        if losses and not math.isfinite(value):
            raise ModelError(
                f"the training diverged: loss is {value} at step {len(self.losses)} of {self.config.iterations}; "
                "use a lower learning rate"
            )
        return value

    def _progress(self, done: int, elapsed: float) -> Progress:
        if self.device.type == "cpu" or done % LOSS_WINDOW == 0 or done == 1:
            self._shown = self._mean_loss(self.losses[-LOSS_WINDOW:])
        total = self.config.iterations
        return Progress(
            phase="train",
            iteration=done,
            iterations=total,
            epoch=done * self.batch_size / len(self.sampler.store),
            loss=self._shown,
            eta_seconds=elapsed / done * (total - done) if done >= 3 else None,
        )

    def _report(self, seconds: float) -> TrainingReport:
        tenth = max(1, len(self.losses) // 10)
        return TrainingReport(
            iterations=len(self.losses),
            batch_size=self.batch_size,
            frozen_blocks=len(self.frozen),
            seconds=seconds,
            first_loss=self._mean_loss(self.losses[:tenth]),
            last_loss=self._mean_loss(self.losses[-tenth:]),
            skipped=self.sampler.store.skipped,
            notes=tuple(self.notes),
        )


def build_optimizer(network: TrainableNetwork, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over what is not frozen: no decay on biases and norms, a higher rate for `fast_parameters`."""
    fast = {id(p) for p in network.fast_parameters}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in network.module.parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) in fast, parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "peak_lr": learning_rate * (network.fast_factor if is_fast else 1.0),
                "weight_decay": weight_decay if decayed else 0.0,
            }
            for (is_fast, decayed), parameters in groups.items()
        ],
        lr=learning_rate,
    )


def rate_factor(step: int, total: int) -> float:
    """Fraction of the peak rate at `step` (from 0) of `total`: linear warm-up, then half a cosine down to 1 %."""
    warm_up = min(100, max(1, total // 10))
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(1, total - warm_up - 1)
    return FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def mixed_precision_type(device: torch.device) -> torch.dtype | None:
    """The half-width type in which `device` trains faster, None where full precision is better."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "cpu":
        # Without these instructions bfloat16 is emulated, which is slower than float32.
        native = torch.cpu.get_capabilities()
        return torch.bfloat16 if native.get("avx512_bf16") or native.get("amx_bf16") else None
    return None


def to_device(batch: Batch, device: torch.device) -> tuple[Tensor, list[Target]]:
    """Images as (b, 3, h, w) float32 in [0, 1] in channels-last memory, and targets, on `device`."""
    # Permuting (b, h, w, 3) gives channels-last strides without a copy.
    images = torch.from_numpy(batch.images).to(device).permute(0, 3, 1, 2).float().div_(255)
    counts = [len(label) for label in batch.label]
    xyxy = torch.from_numpy(np.concatenate(batch.xyxy)).to(device).split(counts)
    label = torch.from_numpy(np.concatenate(batch.label)).to(device).split(counts)
    return images, [Target(*pair) for pair in zip(xyxy, label, strict=True)]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out, on a GPU or in the process."""
    text = str(error).lower()
    return (
        isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "out of memory" in text or "can't allocate" in text
    )
