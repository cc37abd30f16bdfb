"""What `cycle.decide` decides on: facts about one project at one moment, as plain values."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What Label Studio says about a project at one moment.

    Attributes:
        classes: labels of the labelling config, in its order.
        labels: digest of the chosen annotation of every labelled task.
        pool: ids of the tasks that are still open.
        model_version: that the project shows, "" when none.
        titles: of the project's ML backends; a project pointing at one is served in random order.
        stored: predictions per model version.
        scored: tasks that have a prediction of the published model version.
        duplicates: ids of predictions that a newer one of the same task and model version supersedes.
        taken_at: when the labels were read (UTC).
    """

    classes: tuple[str, ...]
    labels: Mapping[int, str]
    pool: tuple[int, ...]
    model_version: str
    titles: frozenset[str]
    stored: Mapping[str, int]
    scored: frozenset[int]
    duplicates: tuple[int, ...]
    taken_at: datetime

    @property
    def digest(self) -> str:
        """Identity of the labels and the class list: the same content gives the same digest."""
        content = [*self.classes, *(f"{task}:{digest}" for task, digest in sorted(self.labels.items()))]
        return hashlib.sha256("\n".join(content).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class TrainedOn:
    """What the newest trained version, promoted or refused, has seen."""

    version: str
    labels: Mapping[str, str]
    snapshot_at: datetime


@dataclass(frozen=True, slots=True)
class RankingState:
    """How far the newest ranking of the active version is.

    Attributes:
        id: of the ranking, which is also the model version under which it is published.
        missing: shards that should be enqueued: of the next unfinished ones, those neither waiting nor being worked on,
            nor put off because they failed a moment ago.
        unfinished: number of shards without a result.
        published: whether Label Studio serves this ranking.
        unranked: tasks that the ranking left out on purpose (`pool_size`).
        closer: whether these shards are those of the second phase; the pool's are then finished.
        to_choose: whether the pool is measured and the second phase still has to be listed.
        choosing: whether that is waiting or being worked on.
        ranked: how many tasks it ranks.
        last_task: the highest task id that it knows; Label Studio gives later tasks higher ones.
    """

    id: str
    missing: tuple[int, ...]
    unfinished: int
    published: bool
    unranked: frozenset[int] = frozenset()
    closer: bool = False
    to_choose: bool = False
    choosing: bool = False
    ranked: int = 0
    last_task: int = 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """The last training that was started, whatever became of it."""

    digest: str
    count: int
    started_at: datetime
    error: str | None = None


@dataclass(frozen=True, slots=True)
class CancelledTraining:
    """The last training that a person stopped, or kept from starting.

    Attributes:
        at: when; requests that are older are void.
        labels: digests of the labels that the first look after it found; None before that look.
    """

    at: datetime
    labels: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class State:
    """What the registry and the queues say about a project at the same moment."""

    active: str | None = None
    trained_on: TrainedOn | None = None
    versions: tuple[str, ...] = ()
    ranking: RankingState | None = None
    published: str | None = None
    training: bool = False
    publishing: bool = False
    retiring: bool = False
    scoring_new: bool = False
    starting: bool = False
    """Whether a cold start waits or is being worked on."""
    stale_start: bool = False
    """Whether the active version is a cold start's, from other settings, labels or weights than those of now."""
    train_requested_at: datetime | None = None
    train_from_scratch: bool = False
    ranking_owed: bool = False
    """Whether a person asked for a ranking that none has met since, and nobody cancelled."""
    attempt: Attempt | None = None
    unpromoted: str | None = None
    train_cancelled: CancelledTraining | None = None
    ranking_cancelled: bool = False
    """Whether a person cancelled the active version's newest ranking; `ranking` is then the published one, if any."""
    untidy: bool = False
    tidying: bool = False
