"""What goes wrong and when: a list that depends on nothing but the seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from tests.chaos.proxy import Trouble


class Victim(str, Enum):
    """What is killed with SIGKILL."""

    WEB = "web server"
    WEB_CHILD = "web server's child"
    INFERENCE = "inference worker"
    CYCLE = "cycle worker"
    PUBLISH = "publish worker"
    TRAIN = "train worker"
    TRAINING = "training process"
    REDIS = "Redis"
    BACKEND = "al-backend up itself"
    LABEL_STUDIO = "Label Studio"


@dataclass(frozen=True)
class Kill:
    """One process ends at once; `down` seconds later whoever looks after it may start it again."""

    pause: float
    victim: Victim
    down: float

    def __str__(self) -> str:
        return f"kill {self.victim.value}"


@dataclass(frozen=True)
class Flush:
    """Redis loses everything."""

    pause: float

    def __str__(self) -> str:
        return "empty Redis"


@dataclass(frozen=True)
class Spell:
    """A share of the requests to Label Studio is troubled for some seconds."""

    pause: float
    trouble: Trouble
    share: float
    seconds: float

    def __str__(self) -> str:
        return f"for {self.seconds:.1f} s Label Studio {self.trouble.value} ({self.share:.0%} of the requests)"


Fault = Kill | Flush | Spell

_DECK: tuple[Victim | Trouble | None, ...] = (
    *Victim,
    *Trouble,
    None,
    Victim.INFERENCE,
    Victim.CYCLE,
    Victim.PUBLISH,
    Victim.TRAINING,
)
"""Every kind of fault, the likelier ones twice; None empties Redis."""


def faults(seed: int, *, longest_spell: float = 8.0) -> Iterator[Fault]:
    """Faults without end, every kind in each round of `len(_DECK)`.

    Args:
        seed: the same one gives the same faults.
        longest_spell: seconds.
    """
    draw = random.Random(seed)
    while True:
        deck = list(_DECK)
        draw.shuffle(deck)
        for card in deck:
            pause = draw.uniform(0.3, 4.0)
            if card is None:
                yield Flush(pause)
            elif isinstance(card, Victim):
                yield Kill(pause, card, draw.uniform(0.0, 2.0))
            else:
                yield Spell(pause, card, draw.choice((0.3, 0.6, 1.0)), draw.uniform(2.0, longest_spell))
