"""Works on the cells of an experiment, several side by side where there is room, and says how far it is."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

import psutil

from model.simulation.cell import Experiment, Report, run_cell, run_full
from model.simulation.plan import Cell

logger = logging.getLogger(__name__)

_BYTES_PER_WORKER = 3 * 2**30
"""What a process with PyTorch, a small network and its batches may take."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of work that can be done independently: a curve, or a training on the whole pool.

    Attributes:
        cell: the curve; of a training on the whole pool `strategy` is empty.
        trainings: how many it takes.
    """

    cell: Cell
    trainings: int

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.cell.strategy or 'everything labelled'}, seed {self.cell.seed}, losses {self.cell.losses}"


@dataclass(frozen=True, slots=True)
class SimulationProgress:
    """Where an experiment is.

    Attributes:
        done: trainings that are done, running ones as fractions.
        total: trainings of the whole experiment, without those of cells that failed.
        running: what is being worked on, one phrase each.
        eta_seconds: expected seconds to the end, None while unknown.
    """

    done: float
    total: int
    running: tuple[str, ...]
    eta_seconds: float | None


@dataclass(slots=True)
class Outcome:
    """How an experiment ended.

    Attributes:
        ended_early: whether somebody stopped it with Ctrl-C.
        failures: cells that failed, one sentence each.
        seconds: wall time of this run.
    """

    ended_early: bool = False
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0


def run_experiment(
    experiment: Experiment,
    *,
    device: str = "auto",
    parallel: int | None = None,
    on_progress: Callable[[SimulationProgress], None] | None = None,
) -> Outcome:
    """Work on everything that is not finished yet. What is finished stays whatever happens to the rest.

    A cell that fails does not keep the others from going on. Ctrl-C ends all work; the same call goes on later.

    Args:
        experiment: what to do.
        device: as `resolve_device` takes it; `auto` and `cuda` spread over all GPUs.
        parallel: cells side by side; None for what this machine has room for. 1 works in this process; more in
            spawned ones, so a script that calls this needs `if __name__ == "__main__":`.
        on_progress: called from this process, several times a second at most.

    Raises:
        SimulationError: the folder holds another experiment, or is in use.
        NotEnoughLabels: the initial set takes the whole pool.
        ValueError: no such device here.
    """
    store, plan = experiment.store, experiment.plan
    started = time.monotonic()
    for seed in plan.seeds:
        experiment.data.initial(plan.initial, seed)  # refused before anything is trained
    with store.alone():
        store.prepare(plan, experiment.data, experiment.source)
        work = units(experiment)
        monitor = Monitor(work, {unit: finished(experiment, unit) for unit in work}, on_progress)
        open_work = [unit for unit in work if monitor.done[unit] < unit.trainings]
        devices = spread_devices(device)
        count = max(1, min(parallel or room(devices), len(open_work)))
        if count == 1:
            outcome = _work_here(experiment, open_work, devices[0], monitor)
        else:
            from model.simulation.processes import work_in_processes

            outcome = work_in_processes(experiment, open_work, devices, count, monitor)
    outcome.seconds = time.monotonic() - started
    return outcome


def units(experiment: Experiment) -> list[Unit]:
    """All work, seed by seed.

    The trainings on everything come second: while the first curve is at the training that all curves of the seed begin
    with, the second would wait for it.
    """
    plan = experiment.plan
    work: list[Unit] = []
    for seed in plan.seeds:
        first, *others = [Unit(cell, plan.cycles + 1) for cell in plan.cells() if cell.seed == seed]
        references = [Unit(Cell("", losses, seed), 1) for losses, _ in plan.losses] if plan.full else []
        work += [first, *references, *others]
    return work


def finished(experiment: Experiment, unit: Unit) -> int:
    """Trainings of a unit that are kept; all of them where the pool was exhausted earlier."""
    if not unit.cell.strategy:
        return int(experiment.store.full(unit.cell.losses, unit.cell.seed) is not None)
    documents = experiment.store.cycles(unit.cell)
    exhausted = bool(documents) and not documents[-1]["selected"]
    return unit.trainings if exhausted else len(documents)


def do(experiment: Experiment, unit: Unit, *, device: str, threads: int, report: Report) -> None:
    """Do a unit's work in this process."""
    cell = unit.cell
    if cell.strategy:
        run_cell(experiment, cell, device=device, threads=threads, report=report)
    else:
        run_full(experiment, cell.losses, cell.seed, device=device, threads=threads, report=report)


