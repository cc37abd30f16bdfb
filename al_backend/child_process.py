"""Child processes that never outlive us: the embedded Redis and everything that the supervisor starts."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_PR_GET_PDEATHSIG = 2
_LOOK_EVERY = 0.5


def start_child(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process that gets SIGTERM when the calling thread's process ends, however it ends.

    The child gets a session of its own, so that Ctrl-C on a terminal reaches the parent alone and the parent decides
    the order of the farewell.

    Linux ties the signal to the *thread* that forked: call this from a thread that lives as long as the process.
    Elsewhere the child outlives a parent that is killed outright; an orderly stop works everywhere.

    Args:
        command: the program and its arguments.
        env: the whole environment of the child; None inherits ours.
        stdout: as `subprocess.Popen` takes it.
        stderr: as `subprocess.Popen` takes it.
    """
    linux = sys.platform == "linux"
    # Looked up before the fork: between fork and exec only simple calls are safe.
    prctl = ctypes.CDLL(None, use_errno=True).prctl if linux else None
    parent = os.getpid()

    def tie_to_parent() -> None:
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            if os.getppid() != parent:  # it died before the tie was made
                os._exit(1)

    return subprocess.Popen(
        [str(part) for part in command],
        env=dict(env) if env is not None else None,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
        preexec_fn=tie_to_parent if linux else None,
    )


def stop_child(process: subprocess.Popen[bytes], *, grace: float) -> int:
    """Ask a child to stop, kill its whole family when `grace` seconds have passed, and return its exit code."""
    if process.poll() is None:
        process.terminate()
        try:
            return process.wait(timeout=grace)
        except subprocess.TimeoutExpired:
            kill_tree(process)
    return process.wait()


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL a child and whatever descends from it, unless it is gone already."""
    try:
        root = psutil.Process(process.pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()


def die_with_parent() -> None:
    """From inside a process that somebody else started: get SIGTERM when its parent ends, however it ends (Linux)."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() == 1:
        raise SystemExit("The parent process is gone already.")


def leave_with_parent(*, grace: float) -> None:
    """From inside a process that `start_child` started: end for good `grace` seconds after its parent is gone (Linux).

    The SIGTERM that comes then lets work in hand be finished. With nobody left to lose patience, a training would go
    on for hours beside the backend that was started instead. Other processes are left alone.
    """
    if not _tied_to_parent():
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_EVERY)
        time.sleep(grace)
        logger.warning("What started this process is gone for %.0f s; it ends", grace)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _tied_to_parent() -> bool:
    if sys.platform != "linux":
        return False
    number = ctypes.c_int(0)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_GET_PDEATHSIG, ctypes.byref(number), 0, 0, 0)
    return number.value != 0
