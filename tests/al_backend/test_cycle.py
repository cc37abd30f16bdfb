from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from al_backend.cycle import (
    MAX_ATTEMPTS,
    Attempt,
    CancelledTraining,
    Choose,
    ColdStart,
    Promote,
    Publish,
    RankingState,
    Repoint,
    Retire,
    ScoreNew,
    ScoreShards,
    Snapshot,
    StartRanking,
    State,
    Train,
    TrainedOn,
    counted_from,
    decide,
    is_validation,
    missing_labels,
    pending_labels,
    published_name,
    ranking_number,
    version_of,
)
from al_backend.settings import LearningSettings

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
SETTINGS = LearningSettings(min_labels=4, train_every=3)
WARM = SETTINGS.model_copy(update={"cold_start": False})
V1 = "yolov5n-v1-aaaaaa"


def labels(count: int) -> dict[int, str]:
    return {task: f"digest{task}" for task in range(1, count + 1)}


def snapshot(**changes: Any) -> Snapshot:
    base = Snapshot(
        classes=("cod", "eel"),
        labels=labels(4),
        pool=(10, 11),
        model_version="",
        titles=frozenset({"Active learning"}),
        stored={},
        scored=frozenset(),
        duplicates=(),
        taken_at=NOON,
    )
    return replace(base, **changes)


def trained(count: int = 4, at: datetime = NOON) -> TrainedOn:
    return TrainedOn(V1, {str(task): digest for task, digest in labels(count).items()}, at)


def settled(**changes: Any) -> tuple[Snapshot, State]:
    """A project at rest: trained, ranked, published, nothing new."""
    state = State(
        active=V1,
        trained_on=trained(),
        versions=(V1,),
        ranking=RankingState(V1, (), 0, published=True),
        published=V1,
    )
    facts = snapshot(model_version=V1, stored={V1: 2}, scored=frozenset({10, 11}))
    return facts, replace(state, **changes)


def test_nothing_happens_before_there_are_enough_labels() -> None:
    assert decide(snapshot(labels=labels(3)), State(), WARM) == []
    assert missing_labels(labels(3), None, SETTINGS) == 1


class TestColdStart:
    few = snapshot(labels=labels(3))

    def test_before_the_first_training(self) -> None:
        assert decide(self.few, State(), SETTINGS) == [ColdStart()]
        assert decide(snapshot(labels={}), State(), SETTINGS) == [ColdStart()]

    @pytest.mark.parametrize(
        "state",
        [
            State(starting=True),
            State(training=True),
            State(trained_on=trained(3), versions=(V1,), active=V1),
            State(trained_on=trained(3), versions=(V1,), unpromoted=None),  # refused, with nothing to compare: odd
        ],
    )
    def test_not_when_it_is_in_work_or_something_better_is(self, state: State) -> None:
        assert ColdStart() not in decide(self.few, state, SETTINGS)

    def test_not_when_a_training_is_due(self) -> None:
        (action,) = decide(snapshot(), State(), SETTINGS)
        assert isinstance(action, Train)

    def test_not_without_images_to_order(self) -> None:
        assert decide(snapshot(labels={}, pool=()), State(), SETTINGS) == []

    def test_trainings_that_failed_for_good_leave_an_order_at_least(self) -> None:
        tried = Attempt(snapshot().digest, MAX_ATTEMPTS, NOON, error="no memory")
        assert decide(snapshot(), State(attempt=tried), SETTINGS) == [ColdStart()]

    def test_again_when_it_is_stale(self) -> None:
        stale = State(active="yolov5n-v0-aaaaaa", stale_start=True)
        assert ColdStart() in decide(self.few, stale, SETTINGS)
        assert ColdStart() not in decide(self.few, stale, WARM)

    def test_then_a_ranking(self) -> None:
        assert decide(self.few, State(active="yolov5n-v0-aaaaaa"), SETTINGS) == [StartRanking("yolov5n-v0-aaaaaa")]


def test_the_first_training_starts_at_min_labels() -> None:
    (action,) = decide(snapshot(), State(), SETTINGS)
    assert isinstance(action, Train)


def test_an_empty_project_is_left_alone() -> None:
    assert decide(snapshot(labels={}, pool=()), State(train_requested_at=NOON), SETTINGS) == []


def test_a_project_at_rest_is_left_alone() -> None:
    assert decide(*settled(), SETTINGS) == []


