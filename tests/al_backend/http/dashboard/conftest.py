"""A seeded project behind an app, for tests without and with a browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from al_backend.jobs.embedded_redis import EmbeddedRedis
from al_backend.jobs.queues import Queues, connect_to
from al_backend.registry import Registry
from al_backend.settings import Settings, load_settings
from tests.al_backend.http.dashboard.seeding import Seeded, reopened, seed_project


@pytest.fixture(scope="session")
def seeded_once(redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seeded]:
    """Made once, because it takes seconds; tests get a copy."""
    folder = tmp_path_factory.mktemp("seeded")
    queues = connect_to(redis_server.start().url)
    settings = load_settings(
        label_studio_url="http://127.0.0.1:9", model_dir=str(folder / "registry"), data_dir=folder / "data"
    )
    overrides = {"strategy": "huale", "diversity": True}
    yield seed_project(settings, Registry(settings.model_dir), queues, folder / "reef", overrides=overrides)
    queues.connection.close()


@pytest.fixture
def seeded(seeded_once: Seeded, settings: Settings, queues: Queues) -> Seeded:
    """Project 5 with five versions and a published order; nothing waits in the queues."""
    shutil.copytree(Path(seeded_once.here.registry.location), settings.model_dir, dirs_exist_ok=True)
    return reopened(seeded_once, settings, Registry(settings.model_dir), queues)
