"""The one decision point: look at Label Studio, the registry and the queues, decide, enqueue.

Webhooks, timers, the command line and Start Training all end here. Whatever was lost on the way (an event, a queue, a
worker) is noticed by the next look.
"""

from __future__ import annotations

import logging
from functools import lru_cache

from al_backend import cycle, metrics
from al_backend.errors import ProjectGone, RegistryError
from al_backend.jobs import telemetry
from al_backend.jobs.cancel import note_labels
from al_backend.jobs.client import error_key, gone_key, last_error, look_later, pending_key
from al_backend.jobs.context import Context, job_running
from al_backend.jobs.documents import now
from al_backend.jobs.liveness import remembers
from al_backend.jobs.locks import exclusive
from al_backend.jobs.observe import LabelMemory, observe, read_state
from al_backend.jobs.observed import note_observation
from al_backend.jobs.perform import perform
from al_backend.jobs.pool_memory import PoolMemory

logger = logging.getLogger(__name__)

_GONE_LOOK = 3600  # seconds


def reconcile(project_id: int, reason: str) -> list[str]:
    """Job: bring a project one step further.

    Returns:
        What was started, for the log.
    """
    with job_running() as here:
        connection = here.queues.connection
        # From here on a new event needs a new look: this one may already have read what the event is about.
        connection.delete(pending_key(project_id))
        with exclusive(connection, f"al:lock:reconcile:{project_id}", patience=300):
            try:
                started = _reconcile(here, project_id)
            except ProjectGone as error:
                _note_gone(here, project_id, str(error))
                return []
            except Exception as error:
                connection.set(error_key(project_id), f"{type(error).__name__}: {error}", ex=3600)
                raise
            connection.delete(error_key(project_id), gone_key(project_id))
    if started:
        logger.info("Project %d (%s): %s", project_id, reason, ", ".join(started))
    return started


def _note_gone(here: Context, project_id: int, sentence: str) -> None:
    """Warn once, and let the clock ask less often; an event or a person is heard at once."""
    connection = here.queues.connection
    if last_error(here.queues, project_id) != sentence:
        logger.warning("%s", sentence)
    connection.set(gone_key(project_id), "1", ex=_GONE_LOOK)
    connection.set(error_key(project_id), sentence, ex=2 * _GONE_LOOK)


def _reconcile(here: Context, project_id: int) -> list[str]:
    if here.registry.project(project_id) is None:
        logger.info("Project %d is not connected any more; nothing is looked at", project_id)
        return []
    labels, pools = _memory()
    seen = observe(here, labels, pools, project_id)
    if seen.config.skip:
        return []
    if not remembers(here.queues.connection):
        look_later(here.queues, project_id, "Redis was empty a moment ago")
        return []
    settings = here.learning(project_id)
    decided_at = now()  # before the state is read: what is cancelled from here on was not known
    state = read_state(here, project_id)
    if state.train_cancelled is not None and state.train_cancelled.labels is None:
        note_labels(here.registry, project_id, state.train_cancelled, dict(seen.snapshot.labels))
    _report(here, project_id, seen.snapshot, state)
    decided = cycle.decide(seen.snapshot, state, settings)
    try:
        note_observation(here, project_id, seen, state, settings)
    except RegistryError as error:  # a full disk takes the dashboard's view, not the work that needs no disk
        logger.warning("Project %d: what this look saw is not kept: %s", project_id, error)
    done = [perform(here, project_id, action, seen, settings, decided_at) for action in decided]
    return [what for what in done if what]


def _report(here: Context, project_id: int, snapshot: cycle.Snapshot, state: cycle.State) -> None:
    """The project's numbers, for `/metrics`: whoever answers a scrape must not ask Label Studio."""
    telemetry.put(
        here.queues.connection,
        {
            metrics.LAST_LOOK: snapshot.taken_at.timestamp(),
            metrics.LABELLED: len(snapshot.labels),
            metrics.NEW_LABELS: cycle.pending_labels(snapshot.labels, state.trained_on),
            metrics.POOL: len(snapshot.pool),
            metrics.UNSCORED: sum(1 for task in snapshot.pool if task not in snapshot.scored),
        },
        project=project_id,
    )


@lru_cache(maxsize=1)
def _memory() -> tuple[LabelMemory, PoolMemory]:
    """Of this process; another one starts with its own and reads everything once."""
    return LabelMemory(), PoolMemory()
