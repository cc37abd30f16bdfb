from __future__ import annotations

from typing import Any

import pytest

from model.acquisition.strategy import StrategyConfig
from model.simulation.plan import Cell, Plan, derived_seed, parse_strategy
from model.training.loss_config import LossConfig
from tests.model.simulation.fake_experiment import plan


def test_cells_go_seed_by_seed() -> None:
    both = plan("random", "huale", seeds=2, losses=(("library", LossConfig()), ("huale", LossConfig.huale())))
    cells = both.cells()
    assert len(cells) == 8
    assert cells[:3] == [Cell("random", "library", 0), Cell("huale", "library", 0), Cell("random", "huale", 0)]
    assert {cell.seed for cell in cells[:4]} == {0}


def test_names_of_strategies() -> None:
    label, config = parse_strategy("huale+diversity", StrategyConfig(cald_beta=1.0))
    assert (label, config.name, config.diversity, config.cald_beta) == ("huale+diversity", "huale", True, 1.0)
    assert not parse_strategy("huale")[1].diversity
    with pytest.raises(ValueError, match="'hual', expected one of"):
        parse_strategy("hual+diversity")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"initial": 0}, "initial is 0"),
        ({"budget": 0}, "budget is 0"),
        ({"cycles": -1}, "cycles is -1"),
        ({"pool_size": -1}, "pool_size is -1"),
        ({"min_score": 1.5}, "min_score is 1.5"),
        ({"seeds": ()}, "at least one seed"),
        ({"seeds": (1, 1)}, "named once"),
        ({"seeds": (-1,)}, "numbers from 0"),
        ({"strategies": ()}, "at least one strategy"),
        ({"strategies": (("../up", StrategyConfig("random")),)}, "name of a folder"),
        ({"strategies": (("mine", StrategyConfig("nobody")),)}, "expected one of"),
        ({"losses": ()}, "at least one losses"),
        (
            {
                "strategies": (("a-b", StrategyConfig("random")), ("a", StrategyConfig("random"))),
                "losses": (("c", LossConfig()), ("b-c", LossConfig())),
            },
            "share the folder a-b-c-0",
        ),
    ],
)
def test_wrong_settings_are_named(change: dict[str, Any], message: str) -> None:
    valid: dict[str, Any] = {
        "strategies": (("random", StrategyConfig("random")),),
        "seeds": (0,),
        "initial": 1,
        "budget": 1,
        "cycles": 1,
    }
    Plan(**valid)
    with pytest.raises(ValueError, match=message):
        Plan(**{**valid, **change})


def test_every_purpose_has_a_seed_of_its_own() -> None:
    drawn = {derived_seed(s, purpose, cycle) for s in range(5) for purpose in ("a", "b") for cycle in range(5)}
    assert len(drawn) == 50
    assert all(0 <= seed < 2**31 for seed in drawn)
    assert derived_seed(3, "a", 1) == derived_seed(3, "a", 1)