@pytest.mark.parametrize(("new", "due"), [(2, False), (3, True), (5, True)])
def test_the_next_training_counts_labels_that_the_last_one_has_not_seen(new: int, due: bool) -> None:
    facts, state = settled()
    actions = decide(replace(facts, labels=labels(4 + new)), state, SETTINGS)
    assert [isinstance(action, Train) for action in actions] == [True] * due


def test_changed_and_deleted_annotations_count_as_new() -> None:
    now = labels(4)
    now[1] = "changed"
    del now[2]
    assert pending_labels(now, trained()) == 2


def test_only_one_training_at_a_time() -> None:
    facts, state = settled(training=True)
    assert decide(replace(facts, labels=labels(20)), state, SETTINGS) == []


def test_a_request_trains_whatever_the_count_and_only_once() -> None:
    facts, state = settled(train_requested_at=NOON + timedelta(seconds=1), train_from_scratch=True)
    assert decide(facts, state, SETTINGS) == [Train("requested", from_scratch=True)]
    after = replace(state, trained_on=trained(at=NOON + timedelta(seconds=2)))
    assert decide(facts, after, SETTINGS) == []


@pytest.mark.parametrize(("mode", "expected"), [("fine_tune", False), ("from_scratch", True)])
def test_every_training_starts_where_the_setting_says(mode: str, expected: bool) -> None:
    settings = SETTINGS.overridden({"train_mode": mode})
    facts, state = settled()
    by_itself = decide(replace(facts, labels=labels(20)), state, settings)
    requested = decide(facts, replace(state, train_requested_at=NOON + timedelta(seconds=1)), settings)
    for (action,) in (by_itself, requested):
        assert isinstance(action, Train)
        assert action.from_scratch is expected


def test_a_request_during_a_training_is_served_after_it() -> None:
    asked = NOON + timedelta(seconds=5)
    facts, state = settled(train_requested_at=asked, training=True)
    assert decide(facts, state, SETTINGS) == []
    assert decide(facts, replace(state, training=False), SETTINGS) == [Train("requested", from_scratch=False)]


def test_labels_that_fail_again_and_again_stop_being_tried_until_somebody_asks() -> None:
    facts = snapshot()
    failed = Attempt(facts.digest, MAX_ATTEMPTS, NOON, "boom")
    assert decide(facts, State(attempt=replace(failed, count=MAX_ATTEMPTS - 1)), SETTINGS) != []
    assert decide(facts, State(attempt=failed), WARM) == []
    assert decide(snapshot(labels=labels(5)), State(attempt=failed), SETTINGS) != []
    later = NOON + timedelta(seconds=1)
    assert decide(facts, State(attempt=failed, train_requested_at=later), SETTINGS) != []
    earlier = NOON - timedelta(seconds=1)
    assert decide(facts, State(attempt=failed, train_requested_at=earlier), WARM) == []


def test_a_ranking_goes_from_start_over_shards_to_publication() -> None:
    facts = snapshot()
    state = State(active=V1, trained_on=trained(), versions=(V1,))
    assert decide(facts, state, SETTINGS) == [StartRanking(V1)]
    unmeasured = replace(state, ranking=RankingState(V1, (0, 2), 3, published=False))
    assert decide(facts, unmeasured, SETTINGS) == [ScoreShards(V1, (0, 2))]
    waiting = replace(state, ranking=RankingState(V1, (), 3, published=False))
    assert decide(facts, waiting, SETTINGS) == []
    measured = replace(state, ranking=RankingState(V1, (), 0, published=False))
    assert decide(facts, measured, SETTINGS) == [Publish(V1)]
    assert decide(facts, replace(measured, publishing=True), SETTINGS) == []


def test_a_closer_look_comes_between_the_pool_and_the_order() -> None:
    facts = snapshot()
    measured = RankingState(V1, (), 0, published=False, to_choose=True)
    state = State(active=V1, trained_on=trained(), versions=(V1,), ranking=measured)
    assert decide(facts, state, SETTINGS) == [Choose(V1)]
    assert decide(facts, replace(state, ranking=replace(measured, choosing=True)), SETTINGS) == []
    listed = RankingState(V1, (1,), 2, published=False, closer=True)
    assert decide(facts, replace(state, ranking=listed), SETTINGS) == [ScoreShards(V1, (1,), closer=True)]
    assert decide(facts, replace(state, ranking=replace(listed, missing=())), SETTINGS) == []
    seen = replace(listed, missing=(), unfinished=0)
    assert decide(facts, replace(state, ranking=seen), SETTINGS) == [Publish(V1)]


