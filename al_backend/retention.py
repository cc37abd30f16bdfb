"""Which versions and rankings of a project are kept, decided from facts alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from al_backend.cycle import ranking_number
from al_backend.registry import ActivePointer, Ranking, Version

GRACE = timedelta(minutes=10)
"""Between marking a version as leaving and removing its weights: time for a promotion, or for loading a detector."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What of a project is kept.

    Attributes:
        keep: versions whose weights something needs.
        rankings: ids of rankings that nobody reads any more.
        due: whether there is anything to do now.
    """

    keep: frozenset[str]
    rankings: tuple[str, ...]
    due: bool


def plan(
    versions: Sequence[Version],
    rankings: Sequence[Ranking],
    pointer: ActivePointer | None,
    published: str | None,
    *,
    last: int,
    now: datetime,
) -> Plan:
    """What to keep of a project, and whether anything else is there.

    Args:
        versions: of the project.
        rankings: of the project.
        pointer: to the active version; None keeps everything, because nothing is in use yet.
        published: id of the ranking that Label Studio serves.
        last: how many of the newest versions are kept; 0 keeps all.
        now: this moment.
    """
    usable = [version for version in versions if version.removed_at is None]
    keep = frozenset(version.name for version in usable)
    if pointer is not None and last > 0:
        newest = sorted(usable, key=lambda version: version.number)[-last:]
        served = {ranking.version for ranking in rankings if ranking.id == published}
        needed = {version.name for version in newest} | served | {pointer.version}
        needed |= _previous(pointer, keep) | _best(usable)
        keep &= needed
    # Rankings of a version that is leaving stay with it: it may be chosen again.
    measured_by = {version.name for version in usable}
    superseded = tuple(sorted(_superseded(rankings, measured_by, published)))
    return Plan(
        keep, superseded, bool(superseded) or any(_is_due(version, version.name in keep, now) for version in usable)
    )


def _is_due(version: Version, kept: bool, now: datetime) -> bool:
    """Whether a version has to be marked, has to lose its mark, or has to go."""
    if kept or version.leaving_since is None:
        return kept == (version.leaving_since is not None)
    return now - version.leaving_since >= GRACE


def _previous(pointer: ActivePointer, usable: Collection[str]) -> set[str]:
    """What a rollback would go to: the last in the history that still has its weights."""
    return set(next(([name] for name in reversed(pointer.history) if name in usable), []))


def _best(usable: Sequence[Version]) -> set[str]:
    """Of the versions with the newest one's classes, the one with the highest mAP50; the newest of equals."""
    if not usable:
        return set()
    classes = max(usable, key=lambda version: version.number).classes
    measured = [
        (float(quality), version.number, version.name)
        for version in usable
        if version.classes == classes and (quality := (version.metrics or {}).get("map50")) is not None
    ]
    return {max(measured)[2]} if measured else set()


def _superseded(rankings: Sequence[Ranking], versions: Collection[str], published: str | None) -> set[str]:
    """Rankings of versions that are gone, and of each other version all but the newest; never the published one."""
    newest: dict[str, Ranking] = {}
    for ranking in sorted(rankings, key=lambda ranking: ranking_number(ranking.id)):
        if ranking.version in versions:
            newest[ranking.version] = ranking
    kept = {ranking.id for ranking in newest.values()} | {published}
    return {ranking.id for ranking in rankings if ranking.id not in kept}
