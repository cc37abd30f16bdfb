"""The strategies by name. Everything that ranks, in the product and in simulations, gets its strategy here."""

from __future__ import annotations

from collections.abc import Callable

from model.acquisition.base import INFORMATIVENESS, EmptyPolicy, RankingContext, Strategy, StrategyConfig
from model.acquisition.random_sampling import RandomSampling
from model.acquisition.uncertainty_sampling import UncertaintySampling

__all__ = [
    "INFORMATIVENESS",
    "EmptyPolicy",
    "RankingContext",
    "Strategy",
    "StrategyConfig",
    "create_strategy",
    "strategy_names",
]

_STRATEGIES: dict[str, Callable[[StrategyConfig], Strategy]] = {
    RandomSampling.name: RandomSampling,
    UncertaintySampling.name: UncertaintySampling,
}


def strategy_names() -> tuple[str, ...]:
    """The names that `create_strategy` knows, sorted."""
    return tuple(sorted(_STRATEGIES))


def create_strategy(config: StrategyConfig) -> Strategy:
    """The strategy that `config` asks for.

    Raises:
        ValueError: there is none of that name; the message lists those that exist.
    """
    if config.name not in _STRATEGIES:
        raise ValueError(f"strategy is {config.name!r}, expected one of: {', '.join(strategy_names())}")
    return _STRATEGIES[config.name](config)
