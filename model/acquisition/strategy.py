"""The strategies by name. Everything that ranks, in the product and in simulations, gets its strategy here."""

from __future__ import annotations

from collections.abc import Callable

from model.acquisition.al_vae import AlVae
from model.acquisition.base import (
    INFORMATIVENESS,
    EmptyPolicy,
    Ranked,
    RankingContext,
    Strategy,
    StrategyConfig,
    measurement_table,
    with_candidates,
)
from model.acquisition.cald import Cald
from model.acquisition.core_set import CoreSet
from model.acquisition.diversity import Diversified
from model.acquisition.huale import Huale
from model.acquisition.ppal import Ppal
from model.acquisition.random_sampling import RandomSampling
from model.acquisition.typical import Typical
from model.acquisition.uncertainty_sampling import UncertaintySampling

__all__ = [
    "INFORMATIVENESS",
    "EmptyPolicy",
    "Ranked",
    "RankingContext",
    "Strategy",
    "StrategyConfig",
    "create_strategy",
    "measurement_table",
    "strategy_names",
    "with_candidates",
]

_STRATEGIES: dict[str, Callable[[StrategyConfig], Strategy]] = {
    AlVae.name: AlVae,
    Cald.name: Cald,
    CoreSet.name: CoreSet,
    Huale.name: Huale,
    Ppal.name: Ppal,
    RandomSampling.name: RandomSampling,
    Typical.name: Typical,
    UncertaintySampling.name: UncertaintySampling,
}


def strategy_names() -> tuple[str, ...]:
    """The names that `create_strategy` knows, sorted."""
    return tuple(sorted(_STRATEGIES))


def create_strategy(config: StrategyConfig) -> Strategy:
    """The strategy that `config` asks for, with the diversity step after it where that is asked for, too.

    Raises:
        ValueError: there is none of that name; the message lists those that exist.
    """
    if config.name not in _STRATEGIES:
        raise ValueError(f"strategy is {config.name!r}, expected one of: {', '.join(strategy_names())}")
    strategy = _STRATEGIES[config.name](config)
    return Diversified(strategy, config) if config.diversity else strategy
