"""The health check of a worker's container: `python -m al_backend.jobs.alive predict,score`.

Exit status 0 when a living process of this container takes every one of the queues. It looks for the heartbeats that
the workers write to Redis, so a process that hangs, or that has lost Redis, is not alive.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from al_backend.errors import BackendError
from al_backend.jobs.liveness import place, workers
from al_backend.jobs.queues import connect
from al_backend.masking import masked
from al_backend.settings import load_settings


def missing(queue_names: Sequence[str]) -> list[str]:
    """Those of the queues that no living process of this place takes.

    Raises:
        ConfigError: Redis does not answer.
    """
    here = place()
    taken = {
        name
        for worker in workers(connect(load_settings()).connection)
        if worker["place"] == here
        for name in worker["queues"]
    }
    return [name for name in queue_names if name not in taken]


def main(arguments: Sequence[str]) -> int:
    """Look once; says what is wrong on stderr."""
    try:
        found = missing([name for argument in arguments for name in argument.split(",")])
    except BackendError as error:
        print(masked(str(error)), file=sys.stderr)
        return 1
    if found:
        print(f"No living worker of this container takes {', '.join(found)}.", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
