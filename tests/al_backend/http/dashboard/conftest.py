"""A seeded project behind an app, for tests without and with a browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from al_backend.jobs.queues import Queues
from al_backend.registry import Registry
from al_backend.settings import Settings
from tests.al_backend.http.dashboard.seeding import Seeded, seed_project


@pytest.fixture
def seeded(settings: Settings, registry: Registry, queues: Queues, tmp_path: Path) -> Seeded:
    """Project 5 with five versions and a published order; nothing waits in the queues."""
    made = seed_project(
        settings, registry, queues, tmp_path / "reef", overrides={"strategy": "huale", "diversity": True}
    )
    queues.connection.flushall()
    return made
