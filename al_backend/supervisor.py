"""Keeps the processes of one machine running: starts them, passes on what they print, starts them again."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import FrameType

from al_backend.child_process import kill_tree, start_child
from al_backend.errors import ConfigError
from al_backend.jobs.embedded_redis import EmbeddedRedis
from al_backend.logs import from_child

logger = logging.getLogger(__name__)

_LOOK_EVERY = 0.1


@dataclass(frozen=True)
class ChildSpec:
    """One process to keep running.

    Attributes:
        name: short, unique; stands before every line that it prints.
        command: the program and its arguments.
        environment: added to ours.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Backoff:
    """How long to wait before a dead process is started again.

    Attributes:
        first: seconds after the first death.
        longest: seconds that the doubling ends at.
        healthy_after: a process that lived this many seconds starts again from `first`.
    """

    first: float = 0.5
    longest: float = 30.0
    healthy_after: float = 60.0
    _deaths: int = field(default=0, init=False)

    def next_wait(self, lived: float) -> float:
        """Seconds to wait now that the process has died after `lived` seconds."""
        self._deaths = 1 if lived >= self.healthy_after else self._deaths + 1
        # The exponent is capped, because a process that never comes up dies often enough to overflow a float.
        return min(self.longest, self.first * 2 ** min(self._deaths - 1, 30))


class Supervisor:
    """Runs children until it is told to stop; a dead one is started again. Redis starts first and stops last."""

    def __init__(
        self,
        children: Sequence[ChildSpec],
        *,
        redis: EmbeddedRedis | None = None,
        grace: float = 20.0,
        backoff: Callable[[], Backoff] = Backoff,
        write: Callable[[str], None] | None = None,
        json_lines: bool = False,
    ) -> None:
        """Nothing is started yet.

        Args:
            children: names have to be unique.
            redis: the embedded Redis that the children use, watched like them.
            grace: seconds that a child has between SIGTERM and SIGKILL.
            backoff: makes the waiting rule of one child.
            write: takes one line of output; None writes to stderr.
            json_lines: pass on what children print as JSON events; text has the child's name in front.
        """
        names = [child.name for child in children]
        if len(set(names)) != len(names):
            raise ValueError(f"child names must be unique, got {names}")
        width = max(map(len, names), default=0)
        self._write = write or _to_stderr
        self._children = [
            _Child(
                spec,
                backoff(),
                partial(from_child, spec.name, as_json=json_lines, width=width),
                self._write,
            )
            for spec in children
        ]
        self._redis = redis
        self._redis_backoff = backoff()
        self._redis_next = 0.0
        self._redis_since = 0.0
        self._grace = grace
        self._stopping = threading.Event()
        self._hurry = threading.Event()

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of the children that run, by name."""
        return {child.spec.name: child.process.pid for child in self._children if child.process is not None}

    def stop(self) -> None:
        """Ask `run` to end; a second call cuts the children's grace short."""
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()

    def run(self, *, on_started: Callable[[], None] | None = None) -> None:
        """Start everything and keep it running until SIGTERM, SIGINT or `stop`.

        Call it from the main thread: signals arrive there, and the children end with the thread that started them.

        Args:
            on_started: called once, after the first start of every child.

        Raises:
            ConfigError: Redis did not come up at the start.
        """
        with _signals(self.stop):
            try:
                if self._redis is not None:
                    self._redis.start()
                    self._redis_since = time.monotonic()
                for child in self._children:
                    child.start()
                if on_started is not None:
                    on_started()
                while not self._stopping.wait(_LOOK_EVERY):
                    self._look_after_redis()
                    for child in self._children:
                        child.look_after()
            finally:
                self._stop_all()

    def _look_after_redis(self) -> None:
        if self._redis is None or self._redis.alive:
            return
        now = time.monotonic()
        if not self._redis_next:
            wait = self._redis_backoff.next_wait(now - self._redis_since)
            logger.warning("Redis has died; starting it again in %.1f s", wait)
            self._redis_next = now + wait
        elif now >= self._redis_next:
            self._redis_next, self._redis_since = 0.0, now
            try:
                self._redis.start()
            except ConfigError as error:
                logger.error("Redis does not come back: %s", error)

    def _stop_all(self) -> None:
        running = [child.process for child in self._children if child.process is not None]
        for process in running:
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + self._grace
        while any(process.poll() is None for process in running):
            if time.monotonic() >= deadline or self._hurry.is_set():
                late = [child.spec.name for child in self._children if child.alive]
                logger.warning("Killing what has not stopped in time: %s", ", ".join(late))
                for process in running:
                    kill_tree(process)
                break
            self._hurry.wait(0.02)
        for child in self._children:
            child.finish()
        if self._redis is not None:
            self._redis.stop()


class _Child:
    """One supervised process with its restarts and the thread that passes on its output."""

    def __init__(
        self, spec: ChildSpec, backoff: Backoff, named: Callable[[str], str], write: Callable[[str], None]
    ) -> None:
        self.spec = spec
        self.process: subprocess.Popen[bytes] | None = None
        self._backoff = backoff
        self._named = named
        self._write = write
        self._started_at = 0.0
        self._start_again_at = 0.0
        self._reader: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **self.spec.environment}
        self._started_at = time.monotonic()
        self.process = start_child(self.spec.command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self._reader = threading.Thread(target=self._forward, args=(self.process,), daemon=True)
        self._reader.start()

    def look_after(self) -> None:
        now = time.monotonic()
        if self.process is not None:
            code = self.process.poll()
            if code is None:
                return
            wait = self._backoff.next_wait(now - self._started_at)
            logger.warning("%s has ended (%s); starting it again in %.1f s", self.spec.name, describe_exit(code), wait)
            self.finish()
            self.process, self._start_again_at = None, now + wait
        elif now >= self._start_again_at:
            try:
                self.start()
            except OSError as error:  # no memory or no process slot left is no reason to end the others
                wait = self._backoff.next_wait(0.0)
                logger.error("%s cannot be started (%s); trying again in %.1f s", self.spec.name, error, wait)
                self._start_again_at = now + wait

    def finish(self) -> None:
        """Wait until it is gone and its last lines are out."""
        if self.process is not None:
            self.process.wait()
        if self._reader is not None:
            # A grandchild may hold the pipe open; its output is no reason to wait.
            self._reader.join(timeout=1)

    def _forward(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdout is None:
            return
        with process.stdout as lines:
            for line in lines:
                self._write(self._named(line.decode("utf-8", errors="replace").rstrip("\r\n")))


def describe_exit(code: int) -> str:
    """An exit code in words; 137 and SIGKILL are mostly the kernel, out of memory."""
    if code >= 0:
        return f"exit code {code}" + (", killed, maybe for want of memory" if code == 137 else "")
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return name + (", maybe for want of memory" if -code == signal.SIGKILL else "")


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """Let SIGTERM and SIGINT stop us, and put the former handlers back in the end."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _to_stderr(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