def test_an_empty_pool_is_neither_ranked_nor_published() -> None:
    facts = snapshot(pool=())
    state = State(active=V1, trained_on=trained(), versions=(V1,))
    assert decide(facts, state, SETTINGS) == []
    measured = replace(state, ranking=RankingState(V1, (), 0, published=False))
    assert decide(facts, measured, SETTINGS) == []


def test_new_tasks_are_scored_between_rankings_but_not_those_left_out_on_purpose() -> None:
    facts, state = settled(ranking=RankingState(V1, (), 0, published=True, unranked=frozenset({12})))
    facts = replace(facts, pool=(10, 11, 12, 13))
    assert decide(facts, state, SETTINGS) == [ScoreNew(V1, (13,))]
    assert decide(facts, replace(state, scoring_new=True), SETTINGS) == []


def test_many_tasks_that_came_after_a_ranking_are_a_reason_for_another() -> None:
    state = settled(ranking=RankingState(V1, (), 0, published=True, ranked=5000, last_task=5000))[1]

    def decided(last: int, state: State = state) -> list[Any]:
        facts = snapshot(model_version=V1, stored={V1: 5000}, scored=frozenset(range(1, 5001)))
        return decide(replace(facts, pool=tuple(range(1, last + 1))), state, SETTINGS)

    assert decided(6000) == [ScoreNew(V1, tuple(range(5001, 6001)))]
    assert decided(6001) == [StartRanking(V1)]
    assert decided(6001, replace(state, scoring_new=True)) == [StartRanking(V1)]
    assert decided(6001, replace(state, ranking_cancelled=True)) == [ScoreNew(V1, tuple(range(5001, 6002)))]
    small = replace(state, ranking=RankingState(V1, (), 0, published=True, ranked=100, last_task=5000))
    assert decided(5500, small) == [ScoreNew(V1, tuple(range(5001, 5501)))]
    assert decided(5501, small) == [StartRanking(V1)]


def test_predictions_that_somebody_deleted_are_no_reason_for_another_ranking() -> None:
    ranking = RankingState(V1, (), 0, published=True, ranked=5000, last_task=5000)
    facts, state = settled(ranking=ranking)
    facts = replace(facts, pool=tuple(range(1, 5001)), scored=frozenset({1}), stored={V1: 1})
    assert decide(facts, state, SETTINGS) == [ScoreNew(V1, tuple(range(2, 5001)))]


def test_a_requested_ranking_follows_a_published_one_and_waits_for_a_running_one() -> None:
    facts, state = settled(ranking_owed=True)
    assert decide(facts, state, SETTINGS) == [StartRanking(V1)]
    running = replace(state, ranking=RankingState(f"{V1}+r2", (1,), 1, published=False))
    assert decide(facts, running, SETTINGS) == [ScoreShards(f"{V1}+r2", (1,))]


@pytest.mark.parametrize("lost", ["", "Active learning"])
def test_a_lost_model_version_is_set_back(lost: str) -> None:
    facts, state = settled()
    assert decide(replace(facts, model_version=lost), state, SETTINGS) == [Repoint(V1)]


def test_a_model_version_that_a_person_chose_stays() -> None:
    facts, state = settled()
    assert decide(replace(facts, model_version="theirs"), state, SETTINGS) == []


def test_only_our_own_old_predictions_are_retired() -> None:
    facts, state = settled()
    facts = replace(facts, stored={V1: 2, f"{V1}+r2": 3, "untrained": 1, "somebody's": 9, "": 4}, duplicates=(7,))
    assert decide(facts, state, SETTINGS) == [Retire(("untrained", f"{V1}+r2"), (7,))]
    coming = replace(state, ranking=RankingState(f"{V1}+r2", (), 1, published=False))
    assert decide(facts, coming, SETTINGS) == [Retire(("untrained",), (7,))]


def test_names_of_repeated_rankings() -> None:
    assert published_name(V1, []) == V1
    assert published_name(V1, [V1, "yolov5n-v2-bbbbbb"]) == f"{V1}+r2"
    assert published_name(V1, [V1, f"{V1}+r2", f"{V1}+r10"]) == f"{V1}+r11"
    assert version_of(f"{V1}+r11") == V1
    assert ranking_number(f"{V1}+r11") == 11


