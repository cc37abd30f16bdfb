"""What an experiment consists of: its settings, and the cells that can be worked on independently."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from model.acquisition.strategy import StrategyConfig, create_strategy
from model.training.config import TrainingConfig
from model.training.loss_config import LossConfig

DIVERSITY_SUFFIX = "+diversity"
_NO_MATTER = ("seed", "checkpoint", "checkpoint_every", "workers", "losses")
"""Fields of a training that a cell sets for itself, or that do not change its result."""
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True, slots=True)
class Cell:
    """One curve of an experiment.

    Attributes:
        strategy: label of the strategy.
        losses: label of the losses.
        seed: of the initial set, of the trainings and of the draws of the strategy.
    """

    strategy: str
    losses: str
    seed: int

    @property
    def name(self) -> str:
        """A safe name for a folder."""
        return f"{self.strategy}-{self.losses}-{self.seed}"


@dataclass(frozen=True, slots=True)
class Plan:
    """Settings of an experiment.

    Attributes:
        strategies: by label, in the order of the report; the same label always means the same settings.
        seeds: one curve per strategy and seed; all strategies share a seed's initial set and training seeds.
        initial: images that are labelled at the start, drawn at random.
        budget: images that are labelled per cycle.
        cycles: how often a strategy chooses; a curve has one point more. 0 trains on the initial sets alone.
        training: of every cycle, always from the same base weights on all labels; its `seed`, `checkpoint` and
            `losses` are set by the cell.
        losses: by label.
        min_score: least confidence of a box that strategies see, in [0, 1].
        pool_size: strategies see a random subset of the pool of this size; 0 shows all.
        full: whether a detector is also trained on the whole pool, once per seed, as the reference.

    Raises:
        ValueError: a value is out of range, a label is used twice, or no strategy is of that name.
    """

    strategies: tuple[tuple[str, StrategyConfig], ...]
    seeds: tuple[int, ...]
    initial: int
    budget: int
    cycles: int
    training: TrainingConfig = field(default_factory=TrainingConfig)
    losses: tuple[tuple[str, LossConfig], ...] = (("library", LossConfig()),)
    min_score: float = 0.1
    pool_size: int = 0
    full: bool = True

    def __post_init__(self) -> None:
        for name, least in (("initial", 1), ("budget", 1), ("cycles", 0), ("pool_size", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least {least}")
        if not 0.0 <= self.min_score <= 1.0:
            raise ValueError(f"min_score is {self.min_score}, expected a number from 0 to 1")
        if min(self.seeds, default=0) < 0:
            raise ValueError(f"seeds are {self.seeds}, expected numbers from 0")
        for what, labels in (
            ("strategy", [label for label, _ in self.strategies]),
            ("losses", [label for label, _ in self.losses]),
            ("seed", list(map(str, self.seeds))),
        ):
            if not labels:
                raise ValueError(f"an experiment needs at least one {what}")
            if len(set(labels)) != len(labels):
                raise ValueError(f"each {what} may be named once, found {', '.join(labels)}")
            for label in labels:
                if not _LABEL.fullmatch(label):
                    raise ValueError(f"{what} {label!r} becomes the name of a folder; use letters, digits and _ . + -")
        names = [cell.name for cell in self.cells()]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"two curves would share the folder {twice}; use labels without '-' for one of them")
        for _, config in self.strategies:
            create_strategy(config)

    def cells(self) -> list[Cell]:
        """All curves, seed by seed, so that an experiment that is ended early has complete comparisons."""
        return [
            Cell(strategy, losses, seed)
            for seed in self.seeds
            for losses, _ in self.losses
            for strategy, _ in self.strategies
        ]

    def strategy(self, label: str) -> StrategyConfig:
        """Settings of the strategy with a label."""
        return dict(self.strategies)[label]

    def training_of(self, losses: str, seed: int, cycle: int) -> TrainingConfig:
        """The training of one cycle: the same for all strategies."""
        return replace(self.training, losses=dict(self.losses)[losses], seed=derived_seed(seed, "training", cycle))

    def labels(self) -> dict[str, dict[str, Any]]:
        """Settings of `strategies` and `losses` by label, as plain JSON values: what may join a folder later."""
        return {
            "strategies": {label: plain(asdict(config)) for label, config in self.strategies},
            "losses": {label: plain(asdict(config)) for label, config in self.losses},
        }

    def common(self) -> dict[str, Any]:
        """What all curves in one folder must agree on, as plain JSON values."""
        training = {name: value for name, value in asdict(self.training).items() if name not in _NO_MATTER}
        own = {name: getattr(self, name) for name in ("initial", "budget", "cycles", "min_score", "pool_size")}
        return plain({**own, "training": training})


def parse_strategy(text: str, config: StrategyConfig | None = None) -> tuple[str, StrategyConfig]:
    """A strategy's label and settings from its name, `huale`, or with the diversity step, `huale+diversity`.

    Args:
        text: also the label.
        config: all other settings; None for the defaults.

    Raises:
        ValueError: there is no strategy of that name.
    """
    name = text.removesuffix(DIVERSITY_SUFFIX)
    chosen = replace(config or StrategyConfig(), name=name, diversity=text.endswith(DIVERSITY_SUFFIX))
    try:
        create_strategy(chosen)
    except ValueError as error:
        hint = f"; what follows a name can only be {DIVERSITY_SUFFIX}" if "+" in text else ""
        raise ValueError(f"{error}{hint}") from None
    return text, chosen


def derived_seed(seed: int, purpose: str, cycle: int = 0) -> int:
    """A seed for one purpose, in [0, 2**31), so that what is drawn for one does not move what is drawn for another."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}/{cycle}".encode()).digest()[:4], "big") >> 1


def plain(value: Any) -> Any:
    """The value as JSON gives it back: tuples are lists, enums their values, paths and others text."""
    return json.loads(json.dumps(value, default=str))


def differences(found: dict[str, Any], expected: dict[str, Any], prefix: str = "") -> list[str]:
    """Where two documents differ, one phrase each: `budget: 20 there, 10 here`."""
    phrases: list[str] = []
    for name in dict.fromkeys((*found, *expected)):
        there, here = found.get(name), expected.get(name)
        if isinstance(there, dict) and isinstance(here, dict):
            phrases += differences(there, here, f"{prefix}{name}.")
        elif there != here:
            phrases.append(f"{prefix}{name}: {_short(there)} there, {_short(here)} here")
    return phrases


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def unique(names: Sequence[str]) -> list[str]:
    """The names in their order, each once."""
    return list(dict.fromkeys(names))
