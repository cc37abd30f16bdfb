"""How much memory the workers use, beside the heartbeat that says that they live."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, cast

import psutil
import redis

from al_backend.jobs.liveness import EXPIRY, Beat, place

_EVERY = 5.0


def load_key(place_of: str, pid: int) -> str:
    """Redis key of what a worker process uses."""
    return f"al:load:{place_of}:{pid}"


def telling_load(connection: redis.Redis) -> Beat:
    """A heartbeat that says what this process and its children use of the memory."""
    key = load_key(place(), os.getpid())
    last = -_EVERY

    def write(redis_: redis.Redis) -> None:
        nonlocal last
        if time.monotonic() - last >= _EVERY:
            last = time.monotonic()
            redis_.set(key, json.dumps(measured_load()), ex=int(EXPIRY))

    return Beat(connection, write, lambda redis_: redis_.delete(key))


def measured_load() -> dict[str, Any]:
    """`memory` of this process with its children, `machine` in all, both in bytes; `gpu` and `gpu_total` with CUDA."""
    me = psutil.Process()
    used = 0
    for process in (me, *me.children(recursive=True)):
        try:
            used += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    found: dict[str, Any] = {"memory": used, "machine": psutil.virtual_memory().total}
    torch = sys.modules.get("torch")  # a process that has not needed it so far has nothing on the GPU
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        free, total = torch.cuda.mem_get_info()
        found |= {"gpu": total - free, "gpu_total": total}
    return found


def loads(connection: redis.Redis, workers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each of the workers said last; empty for one that has not said it."""
    if not workers:
        return []
    keys = [load_key(str(worker["place"]), int(worker["pid"])) for worker in workers]
    found = cast("list[bytes | None]", connection.mget(keys))
    return [{} if entry is None else dict(json.loads(entry)) for entry in found]
