"""How fast several writers write together."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from al_backend.jobs.pace import Pace
from al_backend.jobs.queues import Queues

pytestmark = pytest.mark.redis


def test_turns_of_several_writers_follow_each_other(queues: Queues) -> None:
    began: list[float] = []

    def write() -> None:
        pace = Pace(lambda: queues.connection)
        for _ in range(5):
            pace(0.05)
            began.append(time.monotonic())

    started = time.monotonic()
    writers = [threading.Thread(target=write) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    # The first turn begins at once, each of the others when the one before has ended.
    assert max(began) - started >= 14 * 0.05 - 0.01


def test_the_first_turn_begins_at_once_and_a_long_one_keeps_the_next_waiting(queues: Queues) -> None:
    pace = Pace(lambda: queues.connection)
    moments = [time.monotonic()]
    for seconds in (0.5, 0.0, 0.0):
        pace(seconds)
        moments.append(time.monotonic())
    first, second, third = (after - before for before, after in itertools.pairwise(moments))
    assert first < 0.4
    assert second > 0.4 - first
    assert third < 0.4
