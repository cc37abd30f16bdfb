"""The whole policy of the product: what has to be done next, decided from facts alone.

Nothing here reads or writes anything. `jobs.reconcile` collects a `Snapshot` (what Label Studio says) and a `State`
(what the registry and the queues say), asks `decide`, and enqueues the answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from al_backend.actions import (
    Action,
    Choose,
    ColdStart,
    Promote,
    Publish,
    Repoint,
    Retire,
    ScoreNew,
    ScoreShards,
    StartRanking,
    Tidy,
    Train,
)
from al_backend.facts import Attempt, CancelledTraining, RankingState, Snapshot, State, TrainedOn
from al_backend.settings import LearningSettings

__all__ = [
    "LATE_SHARE",
    "LATE_TASKS",
    "MAX_ATTEMPTS",
    "REPUBLISH_MARK",
    "UNTRAINED",
    "Action",
    "Attempt",
    "CancelledTraining",
    "Choose",
    "ColdStart",
    "Promote",
    "Publish",
    "RankingState",
    "Repoint",
    "Retire",
    "ScoreNew",
    "ScoreShards",
    "Snapshot",
    "StartRanking",
    "State",
    "Tidy",
    "Train",
    "TrainedOn",
    "cancellation_in_force",
    "counted_from",
    "decide",
    "is_validation",
    "missing_labels",
    "pending_labels",
    "published_name",
    "ranking_number",
    "version_of",
]

UNTRAINED = "untrained"
"""Model version of the empty answers that a project gets before its first training."""

MAX_ATTEMPTS = 3
"""Trainings of one and the same snapshot before a person has to ask for another."""

LATE_TASKS, LATE_SHARE = 500, 0.2
"""More tasks than this, and than this share of a ranking's, that came after it are a reason for another ranking.

Placing them one by one takes longer than ranking all, and so many count for more than the few that they are placed by.
"""

REPUBLISH_MARK = "+r"
"""Between a version and the number of its later rankings in the model version that Label Studio gets.

Label Studio switches between model versions at once, but can neither update predictions in bulk nor tell two rankings
of one version apart; so the second ranking of `yolov5n-v3-1f2e3d` is published as `yolov5n-v3-1f2e3d+r2`.
"""


def decide(snapshot: Snapshot, state: State, settings: LearningSettings) -> list[Action]:
    """Everything that has to be started now, in the order in which it should be enqueued.

    Calling it again with the same facts gives the same answer; work that is waiting or running is not asked for twice.
    """
    if state.unpromoted is not None and not state.training:
        return [Promote(state.unpromoted)]  # everything else depends on which version is active
    actions: list[Action] = []
    training = _training(snapshot, state, settings)
    if training is not None:
        actions.append(training)
    elif _is_cold(snapshot, state, settings):
        actions.append(ColdStart())
    actions += _ranking(snapshot, state)
    if state.published is not None and not state.publishing:
        if snapshot.model_version != state.published and _may_repoint(snapshot, state):
            actions.append(Repoint(state.published))
        kept = {state.published, None if state.ranking is None else state.ranking.id}
        old = tuple(name for name in sorted(snapshot.stored) if _is_ours(name, state) and name not in kept)
        if (old or snapshot.duplicates) and not state.retiring:
            actions.append(Retire(old, snapshot.duplicates))
        # With the new order served nobody reads the old one; a training may need the version that it started from.
        quiet = state.ranking is not None and state.ranking.published and not state.training
        if state.untidy and quiet and not state.tidying:
            actions.append(Tidy())
    return actions


def pending_labels(labels: Mapping[int, str], trained_on: TrainedOn | None) -> int:
    """Labelled tasks that the newest version has not seen in their present form, and seen ones that are gone."""
    seen = {} if trained_on is None else trained_on.labels
    changed = sum(1 for task, digest in labels.items() if seen.get(str(task)) != digest)
    gone = sum(1 for task in seen if int(task) not in labels)
    return changed + gone


def missing_labels(labels: Mapping[int, str], trained_on: TrainedOn | None, settings: LearningSettings) -> int:
    """How many more labelled images start the next training on their own; 0 means that it is due."""
    if trained_on is None:
        return max(0, settings.min_labels - len(labels))
    return max(0, settings.train_every - pending_labels(labels, trained_on), settings.min_labels - len(labels))


def cancellation_in_force(
    trained_on: TrainedOn | None, cancelled: CancelledTraining | None
) -> CancelledTraining | None:
    """The cancellation, unless a later training has made it history."""
    if cancelled is None or (trained_on is not None and trained_on.snapshot_at > cancelled.at):
        return None
    return cancelled


def counted_from(trained_on: TrainedOn | None, cancelled: CancelledTraining | None) -> TrainedOn | None:
    """From which labels on new ones count towards the next training: those of the last training or cancellation."""
    cancelled = cancellation_in_force(trained_on, cancelled)
    if cancelled is None or cancelled.labels is None:
        return trained_on
    return TrainedOn("" if trained_on is None else trained_on.version, cancelled.labels, cancelled.at)


def is_validation(task: int, share: float, seed: int) -> bool:
    """Whether a task's label is held out: a fixed random choice by task id, the same in every cycle."""
    draw = hashlib.sha256(f"validation:{seed}:{task}".encode()).digest()
    return int.from_bytes(draw[:8], "big") < share * 2**64


