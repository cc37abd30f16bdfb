"""Settings of strategies, as plain values, so that they can be stored beside a ranking and compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from model.acquisition.aggregation import Aggregation
from model.acquisition.uncertainty import Uncertainty


class EmptyPolicy(str, Enum):
    """Where images without detections go; the published methods disagree."""

    FIRST = "first"
    LAST = "last"


class CategoryDiversity(str, Enum):
    """Two readings of HUALE's second metric, whose formula is not published."""

    SPREAD = "spread"
    DISAGREEMENT = "disagreement"


class Regions(str, Enum):
    """What AL-VAE's autoencoder looks at."""

    OBJECTS = "objects"
    IMAGE = "image"


@dataclass(frozen=True, slots=True)
class StrategyConfig:
    """Settings of a strategy; each strategy takes those that concern it.

    Attributes:
        name: which strategy.
        uncertainty: of one detection: `least_confidence`, `margin` or `entropy`.
        aggregation: over the detections of an image: `sum`, `mean` or `max`.
        class_weights: whether a detection counts by the inverse frequency of its class.
        empty_policy: `first` or `last`: where images without detections go.
        retrieval: candidates of a strategy with two stages, as a multiple of the budget, at least 1; None for the
            strategy's own (HUALE and PPAL 4, CALD 1.2).
        huale_entropy: how the entropies of an image's boxes become the one that retrieves: `max`, `mean` or `sum`.
        huale_weights: of Semantic Affinity, Category Diversity, Overlap Ratio and Localization Confidence; 0 leaves a
            metric out, a negative weight turns its sign. Not all 0.
        huale_category: `spread` of the views' class histograms over classes, or `disagreement` of the two.
        cald_beta: the most informative value of CALD's consistency, in [0, 2].
        vae_alpha: weight of the novelty in AL-VAE, at least 0; 0 does without an autoencoder.
        vae_beta: weight of the detection loss, at least 0; not both 0.
        vae_regions: what the autoencoder is trained on and judges: `objects`, or the whole `image` as in the source.
        vae_iterations: optimizer steps of its training, at least 1.
        diversity: whether `diversity.Diversified` rearranges the top of the ranking.
        exploration: share of the budget that is drawn at random, with `diversity`; in [0, 1].
        empty_quota: share of the budget for images without detections, with `diversity`; in [0, 1].
        near_duplicate: distance of two images, as a share of the pool's typical distance from its mean, up to which
            only one of them is chosen, with `diversity`; 0 leaves out exact copies only. Of 76 pairs within bursts of
            drawn scenes (YOLOv5n) 0.5 found two fifths and 0.6 three quarters, without a false one.

    Raises:
        ValueError: a value is none of those.
    """

    name: str = "uncertainty"
    uncertainty: str = "entropy"
    aggregation: str = "max"
    class_weights: bool = True
    empty_policy: str = "last"
    retrieval: float | None = None
    huale_entropy: str = "max"
    huale_weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    huale_category: str = "spread"
    cald_beta: float = 1.3
    vae_alpha: float = 0.5
    vae_beta: float = 0.5
    vae_regions: str = "objects"
    vae_iterations: int = 1000
    diversity: bool = False
    exploration: float = 0.05
    empty_quota: float = 0.05
    near_duplicate: float = 0.5

    def __post_init__(self) -> None:
        choices: dict[str, type[Enum]] = {
            "uncertainty": Uncertainty,
            "aggregation": Aggregation,
            "empty_policy": EmptyPolicy,
            "huale_entropy": Aggregation,
            "huale_category": CategoryDiversity,
            "vae_regions": Regions,
        }
        for field, kind in choices.items():
            allowed = [member.value for member in kind]
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field} is {getattr(self, field)!r}, expected one of: {', '.join(allowed)}")
        ranges: Mapping[str, tuple[float, float]] = {
            "retrieval": (1.0, math.inf),
            "cald_beta": (0.0, 2.0),
            "vae_alpha": (0.0, math.inf),
            "vae_beta": (0.0, math.inf),
            "vae_iterations": (1.0, math.inf),
            "exploration": (0.0, 1.0),
            "empty_quota": (0.0, 1.0),
            "near_duplicate": (0.0, math.inf),
        }
        for field, (low, high) in ranges.items():
            value = getattr(self, field)
            if value is not None and not (math.isfinite(value) and low <= value <= high):
                raise ValueError(f"{field} is {value}, expected a number from {low:g} to {high:g}")
        weights = tuple(float(weight) for weight in self.huale_weights)  # a list, where it comes from JSON
        if len(weights) != 4 or not all(map(math.isfinite, weights)) or not any(weights):
            raise ValueError(f"huale_weights is {weights}, expected four finite numbers that are not all 0")
        object.__setattr__(self, "huale_weights", weights)
        if not self.vae_alpha and not self.vae_beta:
            raise ValueError("vae_alpha and vae_beta are both 0, expected at least one of them to be larger")

    def candidates(self, budget: int, default: float) -> int:
        """How many images a strategy's first stage lets through to its second.

        Args:
            budget: images that a person labels per cycle.
            default: the strategy's own multiple of it.
        """
        return max(1, math.ceil((default if self.retrieval is None else self.retrieval) * budget))
