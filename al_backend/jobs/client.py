"""What the web server and the command line ask of the workers: enqueue, wait, look. Never any work itself."""

from __future__ import annotations

import contextlib
import json
import math
import re
import time
import uuid
from datetime import datetime, timezone
from typing import Any, cast

from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import Job
from rq.results import Result

from al_backend import logs
from al_backend.errors import BackendError, NoWorker
from al_backend.jobs.context import job_name
from al_backend.jobs.current import cancelled_ranking, training_cancelled_at
from al_backend.jobs.documents import RANK_REQUEST, TRAIN_REQUEST, now, read_attempt, requested_at
from al_backend.jobs.liveness import has_worker, in_flight, workers
from al_backend.jobs.queues import QueueName, Queues
from al_backend.jobs.tries import forget_tries
from al_backend.registry import Registry

_PENDING_EXPIRY = 86_400
_PENDING_SETTLED = 5  # seconds after which a reconcile that is not in the queue has not just left it
_RECONCILE_TIMEOUT = 1800
_LOOK_EVERY = 0.5
_BLOCKING_READ = 5.0  # seconds for an answer that Redis itself delays by `_LOOK_EVERY`
_LATER = 2.0
_LATER_KEY = "al:later"


class PredictionFailed(BackendError):
    """The inference worker could not answer; the message says why."""


def pending_key(project_id: int) -> str:
    """Redis key that holds the id of the project's reconcile while that waits in the queue."""
    return f"al:pending:{project_id}"


def error_key(project_id: int) -> str:
    """Redis key of the last reconcile's error."""
    return f"al:error:{project_id}"


def gone_key(project_id: int) -> str:
    """Redis key that stands for an hour after Label Studio had no such project."""
    return f"al:gone:{project_id}"


def enqueue_regular_look(queues: Queues, project_id: int) -> None:
    """Ask for the look that comes by the clock; of a project that was gone only once an hour."""
    if not queues.connection.exists(gone_key(project_id)):
        enqueue_reconcile(queues, project_id, "regular look")


def last_error(queues: Queues, project_id: int) -> str | None:
    """Why the last reconcile of a project failed; None when it did not."""
    stored = queues.connection.get(error_key(project_id))
    return None if stored is None else (stored.decode() if isinstance(stored, bytes) else str(stored))


def enqueue_reconcile(queues: Queues, project_id: int, reason: str) -> bool:
    """Ask for a look at a project. At most one waits per project, however many ask.

    Returns:
        Whether it was enqueued now; False when one waits already.
    """
    connection, key = queues.connection, pending_key(project_id)
    job_id = job_name("reconcile", project_id, uuid.uuid4().hex)
    if not connection.set(key, job_id, nx=True, ex=_PENDING_EXPIRY):
        if connection.ttl(key) > _PENDING_EXPIRY - _PENDING_SETTLED or _waits(queues, connection.get(key)):
            return False
        # It left the queue and never began: its worker was killed in that moment.
        connection.set(key, job_id, ex=_PENDING_EXPIRY)
    queues.queue(QueueName.RECONCILE).enqueue(
        "al_backend.jobs.reconcile.reconcile",
        args=(project_id, reason),
        job_id=job_id,
        job_timeout=_RECONCILE_TIMEOUT,
        result_ttl=300,
        failure_ttl=3600,
        meta={"project": project_id, "kind": "reconcile", "reason": reason} | _request_id(),
    )
    return True


def look_later(queues: Queues, project_id: int, reason: str) -> None:
    """Ask for a look in a moment: for a job at its end, which still counts as running while it says so."""
    due = time.time() + _LATER
    queues.connection.zadd(_LATER_KEY, {json.dumps([project_id, reason]): due})


def enqueue_due_looks(queues: Queues) -> None:
    """Enqueue the reconciles that `look_later` asked for and whose moment has come."""
    due = cast("list[bytes]", queues.connection.zrangebyscore(_LATER_KEY, 0, time.time()))
    for member in due:
        project_id, reason = json.loads(member)
        enqueue_reconcile(queues, int(project_id), str(reason))
        queues.connection.zrem(_LATER_KEY, member)


def _request_id() -> dict[str, str]:
    """The request that asks, so that the log of its job names it."""
    request = logs.fields().get("request")
    return {} if request is None else {"request": str(request)}


