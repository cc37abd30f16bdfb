"""How fast all processes of all machines together write into Label Studio."""

from __future__ import annotations

import time
from collections.abc import Callable

import redis

_NEXT = "al:write:next"
_KEPT = 600_000  # milliseconds; longer than any turn is booked ahead

_BOOK = """
local now = redis.call('TIME')
now = tonumber(now[1]) + tonumber(now[2]) / 1000000
local turn = math.max(now, tonumber(redis.call('GET', KEYS[1]) or '0'))
redis.call('SET', KEYS[1], string.format('%.6f', turn + tonumber(ARGV[1])), 'PX', ARGV[2])
return string.format('%.6f', turn - now)
"""


class Pace:
    """Turns, kept in Redis: each lasts as long as its writer says, and nobody writes before the one before has ended.

    Args:
        connection: gives the Redis that all processes share; asked for with the first turn.
    """

    def __init__(self, connection: Callable[[], redis.Redis]) -> None:
        self._connection = connection

    def __call__(self, seconds: float) -> None:
        """Wait for a turn that lasts so many seconds."""
        wait = self._connection().eval(_BOOK, 1, _NEXT, repr(seconds), str(_KEPT))
        time.sleep(float(wait))