def test_the_digest_depends_on_content_not_on_order() -> None:
    one = snapshot(labels={1: "a", 2: "b"})
    assert one.digest == snapshot(labels={2: "b", 1: "a"}).digest
    assert one.digest != snapshot(labels={1: "a", 2: "c"}).digest
    assert one.digest != snapshot(labels={1: "a", 2: "b"}, classes=("cod",)).digest


def test_the_validation_split_is_stable_and_of_the_right_size() -> None:
    chosen = {task for task in range(10_000) if is_validation(task, 0.2, seed=0)}
    assert chosen == {task for task in range(10_000) if is_validation(task, 0.2, seed=0)}
    assert 1_800 < len(chosen) < 2_200
    assert chosen != {task for task in range(10_000) if is_validation(task, 0.2, seed=1)}
    assert chosen <= {task for task in range(10_000) if is_validation(task, 0.3, seed=0)}


def test_a_version_that_was_never_promoted_comes_before_everything_else() -> None:
    state = State(active=None, trained_on=trained(1), versions=(V1,), unpromoted=V1)
    assert decide(snapshot(labels=labels(9)), state, SETTINGS) == [Promote(V1)]
    assert Promote(V1) not in decide(snapshot(), replace(state, training=True), SETTINGS)  # it may be about to


# What a person cancelled


def digests(count: int) -> dict[str, str]:
    return {str(task): digest for task, digest in labels(count).items()}


def test_a_cancelled_training_waits_for_as_many_new_labels_as_any_other() -> None:
    facts, state = settled(trained_on=trained(4, NOON - timedelta(hours=1)))
    cancelled = CancelledTraining(NOON, digests(7))
    for count, due in ((7, False), (9, False), (10, True)):
        actions = decide(replace(facts, labels=labels(count)), replace(state, train_cancelled=cancelled), SETTINGS)
        assert bool(actions) is due, count
    assert decide(replace(facts, labels=labels(7)), state, SETTINGS) != []
    assert missing_labels(labels(8), counted_from(state.trained_on, cancelled), SETTINGS) == 2


def test_the_first_training_cancelled_does_not_start_again_by_itself() -> None:
    state = State(train_cancelled=CancelledTraining(NOON, digests(4)))
    assert decide(snapshot(labels=labels(6)), state, WARM) == []
    assert decide(snapshot(labels=labels(7)), state, SETTINGS) != []


def test_until_somebody_has_looked_all_labels_count_as_cancelled() -> None:
    assert decide(snapshot(labels=labels(100)), State(train_cancelled=CancelledTraining(NOON)), WARM) == []


@pytest.mark.parametrize(("minutes", "starts"), [(-1, False), (0, False), (1, True)])
def test_only_a_request_after_the_cancellation_starts_a_training(minutes: int, starts: bool) -> None:
    facts, state = settled(
        trained_on=trained(4, NOON - timedelta(hours=1)),
        train_cancelled=CancelledTraining(NOON, digests(4)),
        train_requested_at=NOON + timedelta(minutes=minutes),
    )
    assert bool(decide(facts, state, SETTINGS)) is starts


def test_a_later_training_makes_the_cancellation_history() -> None:
    facts, state = settled(
        trained_on=trained(4, NOON + timedelta(hours=1)), train_cancelled=CancelledTraining(NOON, digests(4))
    )
    assert decide(replace(facts, labels=labels(7)), state, SETTINGS) == [Train("3 new or changed labels", False)]


def test_a_cancelled_ranking_leaves_the_published_one_at_work() -> None:
    before = RankingState("yolov5n-v0-000000", (), 0, published=True)
    facts, state = settled(
        ranking=before,
        ranking_cancelled=True,
    )
    assert decide(facts, state, SETTINGS) == []
    new = replace(facts, pool=(10, 11, 12))
    assert decide(new, state, SETTINGS) == [ScoreNew(before.id, (12,))]
    asked = replace(state, ranking_owed=True)
    assert decide(facts, asked, SETTINGS) == [StartRanking(V1)]


def test_the_first_ranking_cancelled_starts_again_on_request_only() -> None:
    facts, state = settled(ranking=None, published=None, ranking_cancelled=True)
    assert decide(facts, state, SETTINGS) == []
    asked = replace(state, ranking_owed=True)
    assert decide(facts, asked, SETTINGS) == [StartRanking(V1)]