def published_name(version: str, earlier: Iterable[str]) -> str:
    """The model version under which the next ranking of `version` is published.

    Args:
        version: name of the trained version.
        earlier: model versions of its earlier rankings.
    """
    numbers = [ranking_number(name) for name in earlier if version_of(name) == version]
    return version if not numbers else f"{version}{REPUBLISH_MARK}{max(numbers) + 1}"


def version_of(model_version: str) -> str:
    """The trained version behind a model version of Label Studio."""
    return model_version.split(REPUBLISH_MARK)[0]


def ranking_number(model_version: str) -> int:
    """Which ranking of its version a model version is, from 1."""
    _, mark, number = model_version.partition(REPUBLISH_MARK)
    return int(number) if mark and number.isdigit() else 1


def _training(snapshot: Snapshot, state: State, settings: LearningSettings) -> Train | None:
    if state.training or not snapshot.labels:
        return None
    from_scratch = settings.train_mode == "from_scratch"
    attempt = state.attempt
    requested = state.train_requested_at
    trained_at = None if state.trained_on is None else state.trained_on.snapshot_at
    cancelled = cancellation_in_force(state.trained_on, state.train_cancelled)
    asked = requested is not None and (trained_at is None or requested > trained_at)
    if asked and cancelled is not None and requested is not None:
        asked = requested > cancelled.at
    if attempt is not None and attempt.digest == snapshot.digest and attempt.count >= MAX_ATTEMPTS:
        # The same labels failed again and again: only a request that is newer than the last failure tries once more.
        asked = asked and requested is not None and requested > attempt.started_at
        if not asked:
            return None
    if asked:
        return Train("requested", state.train_from_scratch or from_scratch)
    if cancelled is not None and cancelled.labels is None:
        return None  # this look notes the labels, later ones count those that are new
    if missing_labels(snapshot.labels, counted_from(state.trained_on, cancelled), settings) > 0:
        return None
    new = pending_labels(snapshot.labels, state.trained_on)
    return Train(f"{new} new or changed labels", from_scratch)


def _is_cold(snapshot: Snapshot, state: State, settings: LearningSettings) -> bool:
    """Whether people would label in random order until the first training, which nothing has started yet."""
    untrained = (state.active is None or state.stale_start) and state.trained_on is None
    return settings.cold_start and untrained and bool(snapshot.pool) and not state.training and not state.starting


def _ranking(snapshot: Snapshot, state: State) -> list[Action]:
    if state.active is None or state.publishing:
        return []
    ranking = state.ranking
    if state.ranking_cancelled and not state.ranking_owed and (ranking is None or not ranking.published):
        return []
    if ranking is None or (state.ranking_owed and ranking.published):
        return [StartRanking(state.active)] if snapshot.pool else []
    if not ranking.published:
        if ranking.missing:
            return [ScoreShards(ranking.id, ranking.missing, ranking.closer)]
        if ranking.unfinished or not snapshot.pool:
            return []
        if ranking.to_choose:
            return [] if ranking.choosing else [Choose(ranking.id)]
        return [Publish(ranking.id)]
    new = tuple(task for task in snapshot.pool if task not in snapshot.scored and task not in ranking.unranked)
    late = sum(1 for task in new if task > ranking.last_task)
    if late > max(LATE_TASKS, LATE_SHARE * ranking.ranked) and not state.ranking_cancelled:
        return [StartRanking(state.active)]
    return [ScoreNew(ranking.id, new)] if new and not state.scoring_new else []


def _may_repoint(snapshot: Snapshot, state: State) -> bool:
    """Only where Label Studio itself lost the pointer; a version that a person chose by hand stays."""
    lost = not snapshot.model_version or snapshot.model_version in snapshot.titles
    return (lost or _is_ours(snapshot.model_version, state)) and snapshot.stored.get(state.published or "", 0) > 0


def _is_ours(model_version: str, state: State) -> bool:
    return model_version == UNTRAINED or version_of(model_version) in state.versions
