"""What all tests share: a real Redis, and the real Label Studio of `labelstudio_fixture.py`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from al_backend.jobs.embedded_redis import EmbeddedRedis, find_redis_server
from al_backend.jobs.queues import Queues, connect_to

pytest_plugins = ["tests.labelstudio_fixture"] if (Path(__file__).parent / "labelstudio_fixture.py").exists() else []


def missing(what: str) -> None:
    """Skip for want of a server; with `AL_TEST_NO_SKIP=1` (CI) fail, because there nothing may go untested."""
    if os.environ.get("AL_TEST_NO_SKIP") == "1":
        pytest.fail(f"{what} is missing, and AL_TEST_NO_SKIP=1 forbids skipping")
    pytest.skip(f"{what} is missing")


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """A real Redis of this test run alone."""
    if find_redis_server() is None:
        missing("redis-server")
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def queues(redis_server: EmbeddedRedis) -> Iterator[Queues]:
    """Queues over the real Redis, empty at the start."""
    connected = connect_to(redis_server.start().url)
    connected.connection.flushall()
    yield connected
    connected.connection.close()