def _waits(queues: Queues, job_id: object) -> bool:
    name = job_id.decode() if isinstance(job_id, bytes) else ""
    return queues.queue(QueueName.RECONCILE).get_job_position(name) is not None


def predict(
    queues: Queues, project_id: int, tasks: list[dict[str, Any]], *, timeout: float = 90.0
) -> list[dict[str, Any]]:
    """Predictions for tasks as Label Studio sends and takes them, made by the inference worker.

    Args:
        queues: where.
        project_id: owner of the tasks.
        tasks: each with `id` and `data`.
        timeout: seconds to wait; Label Studio gives up after 100.

    Returns:
        One `{"result", "score", "model_version"}` per task, in their order.

    Raises:
        NoWorker: no living process takes the queue `predict`, now or while waiting.
        PredictionFailed: the job failed or took too long.
    """
    if not tasks:
        return []
    waiting = queues.within(_BLOCKING_READ).connection
    _require_worker(queues)
    job = queues.queue(QueueName.PREDICT).enqueue(
        "al_backend.jobs.live.predict",
        args=(project_id, [{"id": task.get("id"), "data": task.get("data")} for task in tasks]),
        job_id=f"predict-{uuid.uuid4().hex}",
        job_timeout=math.ceil(timeout),
        ttl=math.ceil(timeout),
        result_ttl=60,
        failure_ttl=60,
        meta={"project": project_id, "kind": "predict", "tasks": len(tasks)} | _request_id(),
    )
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        # Redis blocks for us and answers the moment the result is there; whole milliseconds only.
        answer = waiting.xread({Result.get_key(job.id): "0-0"}, block=int(_LOOK_EVERY * 1000))
        if answer:
            result = job.latest_result()
            if result is not None and result.type == Result.Type.SUCCESSFUL:
                return cast("list[dict[str, Any]]", result.return_value)
            reason = (result.exc_string or "").strip().splitlines()[-1:] if result is not None else []
            raise PredictionFailed(f"The inference worker failed: {(reason or ['unknown reason'])[0]}")
        _require_worker(queues, job)
    _forget(job)
    raise PredictionFailed(f"The inference worker did not answer within {timeout:.0f} s; look at /jobs.")


def _require_worker(queues: Queues, waiting: Job | None = None) -> None:
    if has_worker(queues.connection, QueueName.PREDICT):
        return
    if waiting is not None:
        _forget(waiting)
    raise NoWorker(
        "No inference worker lives: nobody takes the queue 'predict'. "
        "Start one with `al-backend worker --queues predict,score`, or `al-backend up`."
    )


def _forget(job: Job) -> None:
    """Delete a job for which nobody waits any more; it may have expired by itself."""
    with contextlib.suppress(NoSuchJobError, InvalidJobOperation):
        job.delete()


def request_training(registry: Registry, queues: Queues, project_id: int, *, from_scratch: bool = False) -> str:
    """Ask for a training on all labels, however few are new.

    A training that runs now does not count: it may have read the labels before.

    Returns:
        An id for `job_status`.
    """
    return _request(registry, queues, project_id, TRAIN_REQUEST, {"from_scratch": from_scratch})


def request_ranking(
    registry: Registry, queues: Queues, project_id: int, *, strategy: str | None = None, budget: int | None = None
) -> str:
    """Ask for a new ranking of the pool by the active version.

    Args:
        registry: keeps the request.
        queues: where the reconcile waits.
        project_id: the project.
        strategy: for this ranking only; None keeps the project's.
        budget: likewise.

    Returns:
        An id for `job_status`.
    """
    overrides = {name: value for name, value in (("strategy", strategy), ("budget", budget)) if value is not None}
    return _request(registry, queues, project_id, RANK_REQUEST, {"overrides": overrides})


def _request(registry: Registry, queues: Queues, project_id: int, name: str, fields: dict[str, Any]) -> str:
    moment = now(queues.connection)
    kind = name.removesuffix("_request")
    request_id = job_name(f"request-{kind}", project_id, int(moment.timestamp() * 1000))
    registry.write_document(project_id, name, {"id": request_id, "requested_at": moment.isoformat(), **fields})
    forget_tries(queues.connection, project_id)
    enqueue_reconcile(queues, project_id, f"{kind} requested")
    return request_id


