"""The one training loop: every detector family trains here, through a small adapter."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.training.averaging import WeightAverage
from model.training.checkpoint import Checkpoint, identity
from model.training.config import Progress, TrainingConfig, TrainingReport
from model.training.loss_history import LossHistory
from model.training.optimization import build_optimizer, mixed_precision_type, rate_factor
from model.training.peers import Peers, is_out_of_memory
from model.training.sampling import Batch, BatchSampler
from model.training.selection import Judge, Selection
from model.training.statistics import (
    IMAGES,
    all_norms,
    buffers_kept,
    learning_norms,
    norms_to_fix,
    take_statistics,
)
from model.training.targets import to_device
from model.training.trainable import TrainableNetwork
from model.training.warm_start import shrink_and_perturb

logger = logging.getLogger(__name__)

MAX_GRADIENT_NORM = 10.0
SMALLEST_BATCH_FOR_NORM = 8
"""Below this, batch statistics are too noisy to learn from, and normalisations that have statistics keep them."""


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
    judge: Judge | None = None,
) -> tuple[nn.Module, TrainingReport]:
    """Train for `config.iterations` steps: AdamW, linear warm-up, cosine decay, clipped gradients, averaged weights.

    In a process group (`Peers`) every process calls this alike, with `config.batch_size` images of its own in a step;
    weights and report of process 0 count.

    Args:
        network: trained in place; its module is left at the last, not averaged, weights.
        sampler: source of batches.
        config: settings; `learning_rate` and `freeze` are taken from the arguments instead.
        learning_rate: peak rate.
        frozen_blocks: leading blocks that stay fixed.
        device: where `network.module` is.
        on_progress: called after every step; what it raises ends the training at once.
        on_step: called after every step with the step's number and the averaged module, e.g. to write a checkpoint.
        judge: tries the averaged weights every `config.evaluate_every` steps; not asked where that is 0.

    Returns:
        The averaged module in eval mode, with the weights that `judge` found best if it was asked; and what happened.

    Raises:
        ValueError: settings out of their range.
        ModelError: the loss is not finite.
        NotEnoughLabels: no image can be read.
    """
    peers = Peers.here()
    run = _Run(network, sampler, config, learning_rate, frozen_blocks, device, judge, peers)
    # Some networks draw random numbers from torch's global state; the caller's stays as it was.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed + peers.rank)
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
        judge: Judge | None,
        peers: Peers,
    ) -> None:
        self.network, self.sampler, self.config, self.device = network, sampler, config, device
        self.peers = peers
        self.frozen = list(network.blocks[:frozen_blocks])
        self.batch_size = max(1, config.batch_size)
        self.halved = False
        self.notes: list[str] = []
        self.losses = LossHistory(config.iterations, device)
        self.done = self.resumed_after = 0
        self.seconds_before = 0.0
        self.skipped_before: list[str] = []
        for block in self.frozen:
            block.requires_grad_(False)
        self.fixed_norms = norms_to_fix(network.module)  # before a resumed training's are read
        parts = (sampler.identity(), learning_rate, frozen_blocks, judge.identity if judge else None, peers.size)
        name = "" if config.checkpoint is None else identity(config, *parts, module=network.module)
        if config.shrink_and_perturb is not None:
            fixed_norms = self.batch_size < SMALLEST_BATCH_FOR_NORM
            shrink_and_perturb(
                network.module, *config.shrink_and_perturb, seed=config.seed + 1, fixed_norms=fixed_norms
            )
        self.optimizer = build_optimizer(network, learning_rate, config.weight_decay)
        self.average = WeightAverage(network.module, config.ema_decay)
        self.precision = mixed_precision_type(device) if config.mixed_precision else None
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision is torch.float16)
        self.selection = Selection(judge, config.evaluate_every, config.patience)
        self.checkpoint: Checkpoint | None = None
        if config.checkpoint is not None:
            modules = {"module": network.module, "average": self.average.module}
            learned = getattr(network, "loss_state", None)
            if learned is not None:
                modules["loss"] = learned
            self.checkpoint = Checkpoint(
                config.checkpoint, name, modules, self.optimizer, self.scaler, device, peers.rank
            )

    def go(
        self,
        on_progress: Callable[[Progress], None] | None,
        on_step: Callable[[int, nn.Module], None] | None,
    ) -> tuple[nn.Module, TrainingReport]:
        started = time.monotonic()
        total = self.config.iterations
        self._restore()
        while self.done < total and not self.selection.exhausted():
            batches = self.sampler.batches(
                self.done,
                total,
                self.batch_size,
                mosaic_until=total - total // 5,
                workers=self.config.workers,
                share=(self.peers.rank, self.peers.size),
            )
            self._training_mode()
            try:
                for batch in batches:
                    try:
                        loss = self._gradients(batch)
                    except (RuntimeError, MemoryError) as error:
                        self._halve_batch(error)
                        break
                    self._update(loss)
                    self.done += 1
                    if on_step is not None:
                        on_step(self.done, self.average.module)
                    self._look(on_progress)
                    self._save(time.monotonic() - started)
                    if on_progress is not None:
                        on_progress(self._progress(self.done, time.monotonic() - started))
                    if self.selection.exhausted():
                        break
            finally:
                batches.close()
        self.losses.mean()  # fails where they diverged
        if self.selection.best is not None:
            self.average.module.load_state_dict(self.selection.best)
        else:
            self._take_statistics()
        return self.average.module, self._report(time.monotonic() - started)

    def _look(self, on_progress: Callable[[Progress], None] | None) -> None:
        if self.selection.due(self.done, self.config.iterations):
            # Whether somebody looks must not change how the training goes on.
            with (
                torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []),
                buffers_kept(self.average.module),
            ):
                if self.peers.first:
                    self._take_statistics()
                    self.selection.look(self.done, self.average.module, on_progress)
            counters = self.peers.from_first(self.selection.counters())
            if not self.peers.first:
                self.selection.restore(counters, {})

    def _take_statistics(self) -> None:
        """Fit the averaged module's normalisations to its weights, on single images as in prediction."""
        self._training_mode()  # a training that had ended when it was resumed never entered it
        count = min(max(1, IMAGES // self.batch_size), max(1, self.config.iterations // 10))
        batches = (
            self.sampler.batch(self.config.iterations * self.peers.size + number, self.batch_size, use_mosaic=False)
            for number in range(count)
        )
        names = learning_norms(self.network.module)
        with buffers_kept(getattr(self.network, "loss_state", None)):
            take_statistics(self.average.module, names, batches, self._forward)

    def _forward(self, module: nn.Module, batch: Batch) -> None:
        trained, self.network.module = self.network.module, module
        try:
            self._loss(batch)
        finally:
            self.network.module = trained

    def _loss(self, batch: Batch) -> Tensor:
        images, targets = to_device(batch, self.device)
        with torch.autocast(self.device.type, self.precision or torch.bfloat16, enabled=self.precision is not None):
            return self.network.loss(images, targets)

    def _save(self, elapsed: float) -> None:
        last = self.done == self.config.iterations or self.selection.exhausted()
        if self.checkpoint is None or not (last or self.done % max(1, self.config.checkpoint_every) == 0):
            return
        random = self.peers.from_all(self.checkpoint.random_state())
        if not self.peers.first:
            return
        self.losses.recent()  # fails where they diverged: such weights are not worth keeping
        counters = {
            "done": self.done,
            "batch_size": self.batch_size,
            "halved": self.halved,
            "notes": self.notes,
            "skipped": self._skipped(),
            "average_steps": self.average.steps,
            "seconds": self.seconds_before + elapsed,
            "selection": self.selection.counters(),
        }
        best = {f"best/{name}": value for name, value in (self.selection.best or {}).items()}
        self.checkpoint.save(counters, {"losses": self.losses.tensor(), **best}, random)

    def _restore(self) -> None:
        found = None if self.checkpoint is None else self.checkpoint.restore()
        if found is None:
            return
        counters, tensors = found
        self.done = self.resumed_after = counters["done"]
        self.batch_size, self.halved, self.notes = counters["batch_size"], counters["halved"], counters["notes"]
        self.skipped_before, self.average.steps = counters["skipped"], counters["average_steps"]
        self.seconds_before = counters["seconds"]
        self.losses.restore(tensors.pop("losses"))
        best = {name.removeprefix("best/"): value for name, value in tensors.items()}
        self.selection.restore(counters["selection"], best)
        logger.info("Training goes on after step %d of %d", self.done, self.config.iterations)

    def _skipped(self) -> list[str]:
        return list(dict.fromkeys([*self.skipped_before, *self.sampler.store.skipped]))

    def _gradients(self, batch: Batch) -> Tensor:
        """Leave gradients in the parameters, the same in all processes, and return this one's loss.

        Where memory runs out in it, no weight has changed and all processes know: it can be tried again with a smaller
        batch. Anywhere else, e.g. in a look at validation images, that is an error.
        """
        factor = rate_factor(self.done, self.config.iterations)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        return self.peers.step(lambda: self._backward(batch), self.network.module.parameters(), self.device)

    def _update(self, loss: Tensor) -> None:
        self.peers.average_buffers(getattr(self.network, "loss_state", None))
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.network.module.parameters(), MAX_GRADIENT_NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(self.network.module)
        self.losses.add(loss)

    def _backward(self, batch: Batch) -> Tensor:
        loss = self._loss(batch)
        self.scaler.scale(loss).backward()
        return loss.detach()

    def _training_mode(self) -> None:
        """Train mode, but with fixed statistics in frozen blocks, and in all trained norms when the batch is small."""
        self.network.module.train()
        for block in self.frozen:
            block.eval()
        if self.batch_size < SMALLEST_BATCH_FOR_NORM:
            for norm in self.fixed_norms if self.batch_size > 1 else all_norms(self.network.module):
                norm.eval()

    def _halve_batch(self, error: Exception) -> None:
        if not is_out_of_memory(error) or self.halved or self.batch_size == 1:
            raise error
        self.halved = True
        smaller = self.batch_size // 2
        note = f"out of memory at batch size {self.batch_size} after {self.done} steps, continued with {smaller}"
        logger.warning("Training: %s", note)
        self.notes.append(note)
        self.batch_size = smaller
        self.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _progress(self, done: int, elapsed: float) -> Progress:
        total, here = self.config.iterations, done - self.resumed_after
        return Progress(
            phase="train",
            iteration=done,
            iterations=total,
            epoch=done * self.batch_size * self.peers.size / len(self.sampler.store),
            loss=self.losses.shown(),
            eta_seconds=elapsed / here * (total - done) if here >= 3 else None,
        )

    def _report(self, seconds: float) -> TrainingReport:
        first, last = self.losses.ends()
        notes = list(self.notes)
        if self.selection.without_judge:
            notes.append("no validation image with a box, so the last weights were kept")
        if self.checkpoint is not None and self.checkpoint.problem is not None:
            notes.append(self.checkpoint.problem)
        return TrainingReport(
            iterations=len(self.losses),
            batch_size=self.batch_size * self.peers.size,
            frozen_blocks=len(self.frozen),
            seconds=self.seconds_before + seconds,
            first_loss=first,
            last_loss=last,
            skipped=tuple(self._skipped()),
            notes=tuple(notes),
            resumed_after=self.resumed_after,
            kept_iteration=self.selection.best_step,
            evaluations=tuple(self.selection.looks),
        )
