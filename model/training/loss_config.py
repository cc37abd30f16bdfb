"""Which losses a training uses: one switch each, so that every one can be measured alone."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class EIoUMode(str, Enum):
    """The forms of the Emphasis IoU loss, see `eiou_of_giou`."""

    SAFE = "safe"
    LITERAL = "literal"
    STOP_GRADIENT = "stop_gradient"


@dataclass(frozen=True, slots=True)
class LossConfig:
    """Losses of one training. The default switches everything off: each family then has its library's own losses.

    The published description (Nguyen et al., IEEE Big Data 2023, HUALE) leaves the class-wise factors, the share of the
    mix and the variance head open; what is filled in here follows Yang et al., CVPR 2024 (PPAL, the shape of the
    factors) and He et al., CVPR 2019 (KL loss, a variance that cannot diverge).

    Attributes:
        emphasis: give classes that are still badly classified or localised more weight, `emphasis.EmphasisFactors`.
        eiou: the box loss that compares whole boxes; None keeps the library's.
        uncertainty: learn a variance for every side of a box together with its place.
        synchronic: `share * L_eiou + (1 - share) * L_regression` instead of their sum; needs `eiou`.
        gamma: exponent of EIoU, in (0, 1].
        emphasis_max: largest factor that a class can get, at least 0; its weight is then `1 + emphasis_max`.
        emphasis_curve: how early a class counts as difficult, at least 0.02; smaller is earlier.
        emphasis_momentum: of the running quality of a class, in [0, 1).
        emphasis_neutral: divide the weights by their mean, so that emphasis moves weight between classes and does not
            raise the learning rate: what an ablation needs.
        share: of EIoU in the synchronic mix, in [0, 1]. Mixing halves the box loss at 0.5.
        warm_up: steps without emphasis and without learned variances, while both would only measure noise.

    Raises:
        ValueError: a number is out of its range, or `synchronic` has nothing to mix.
    """

    emphasis: bool = False
    eiou: EIoUMode | None = None
    uncertainty: bool = False
    synchronic: bool = False
    gamma: float = 0.8
    emphasis_max: float = 0.5
    emphasis_curve: float = 0.3
    emphasis_momentum: float = 0.99
    emphasis_neutral: bool = False
    share: float = 0.5
    warm_up: int = 100

    def __post_init__(self) -> None:
        ranges = {
            "gamma": (0.0 < self.gamma <= 1.0, "in (0, 1]"),
            "emphasis_max": (self.emphasis_max >= 0.0, "at least 0"),
            # Far below this, exp(1 / curve) leaves float32, and every class is difficult anyway.
            "emphasis_curve": (self.emphasis_curve >= 0.02, "at least 0.02"),
            "emphasis_momentum": (0.0 <= self.emphasis_momentum < 1.0, "in [0, 1)"),
            "share": (0.0 <= self.share <= 1.0, "in [0, 1]"),
            "warm_up": (self.warm_up >= 0, "at least 0"),
        }
        for name, (valid, expected) in ranges.items():
            if not valid:
                raise ValueError(f"LossConfig.{name} is {getattr(self, name)}, expected {expected}")
        if self.eiou is not None and not isinstance(self.eiou, EIoUMode):
            raise ValueError(f"LossConfig.eiou is {self.eiou!r}, expected an EIoUMode or None")
        if self.synchronic and self.eiou is None:
            raise ValueError("LossConfig.synchronic mixes EIoU with the regression loss; choose a mode for `eiou`, too")

    @classmethod
    def huale(cls) -> LossConfig:
        """Everything that HUALE trains with."""
        return cls(emphasis=True, eiou=EIoUMode.SAFE, uncertainty=True, synchronic=True)

    @property
    def library_only(self) -> bool:
        """Whether nothing is switched on."""
        return not (self.emphasis or self.eiou is not None or self.uncertainty or self.synchronic)
