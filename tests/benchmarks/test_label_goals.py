"""What `benchmarks.label_efficiency` reads off curves that were made by hand."""

from __future__ import annotations

import pytest

from benchmarks._label_goals import diversity_effect, losses_effect, promises, regime
from benchmarks._report import Goal
from model.simulation.results import Curve
from tests.model.simulation.sample_results import BETTER, RANDOM, curve, results

PEERS = ("cald", "core_set", "ppal")


def curves(*names: str, seeds: int = 3) -> list[Curve]:
    """Of random order and the default, a little different by seed, and of others that do as random order does."""
    made = []
    for seed in range(seeds):
        made += [curve("random", seed, [value + 0.01 * seed for value in RANDOM])]
        made += [curve("uncertainty", seed, [value + 0.012 * seed for value in BETTER])]
        made += [curve(name, seed, [value + 0.011 * seed for value in RANDOM]) for name in names]
    return made


def named(goals: list[Goal], part: str) -> Goal:
    (found,) = [goal for goal in goals if part in goal.name]
    return found


class TestRegime:
    def test_only_the_seeds_that_were_trained_twice_as_long_are_compared(self) -> None:
        # All five seeds together seem to gain by labels; seed 0 alone, the one that is compared, gains nothing.
        found = results(curves(), full={0: 0.11, 1: 0.4, 2: 0.5})
        twice = results([curve("random", 0, [0.1])], full={0: 0.12})
        (goal,) = regime("d", found, twice)
        assert (
            goal.value == "0.100 to 0.110 by labels, to 0.100 by training (1 seeds); everything, twice the steps: 0.120"
        )
        assert not goal.met

    @pytest.mark.parametrize(
        ("longer", "met"),
        [
            ([0.12, 0.13, 0.14], True),
            ([0.25, 0.26, 0.27], False),
            ([0.10, 0.11, 0.33], False),  # by the mean, but one seed gained more by steps than by labels
            ([0.12], False),  # one seed says nothing about chance
        ],
    )
    def test_labels_have_to_help_three_times_as_much_as_steps(self, longer: list[float], met: bool) -> None:
        found = results(curves(seeds=3), full={0: 0.4, 1: 0.41, 2: 0.42})
        (goal,) = regime("d", found, results([curve("random", seed, [value]) for seed, value in enumerate(longer)]))
        assert goal.met == met

    def test_the_interval_is_printed(self) -> None:
        found = results(curves(seeds=2), full={0: 0.4, 1: 0.41})
        twice = results([curve("random", 0, [0.11]), curve("random", 1, [0.14])])
        (goal,) = regime("d", found, twice)
        # Starts are 0.1 and 0.112, so 0.3 / 3 - 0.01 and 0.298 / 3 - 0.028: 0.0807, half a width of 12.706 * 0.00933.
        assert str(goal.value).endswith("a third of the one less the other: +0.081 (-0.038 to +0.199)")
        assert not goal.met

    def test_nothing_is_said_without_the_reference(self) -> None:
        assert regime("d", results(curves()), results([curve("random", 0, [0.1])])) == []
        assert regime("d", results(curves()), None) == []


class TestPromises:
    def test_all_are_kept(self) -> None:
        goals = promises("d", results(curves(*PEERS), full={0: 0.4, 1: 0.4, 2: 0.4}), seeds=3)
        assert [goal.met for goal in goals] == [True, True, False, True]
        # 95 % of 0.4 is 0.38; random order has it, with 0.01 more for each seed, at 370 labels, uncertainty at 268.
        assert named(goals, "share of random's").value == "0.72"
        assert named(goals, "best selector").value is not None

    def test_fewer_seeds_are_not_enough(self) -> None:
        goals = promises("d", results(curves(*PEERS, seeds=2)), seeds=3)
        assert not named(goals, "per image").met
        assert [goal for goal in goals if "best selector" in goal.name] == []

    def test_a_peer_that_is_missing_is_named(self) -> None:
        goal = named(promises("d", results(curves("core_set")), seeds=3), "best selector")
        assert str(goal.value).endswith("; cald, ppal not measured")
        assert not goal.met

    def test_the_best_peer_may_have_the_diversity_step(self) -> None:
        made = curves(*PEERS)
        made += [curve("cald+diversity", seed, [value + 0.05 + 0.012 * seed for value in BETTER]) for seed in range(3)]
        goal = named(promises("d", results(made), seeds=3), "best selector")
        assert "against cald+diversity" in goal.name
        assert str(goal.value).startswith("-0.05")
        assert not goal.met


def test_what_the_diversity_step_adds() -> None:
    made = [curve("huale", seed, RANDOM) for seed in range(2)]
    made += [curve("huale+diversity", 0, BETTER), curve("huale+diversity", 1, RANDOM), curve("random", 0, RANDOM)]
    (row,) = diversity_effect(results(made))
    assert (row["strategy"], row["seeds"]) == ("huale+diversity", 2)
    assert row["gain_per_image"].mean == pytest.approx(0.075 / 2)
    assert row["gain_per_box"].mean == pytest.approx(0.075 / 2)


def test_what_losses_do_before_and_after_a_selection() -> None:
    made = [curve("huale", seed, RANDOM) for seed in range(2)]
    made += [
        curve("huale", 0, [0.2, 0.3, 0.4, 0.5], losses="huale"),
        curve("huale", 1, [0.1, 0.3, 0.4, 0.5], losses="huale"),
    ]
    made += [curve("random", 0, RANDOM)]
    (row,) = losses_effect(results(made))
    assert (row["strategy"], row["seeds"]) == ("huale", 2)
    assert row["start"].mean == pytest.approx(0.05)
    # The first gains 0.1 everywhere; the second 0 at the start: (0.05 + 0.1 + 0.1) / 3.
    assert row["gain_per_image"].mean == pytest.approx((0.1 + 0.25 / 3) / 2)
