"""What machines with different clocks compare, they take from Redis' clock."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from al_backend.jobs import clock
from al_backend.jobs.client import job_status, request_ranking, request_training
from al_backend.jobs.clock import by_clock_of, now
from al_backend.jobs.queues import Queues
from al_backend.registry import Registry

pytestmark = pytest.mark.redis

A_LITTLE = timedelta(seconds=5)


class Slow:
    """`datetime` on a machine whose clock is three hours behind."""

    def __getattr__(self, name: str) -> Any:
        return getattr(datetime, name)

    @staticmethod
    def now(zone: timezone) -> datetime:
        return datetime.now(zone) - timedelta(hours=3)


@pytest.fixture
def _behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "datetime", Slow())


@pytest.mark.usefixtures("_behind")
def test_a_job_goes_by_redis_clock_and_gives_its_own_back(queues: Queues) -> None:
    right = datetime.now(timezone.utc)
    assert abs(now() - right) > timedelta(hours=2)
    with by_clock_of(queues.connection):
        assert abs(now() - right) < A_LITTLE
    assert abs(now() - right) > timedelta(hours=2)


@pytest.mark.usefixtures("_behind")
def test_a_request_of_a_machine_that_is_behind_is_no_older_than_what_ran_before(queues: Queues, tmp_path: Path) -> None:
    registry = Registry(str(tmp_path))
    right = datetime.now(timezone.utc)
    for request in (request_training(registry, queues, 7), request_ranking(registry, queues, 7)):
        asked = datetime.fromtimestamp(int(request.rpartition("-")[2]) / 1000, timezone.utc)
        assert abs(asked - right) < A_LITTLE
        assert job_status(registry, queues, request) == "queued"