def job_status(registry: Registry, queues: Queues, job_id: str) -> str | None:
    """`queued`, `started`, `finished`, `failed` or `canceled`, as RQ spells it.

    Args:
        registry: that keeps requests.
        queues: that hold jobs.
        job_id: an id of `request_training`, `request_ranking` or the queues.

    Returns:
        None for an id that nobody knows, or no longer knows.
    """
    asked = re.fullmatch(r"request-(train|rank)-(\d{1,12})-(\d{1,15})", job_id)
    if asked is not None:
        return _request_status(registry, queues, asked[1], int(asked[2]), int(asked[3]))
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,200}", job_id):
        return None
    try:
        status = Job.fetch(job_id, connection=queues.connection, serializer=queues.serializer).get_status()
    except NoSuchJobError:
        return None
    return None if status is None else str(status.value)


def _request_status(registry: Registry, queues: Queues, kind: str, project_id: int, milliseconds: int) -> str | None:
    asked = datetime.fromtimestamp(milliseconds / 1000, timezone.utc)
    document = registry.read_document(project_id, f"{kind}_request")
    last = requested_at(document)
    if last is None or int(last.timestamp() * 1000) < milliseconds:
        return None
    if kind == "rank":
        rankings = [item for item in registry.rankings(project_id) if item.created_at >= asked]
        published = registry.read_document(project_id, "published") or {}
        if any(item.id == published.get("ranking") for item in rankings):
            return "finished"
        cancelled = cancelled_ranking(registry, project_id)
        if cancelled is not None and cancelled.at >= asked:
            return "canceled"
        return "started" if rankings else "queued"
    if any(version.snapshot_at >= asked for version in registry.versions(project_id)):
        return "finished"
    cancelled_at = training_cancelled_at(registry, project_id)
    if cancelled_at is not None and cancelled_at >= asked:
        return "canceled"
    attempt = read_attempt(registry, project_id)
    if attempt is not None and attempt.started_at >= asked and attempt.error is not None:
        return "failed"
    return "started" if _training_since(queues, project_id, asked) else "queued"


def _training_since(queues: Queues, project_id: int, asked: datetime) -> bool:
    """Whether a training runs that began after a request; an earlier one may have read the labels before it."""
    job_id = job_name("train", project_id)
    if not in_flight(queues, QueueName.TRAIN, job_id):
        return False
    try:
        began = Job.fetch(job_id, connection=queues.connection, serializer=queues.serializer).meta.get("began_at")
    except NoSuchJobError:
        return False
    return began is not None and datetime.fromisoformat(began) >= asked


def overview(queues: Queues) -> dict[str, Any]:
    """Depth and living workers of every queue, and the jobs that wait or run."""
    living = workers(queues.connection)
    result: dict[str, Any] = {"queues": {}, "jobs": []}
    for name in QueueName:
        queue = queues.queue(name)
        result["queues"][name.value] = {
            "depth": queue.count,
            "workers": [
                {key: worker[key] for key in ("place", "pid", "queues")}
                for worker in living
                if name.value in worker["queues"]
            ],
        }
        begun = queue.started_job_registry.get_job_ids(cleanup=False)
        waiting = queue.get_job_ids(0, 100)
        waiting_ids, ids = set(waiting), list(dict.fromkeys([*begun, *waiting]))
        for job in Job.fetch_many(ids, connection=queues.connection, serializer=queues.serializer):
            # What stands in the queue waits; to ask for each of a hundred would take longer than all the rest.
            if job is not None and (job.id in waiting_ids or in_flight(queues, name, job.id)):
                result["jobs"].append(_describe(job, name))
    return result


def _describe(job: Job, name: QueueName) -> dict[str, Any]:
    status = job.get_status(refresh=False)
    return {
        "id": job.id,
        "queue": name.value,
        "project": job.meta.get("project"),
        "kind": job.meta.get("kind"),
        "status": None if status is None else status.value,
        "progress": job.meta.get("progress"),
        "enqueued_at": None if job.enqueued_at is None else job.enqueued_at.isoformat(),
        "started_at": None if job.started_at is None else job.started_at.isoformat(),
    }
