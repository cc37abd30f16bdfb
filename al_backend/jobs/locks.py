"""Locks that a killed process does not keep."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
import uuid
from collections.abc import Iterator

import redis
from redis.exceptions import LockNotOwnedError
from redis.lock import Lock

from al_backend.errors import BackendError
from al_backend.jobs.liveness import EXPIRY, Beat, place, process_lives

logger = logging.getLogger(__name__)

_LOOK_EVERY = 0.2


@contextlib.contextmanager
def exclusive(connection: redis.Redis, name: str, *, patience: float) -> Iterator[None]:
    """Hold a lock among all processes while the block runs, however long that is.

    The lock is kept by a heartbeat: it lasts as long as its holder lives. A holder that was killed loses it at once on
    the same machine, and after `EXPIRY` seconds elsewhere. When Redis is flushed meanwhile, the holder takes it again.

    Args:
        connection: Redis.
        name: key of the lock.
        patience: seconds to wait for a living holder.

    Raises:
        BackendError: somebody else held it all that time.
    """
    lock = connection.lock(name, timeout=EXPIRY, thread_local=False)
    token = json.dumps({"place": place(), "pid": os.getpid(), "id": uuid.uuid4().hex})
    deadline = time.monotonic() + patience
    while not lock.acquire(blocking=False, token=token):
        _release_dead(connection, name)
        if time.monotonic() > deadline:
            raise BackendError(f"Another process has held {name} for {patience:.0f} s; see /jobs for what it does.")
        time.sleep(_LOOK_EVERY)
    with Beat(connection, lambda _: _keep(lock, token), lambda _: lock.release()):
        yield


def _keep(lock: Lock, token: str) -> None:
    try:
        lock.reacquire()
    except LockNotOwnedError:
        if not lock.acquire(blocking=False, token=token):
            raise


def _release_dead(connection: redis.Redis, name: str) -> None:
    held = connection.get(name)
    if not isinstance(held, bytes):
        return
    if not process_lives(json.loads(held)):
        logger.info("The holder of %s is gone; its lock is taken away", name)
        with contextlib.suppress(LockNotOwnedError):  # somebody else was faster
            connection.lock(name).do_release(held)
