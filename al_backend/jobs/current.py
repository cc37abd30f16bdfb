"""Which ranking of a project counts, and what a person cancelled; from the registry alone, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from al_backend.cycle import CancelledTraining, ranking_number
from al_backend.jobs.documents import (
    PUBLISHED,
    RANK_CANCEL,
    RANK_REQUEST,
    TRAIN_CANCEL,
    TRAIN_CANCEL_LABELS,
    requested_at,
)
from al_backend.registry import ActivePointer, Ranking, Registry


@dataclass(frozen=True, slots=True)
class CancelledRanking:
    """What a person cancelled last.

    Attributes:
        at: when; requests for a ranking that are older are void.
        ranking: id of the ranking that was in work; None when one was only asked for.
        pointer: mark of the active version's pointer at that time; None without any.
    """

    at: datetime
    ranking: str | None
    pointer: str | None = None


@dataclass(frozen=True, slots=True)
class RankingRequest:
    """A ranking that a person asked for.

    Attributes:
        at: when.
        overrides: of the project's settings, for this ranking only.
    """

    at: datetime
    overrides: dict[str, Any]


@dataclass(frozen=True, slots=True)
class CurrentRanking:
    """The ranking to work on or to serve.

    Attributes:
        ranking: the newest of the active version; the published one when that was cancelled; None without any.
        cancelled: id of the newest of the active version when a person cancelled it, else None.
    """

    ranking: Ranking | None
    cancelled: str | None


def newest_ranking(rankings: Sequence[Ranking], version: str | None) -> Ranking | None:
    """The last ranking of a version; None without one."""
    own = [item for item in rankings if item.version == version]
    return max(own, key=lambda item: ranking_number(item.id), default=None)


def current_ranking(registry: Registry, project_id: int) -> CurrentRanking:
    """The newest ranking of the active version, unless a person cancelled it."""
    pointer = registry.active(project_id)
    rankings = registry.rankings(project_id)
    newest = newest_ranking(rankings, pointer.version if pointer else None)
    if newest is None or not is_cancelled(registry, newest, pointer):
        return CurrentRanking(newest, None)
    published = (registry.read_document(project_id, PUBLISHED) or {}).get("ranking")
    return CurrentRanking(next((item for item in rankings if item.id == published), None), newest.id)


def mark_of(pointer: ActivePointer | None) -> str | None:
    """What is another one whenever the pointer has moved; compared for equality, so the clock does not matter."""
    return None if pointer is None else f"{pointer.version} {pointer.changed_at.isoformat()}"


def is_cancelled(registry: Registry, ranking: Ranking, pointer: ActivePointer | None) -> bool:
    """Whether a person cancelled a ranking; making its version the active one again takes that back."""
    cancelled = cancelled_ranking(registry, ranking.project)
    if cancelled is None or cancelled.ranking != ranking.id or pointer is None:
        return False
    if cancelled.pointer is not None and cancelled.pointer != mark_of(pointer):
        return False
    # Cancelled in the moment in which it was published: it is served, and its new tasks are to be placed.
    return (registry.read_document(ranking.project, PUBLISHED) or {}).get("ranking") != ranking.id


def cancelled_ranking(registry: Registry, project_id: int) -> CancelledRanking | None:
    """The last cancellation of a ranking; None without one."""
    document = registry.read_document(project_id, RANK_CANCEL)
    if document is None:
        return None
    return CancelledRanking(
        datetime.fromisoformat(document["cancelled_at"]), document["ranking"], document.get("pointer")
    )


def owed_ranking(registry: Registry, project_id: int, rankings: Sequence[Ranking]) -> RankingRequest | None:
    """The request for a ranking that none of `rankings` has met and nobody has cancelled since; None without one.

    Every ranking that began after it is the one that was asked for, whichever version was active then.
    """
    document = registry.read_document(project_id, RANK_REQUEST)
    asked = requested_at(document)
    if document is None or asked is None:
        return None
    cancelled = cancelled_ranking(registry, project_id)
    if cancelled is not None and cancelled.at >= asked:
        return None
    if any(ranking.created_at >= asked for ranking in rankings):
        return None
    return RankingRequest(asked, document.get("overrides") or {})


def training_cancelled_at(registry: Registry, project_id: int) -> datetime | None:
    """When a person last cancelled a training; None when nobody did."""
    document = registry.read_document(project_id, TRAIN_CANCEL)
    return None if document is None else datetime.fromisoformat(document["cancelled_at"])


def cancelled_training(registry: Registry, project_id: int) -> CancelledTraining | None:
    """The last cancellation of a training, with the labels that the first look after it found."""
    at = training_cancelled_at(registry, project_id)
    if at is None:
        return None
    noted = registry.read_document(project_id, TRAIN_CANCEL_LABELS)
    known = noted is not None and datetime.fromisoformat(noted["cancelled_at"]) == at
    return CancelledTraining(at, noted["labels"] if noted is not None and known else None)
