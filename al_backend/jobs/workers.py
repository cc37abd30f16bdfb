"""The processes that take jobs from the queues.

Four kinds, because they must not wait for each other: `inference` keeps its detectors warm and answers annotators
first, `cycle` looks at projects and decides, `publish` writes into Label Studio, which takes long in a large project,
`train` starts a fresh process for every training, so that CUDA is never forked and a training that dies takes nothing
with it.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence

import redis

from al_backend.child_process import leave_with_parent
from al_backend.errors import BackendError, ConfigError
from al_backend.jobs.client import enqueue_due_looks, enqueue_regular_look
from al_backend.jobs.context import INTERLUDE, Context
from al_backend.jobs.liveness import living_worker, remembers
from al_backend.jobs.load import telling_load
from al_backend.jobs.queues import QueueName
from al_backend.jobs.rq_workers import FreshWorker, WarmWorker
from al_backend.jobs.shared_settings import share
from al_backend.logs import configure as configure_logging
from al_backend.masking import masked
from al_backend.settings import Settings, load_settings

logger = logging.getLogger("al_backend.jobs.workers")  # as a program this module is `__main__`

_TICK = 0.5
_SHARE_EVERY = 20.0
_ORPHAN_GRACE = 20.0  # seconds, as the supervisor has patience when it stops its children in order

GROUPS: dict[str, tuple[QueueName, ...]] = {
    "inference": (QueueName.PREDICT, QueueName.SCORE),
    "cycle": (QueueName.RECONCILE,),
    "publish": (QueueName.PUBLISH,),
    "train": (QueueName.TRAIN,),
}
"""Queues by the kind of process that takes them, in the order in which it looks at them."""


def worker_groups(queue_names: Sequence[QueueName]) -> list[tuple[str, tuple[QueueName, ...]]]:
    """The processes that the given queues need: kind, and its queues among the given ones."""
    groups = [(kind, tuple(name for name in names if name in queue_names)) for kind, names in GROUPS.items()]
    return [(kind, names) for kind, names in groups if names]


def run_worker(settings: Settings, queue_names: Sequence[QueueName]) -> None:
    """Take jobs from queues of one kind until SIGTERM; the job in hand is finished first.

    Raises:
        ConfigError: queues of several kinds, or Redis does not answer.
    """
    groups = worker_groups(queue_names)
    if len(groups) != 1:
        raise ConfigError(f"One worker process takes queues of one kind, found {', '.join(map(str, queue_names))}.")
    kind, names = groups[0]
    here = Context(settings)
    worker_class: type[FreshWorker | WarmWorker] = FreshWorker if kind == "train" else WarmWorker
    worker = worker_class(
        [here.queues.queue(name) for name in names],
        connection=here.queues.connection,
        serializer=here.queues.serializer,
        name=f"{kind}-{os.uname().nodename}-{os.getpid()}",
        log_job_description=False,
    )
    if isinstance(worker, WarmWorker) and QueueName.PREDICT in names:
        INTERLUDE.set(functools.partial(worker.answer_waiting, here.queues.queue(QueueName.PREDICT)))
    remembers(here.queues.connection)  # its count of seconds starts now, while the workers start
    stop = threading.Event()
    timer = threading.Thread(target=_look_regularly, args=(here, stop), name="timer", daemon=True)
    connection = here.queues.connection
    with living_worker(connection, names, kind=kind, device=_device(settings, kind)), telling_load(connection):
        logger.info("Takes jobs from the queues %s", ", ".join(map(str, names)))
        if kind == "cycle":
            timer.start()
        try:
            # The queues in their order: an inference worker always takes `predict` first, because a person waits.
            worker.work(logging_level=logging.getLevelName(logging.getLogger("rq.worker").getEffectiveLevel()))
        finally:
            stop.set()


def _device(settings: Settings, kind: str) -> str:
    """What `/ready` shows. Only processes that predict pay for torch to find it out."""
    if kind != "inference":
        return settings.device
    from model.detectors.factory import resolve_device

    return resolve_device(settings.device)


def _look_regularly(here: Context, stop: threading.Event) -> None:
    """Ask for a reconcile of every project again and again: events are hints and get lost, the truth does not."""
    due = share_due = 0.0
    while not stop.wait(_TICK):
        try:
            enqueue_due_looks(here.queues)
            if time.monotonic() >= share_due:
                share_due = time.monotonic() + _SHARE_EVERY
                share(here.queues.connection, here.settings)
            if time.monotonic() >= due:
                due = time.monotonic() + here.settings.reconcile_every
                for project_id in here.registry.projects():
                    enqueue_regular_look(here.queues, project_id)
        except (redis.RedisError, BackendError, OSError) as error:
            logger.warning("The regular look is left out this time: %s", error)


def main(arguments: Sequence[str]) -> int:
    """`python -m al_backend.jobs.workers predict,score`: one worker process, settings from the environment."""
    try:
        settings = load_settings()
        configure_logging(settings)
        leave_with_parent(grace=_ORPHAN_GRACE)
        names = [QueueName(name) for argument in arguments for name in argument.split(",")]
        run_worker(settings, names)
    except ValueError as error:
        print(f"{error}; queues are {', '.join(name.value for name in QueueName)}.", file=sys.stderr)
        return 2
    except BackendError as error:
        print(masked(str(error)), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
