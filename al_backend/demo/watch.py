"""Waiting for the next published ranking, with a progress bar of what the workers do meanwhile."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from al_backend.cycle import MAX_ATTEMPTS
from al_backend.errors import BackendError
from al_backend.jobs.client import last_error, overview
from al_backend.jobs.documents import PUBLISHED, read_attempt
from al_backend.jobs.queues import Queues
from al_backend.registry import Registry

_LOOK_EVERY = 0.5


def wait_for_publication(
    registry: Registry,
    queues: Queues,
    project_id: int,
    known: dict[str, Any] | None,
    console: Console,
    *,
    patience: float | None = 1800.0,
) -> dict[str, Any]:
    """Wait until another ranking than `known` is published and nothing of this cycle is left to do.

    Args:
        registry: of the project.
        queues: of the workers.
        project_id: the project.
        known: the publication that was there before; None waits for the first.
        console: for the progress bar.
        patience: seconds; None waits for ever.

    Returns:
        The document of the new publication.

    Raises:
        BackendError: the training failed for good, or patience ran out.
    """
    deadline = None if patience is None else time.monotonic() + patience
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bars:
        bar = bars.add_task("waiting", total=None)
        while True:
            published = registry.read_document(project_id, PUBLISHED)
            if published is not None and (known is None or published["ranking"] != known["ranking"]):
                return published
            attempt = read_attempt(registry, project_id)
            if attempt is not None and attempt.error is not None and attempt.count >= MAX_ATTEMPTS:
                raise BackendError(f"Training failed {attempt.count} times: {attempt.error}")
            if deadline is not None and time.monotonic() > deadline:
                raise BackendError(
                    f"No new ranking was published within {patience:.0f} s. "
                    f"Last error: {last_error(queues, project_id) or 'none'}"
                )
            _show(bars, bar, [job for job in overview(queues)["jobs"] if job["project"] == project_id])
            time.sleep(_LOOK_EVERY)


def _show(bars: Progress, bar: Any, jobs: list[dict[str, Any]]) -> None:
    training = next((job for job in jobs if job["kind"] == "train"), None)
    shards = sum(job["kind"] == "score" for job in jobs)
    if training is not None:
        progress = training.get("progress") or {}
        bars.update(
            bar,
            description=f"training: {progress.get('phase', 'starting')}",
            completed=progress.get("iteration", 0),
            total=progress.get("iterations"),
        )
    elif shards:
        bars.update(bar, description=f"ranking: {shards} shards left", completed=0, total=None)
    else:
        kinds = ", ".join(sorted({str(job["kind"]) for job in jobs})) or "waiting"
        bars.update(bar, description=kinds, completed=0, total=None)
