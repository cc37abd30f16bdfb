"""What `cycle.decide` answers: what has to be started, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Promote:
    """Make a version active that passed the gate, whose training was killed before it could."""

    version: str


@dataclass(frozen=True, slots=True)
class Train:
    """Train on all labels."""

    reason: str
    from_scratch: bool


@dataclass(frozen=True, slots=True)
class ColdStart:
    """Make an untrained version, so that the queue has an order before the first training."""


@dataclass(frozen=True, slots=True)
class StartRanking:
    """List the pool and measure it with the active version."""

    version: str


@dataclass(frozen=True, slots=True)
class ScoreShards:
    """Measure these shards of a ranking; `closer` ones belong to its second phase."""

    ranking: str
    shards: tuple[int, ...]
    closer: bool = False


@dataclass(frozen=True, slots=True)
class Choose:
    """List the images of a measured ranking that its second phase looks at."""

    ranking: str


@dataclass(frozen=True, slots=True)
class Publish:
    """Order a measured ranking and make Label Studio serve it."""

    ranking: str


@dataclass(frozen=True, slots=True)
class ScoreNew:
    """Measure tasks that arrived after the ranking and place them in it."""

    ranking: str
    tasks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Repoint:
    """Set the project's model version back to the published one."""

    model_version: str


@dataclass(frozen=True, slots=True)
class Retire:
    """Delete predictions of our former model versions, and superseded duplicates, slowly."""

    model_versions: tuple[str, ...]
    predictions: tuple[int, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Tidy:
    """Remove weights and rankings that nothing needs any more."""


Action = (
    Promote | Train | ColdStart | StartRanking | ScoreShards | Choose | Publish | ScoreNew | Repoint | Retire | Tidy
)
