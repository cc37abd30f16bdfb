"""Cells side by side: processes that are spawned, given one unit of work after the other, and never outlive us."""

from __future__ import annotations

import logging
import multiprocessing
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from model.simulation.cell import Experiment
from model.simulation.runner import Monitor, Outcome, Unit, do, failure, reading_threads, room

logger = logging.getLogger(__name__)

_GRACE = 5.0


@dataclass(slots=True, eq=False)
class _Worker:
    process: BaseProcess
    connection: Connection
    device: str
    unit: Unit | None = None


def work_in_processes(
    experiment: Experiment, work: Sequence[Unit], devices: Sequence[str], count: int, monitor: Monitor
) -> Outcome:
    """Do all units with `count` processes, the devices given out in turns.

    A process that dies takes its unit with it, not the others; a new one takes its place.
    """
    outcome, left = Outcome(), list(work)
    threads = max(1, room(["cpu"]) // count)
    workers: list[_Worker] = []
    try:
        workers += [_start(experiment, devices[index % len(devices)], threads) for index in range(count)]
        for worker in workers:
            _give(worker, left)
        while any(worker.unit for worker in workers):
            ready = wait([worker.connection for worker in workers if worker.unit], timeout=1.0)
            for index, worker in enumerate(workers):
                if worker.connection in ready and not _hear(worker, left, monitor, outcome):
                    _stop([worker])
                    workers[index] = _start(experiment, worker.device, threads) if left else worker
                    _give(workers[index], left)
    except KeyboardInterrupt:
        outcome.ended_early = True
    finally:
        _stop(workers)
    return outcome


def _start(experiment: Experiment, device: str, threads: int) -> _Worker:
    context = multiprocessing.get_context("spawn")  # forking would copy CUDA's state and running threads
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, experiment, device, threads), daemon=True)
    process.start()
    theirs.close()  # else we would not notice when the process dies
    return _Worker(process, ours, device)


def _give(worker: _Worker, left: list[Unit]) -> None:
    """The next unit, or the message that there is none."""
    worker.unit = left.pop(0) if left else None
    try:
        worker.connection.send(worker.unit)
    except OSError:
        logger.debug("A worker is gone already")  # `_hear` finds out when it reads, if there was work


def _hear(worker: _Worker, left: list[Unit], monitor: Monitor, outcome: Outcome) -> bool:
    """Take one message; False when the worker is dead."""
    unit = worker.unit
    assert unit is not None
    try:
        kind, *content = worker.connection.recv()
    except (EOFError, OSError):
        worker.process.join(_GRACE)
        reason = f"its process died (exit code {worker.process.exitcode}); -9 is often lack of memory"
        outcome.failures.append(failure(unit, reason))
        monitor.end(unit, failed=True)
        worker.unit = None
        return False
    if kind == "progress":
        monitor.note(unit, *content)
        return True
    if kind == "failed":
        outcome.failures.append(failure(unit, *content))
    monitor.end(unit, failed=kind == "failed")
    _give(worker, left)
    return True


def _stop(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.connection.close()
        if worker.process.is_alive():
            worker.process.terminate()
    for worker in workers:
        worker.process.join(_GRACE)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


def _serve(connection: Connection, experiment: Experiment, device: str, threads: int) -> None:
    """In the child: do what comes, until nothing comes or the parent is gone."""
    # Ctrl-C on a terminal reaches all processes; the parent decides, and ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    if device == "cpu":
        experiment.source.use_threads(threads)

    def report(done: float, what: str) -> None:
        connection.send(("progress", done, what))

    while True:
        try:
            unit = connection.recv()
        except EOFError:
            return
        if unit is None:
            return
        try:
            do(experiment, unit, device=device, threads=reading_threads(device, threads), report=report)
        except BrokenPipeError:
            return  # the parent is gone, and nobody would read the result; finished cycles are kept
        except Exception as error:  # Told by the parent, which goes on with the other curves.
            logger.debug("%s failed", unit.title, exc_info=True)
            connection.send(("failed", f"{type(error).__name__}: {error}"))
        else:
            connection.send(("done",))