def spread_devices(device: str) -> list[str]:
    """One name per device that work can be given to.

    Raises:
        ValueError: no such device here.
    """
    if device == "cpu":
        return ["cpu"]
    import torch

    from model.detectors.factory import resolve_device

    chosen = resolve_device(device)
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())] if chosen == "cuda" else [chosen]


def room(devices: Sequence[str]) -> int:
    """How many cells go side by side: one a GPU, or one a core as far as memory reaches."""
    if devices[0] != "cpu":
        return len(devices)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, int(psutil.virtual_memory().available // _BYTES_PER_WORKER)))


def reading_threads(device: str, cores: int) -> int:
    """Threads that read images during a training: a GPU waits for them, on a CPU they take what the network needs."""
    return min(6, cores) if device != "cpu" else 2 if cores > 1 else 0


class Monitor:
    """Adds up how far the units are, and tells it now and then.

    Args:
        work: all units.
        done: trainings of each that were done before.
        on_progress: whom to tell; may be None.
        every: least seconds between two messages.
    """

    def __init__(
        self,
        work: Sequence[Unit],
        done: dict[Unit, int],
        on_progress: Callable[[SimulationProgress], None] | None,
        every: float = 0.3,
    ) -> None:
        self.done: dict[Unit, float] = {unit: float(done[unit]) for unit in work}
        self._before = dict(self.done)
        self._running: dict[Unit, str] = {}
        self._on_progress, self._every = on_progress, every
        self._started = self._told = time.monotonic()

    def note(self, unit: Unit, done: float, what: str) -> None:
        """Somebody works on `unit`."""
        self.done[unit] = done
        self._running[unit] = f"{unit.title}: {what}" if what else unit.title
        self.tell()

    def end(self, unit: Unit, *, failed: bool = False) -> None:
        """Nobody works on `unit` any more: it is finished, or failed and will not be tried again in this run."""
        if failed:
            # Neither done nor still to do: what is left takes no longer for it, and no less.
            del self.done[unit]
        else:
            self.done[unit] = float(unit.trainings)
        self._running.pop(unit, None)
        self.tell(now=True)

    def tell(self, *, now: bool = False) -> None:
        """Say how far everything is, unless that was said just now."""
        moment = time.monotonic()
        if self._on_progress is None or (not now and moment - self._told < self._every):
            return
        self._told = moment
        done, total = sum(self.done.values()), sum(unit.trainings for unit in self.done)
        here = done - sum(self._before[unit] for unit in self.done)
        # Before a twentieth of a training is done, its start counts for more than its speed.
        eta = (moment - self._started) / here * (total - done) if here > 0.05 else None
        self._on_progress(SimulationProgress(done, total, tuple(self._running.values()), eta))


def failure(unit: Unit, error: str) -> str:
    """The sentence about a unit that failed."""
    return f"{unit.title}: {error}"


def _work_here(experiment: Experiment, work: Sequence[Unit], device: str, monitor: Monitor) -> Outcome:
    outcome = Outcome()
    threads = reading_threads(device, room(["cpu"]))
    try:
        with _ctrl_c_noted() as pressed:
            for unit in work:

                def report(done: float, what: str, unit: Unit = unit) -> None:
                    if pressed:
                        raise KeyboardInterrupt
                    monitor.note(unit, done, what)

                try:
                    do(experiment, unit, device=device, threads=threads, report=report)
                except Exception as error:  # One curve's trouble must not cost the others; it is told at the end.
                    if pressed:
                        raise KeyboardInterrupt from error
                    logger.debug("%s failed", unit.title, exc_info=True)
                    outcome.failures.append(failure(unit, f"{type(error).__name__}: {error}"))
                    monitor.end(unit, failed=True)
                else:
                    monitor.end(unit)
    except KeyboardInterrupt:
        outcome.ended_early = True
    return outcome


@contextmanager
def _ctrl_c_noted() -> Iterator[list[int]]:
    """Give a list that is no longer empty once Ctrl-C was pressed.

    The KeyboardInterrupt alone is not enough: raised within a library's C code it may come out as a SystemError, which
    looks like a failed curve, and raised within a destructor it is printed and forgotten.
    """
    pressed: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        signal.default_int_handler(number, frame)

    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield pressed  # somebody else decides what Ctrl-C does
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
