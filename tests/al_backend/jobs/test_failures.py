"""The last failure of each kind of work."""

from __future__ import annotations

import pytest
import redis

from al_backend.errors import RegistryError
from al_backend.jobs.failures import keeping_failure, last_failures
from al_backend.jobs.queues import Queues

pytestmark = pytest.mark.redis


def test_a_failure_is_kept_until_the_same_kind_of_work_succeeds(queues: Queues) -> None:
    connection = queues.connection
    assert last_failures(connection, 7) == {}
    for kind in ("train", "score"):
        with pytest.raises(RegistryError), keeping_failure(connection, 7, kind):
            raise RegistryError("the disk is full")
    expected = "RegistryError: the disk is full"
    assert last_failures(connection, 7) == {"score": expected, "train": expected}
    assert last_failures(connection, 8) == {}
    with keeping_failure(connection, 7, "score"):
        pass
    assert last_failures(connection, 7) == {"train": expected}


def test_a_redis_that_is_away_hides_no_failure() -> None:
    nobody = redis.Redis(unix_socket_path="/nonexistent")
    with pytest.raises(RegistryError), keeping_failure(nobody, 7, "train"):
        raise RegistryError("the disk is full")
    with keeping_failure(nobody, 7, "train"):
        pass
