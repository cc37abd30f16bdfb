"""An app over a real registry and real queues."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from al_backend.http.app import create_app
from al_backend.jobs.queues import QueueName, Queues
from al_backend.registry import Registry
from al_backend.settings import Settings, load_settings
from tests.al_backend.http.label_studio_bodies import LABEL_CONFIG


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Nothing answers at these addresses unless a test says so."""
    return load_settings(
        label_studio_url="http://127.0.0.1:9", model_dir=str(tmp_path / "registry"), data_dir=tmp_path / "data"
    )


@pytest.fixture
def registry(settings: Settings) -> Registry:
    return Registry(settings.model_dir)


@pytest.fixture
def client(settings: Settings, registry: Registry, queues: Queues) -> FlaskClient:
    return create_app(settings, registry=registry, queues=queues).test_client()


@pytest.fixture
def connected(registry: Registry) -> int:
    """Id of a project that is registered."""
    registry.register_project(5, label_config=LABEL_CONFIG, overrides={})
    return 5


@pytest.fixture
def enqueued(queues: Queues) -> Callable[[], list[tuple[str, Any]]]:
    """What waits in all queues: queue name and arguments."""

    def look() -> list[tuple[str, Any]]:
        return [(name.value, list(job.args)) for name in QueueName for job in queues.queue(name).get_jobs()]

    return look
