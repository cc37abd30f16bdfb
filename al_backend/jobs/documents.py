"""The small JSON documents that jobs keep in the registry: what was asked for, tried and published."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from al_backend.cycle import Attempt
from al_backend.jobs.clock import now as now
from al_backend.registry import Registry

TRAIN_REQUEST = "train_request"
RANK_REQUEST = "rank_request"
ATTEMPT = "attempt"
PUBLISHED = "published"
THROUGHPUT = "throughput"
TRAIN_CANCEL = "train_cancel"
TRAIN_CANCEL_LABELS = "train_cancel_labels"
RANK_CANCEL = "rank_cancel"


def requested_at(document: dict[str, Any] | None) -> datetime | None:
    """When a request was made; None without one."""
    return None if document is None else datetime.fromisoformat(document["requested_at"])


def read_attempt(registry: Registry, project_id: int) -> Attempt | None:
    """The last training that was started."""
    document = registry.read_document(project_id, ATTEMPT)
    if document is None:
        return None
    return Attempt(
        digest=document["digest"],
        count=document["count"],
        started_at=datetime.fromisoformat(document["started_at"]),
        error=document.get("error"),
    )


def start_attempt(registry: Registry, project_id: int, digest: str) -> Attempt:
    """Count one more training of the same labels, before it can die."""
    last = read_attempt(registry, project_id)
    count = last.count + 1 if last is not None and last.digest == digest else 1
    attempt = Attempt(digest, count, now())
    _write_attempt(registry, project_id, attempt)
    return attempt


def fail_attempt(registry: Registry, project_id: int, attempt: Attempt, error: str) -> None:
    """Keep why a training failed, for `status`."""
    _write_attempt(registry, project_id, Attempt(attempt.digest, attempt.count, attempt.started_at, error))


def withdraw_attempt(registry: Registry, project_id: int, attempt: Attempt) -> None:
    """Take back a training that a person cancelled: it says nothing about whether its labels can be trained on."""
    _write_attempt(registry, project_id, Attempt(attempt.digest, attempt.count - 1, attempt.started_at))


def _write_attempt(registry: Registry, project_id: int, attempt: Attempt) -> None:
    registry.write_document(
        project_id,
        ATTEMPT,
        {
            "digest": attempt.digest,
            "count": attempt.count,
            "started_at": attempt.started_at.isoformat(),
            "error": attempt.error,
        },
    )


def published_model_version(registry: Registry, project_id: int) -> str | None:
    """The model version that Label Studio was last told to serve."""
    document = registry.read_document(project_id, PUBLISHED)
    return None if document is None else str(document["model_version"])
