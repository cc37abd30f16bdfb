"""What a worker on another machine is told, and what it is not."""

from __future__ import annotations

import json

import pytest

from al_backend.errors import ConfigError
from al_backend.jobs.embedded_redis import EmbeddedRedis
from al_backend.jobs.queues import Queues
from al_backend.jobs.shared_settings import adopt, share
from al_backend.settings import Settings, load_settings

pytestmark = pytest.mark.redis

KEY = "a-key-of-label-studio"


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LABEL_STUDIO_API_KEY", "LABEL_STUDIO_URL", "REDIS_URL", "MODEL_DIR", "DEVICE", "AL_ITERATIONS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def lone(redis_server: EmbeddedRedis, queues: Queues) -> Settings:
    """Of a worker that was given what the documentation asks for, and a device."""
    return load_settings(redis_url=redis_server.url, model_dir="s3://bucket/models", device="cuda:1")


def test_redis_and_the_registry_are_all_that_a_worker_is_given(queues: Queues, lone: Settings) -> None:
    main = load_settings(
        label_studio_url="http://ls.example:8080",
        label_studio_api_key=KEY,
        iterations=77,
        image_hosts=("cdn.example",),
        basic_auth_pass="web-only",
        webhook_secret="web-only",
        model_dir="/of/the/main/machine",
        device="cpu",
    )
    share(queues.connection, main)
    found = adopt(lone)
    assert found.label_studio_api_key is not None
    assert found.label_studio_api_key.get_secret_value() == KEY
    assert (found.label_studio_url, found.iterations) == ("http://ls.example:8080", 77)
    assert found.image_hosts == ("cdn.example",)
    assert (found.model_dir, found.device, found.redis_url) == ("s3://bucket/models", "cuda:1", lone.redis_url)
    shared = queues.connection.get("al:settings")
    assert isinstance(shared, bytes)
    assert set(json.loads(shared)) == {"label_studio_url", "label_studio_api_key", "iterations", "image_hosts"}
    assert 0 < int(str(queues.connection.ttl("al:settings"))) <= 120


def test_what_the_worker_itself_was_told_counts(queues: Queues, lone: Settings) -> None:
    share(queues.connection, load_settings(label_studio_api_key=KEY, iterations=77, batch_size=3))
    own = load_settings(redis_url=lone.redis_url, iterations=5)
    assert (adopt(own).iterations, adopt(own).batch_size) == (5, 3)
    with_key = load_settings(redis_url=lone.redis_url, label_studio_api_key="another")
    assert adopt(with_key) is with_key


@pytest.mark.parametrize("options", [{}, {"label_studio_api_key": KEY, "share_settings": False}])
def test_nothing_is_shared_without_a_key_or_when_it_is_not_wished(
    queues: Queues, lone: Settings, options: dict[str, object]
) -> None:
    share(queues.connection, load_settings(**options))
    assert queues.connection.get("al:settings") is None
    with pytest.raises(ConfigError, match=r"LABEL_STUDIO_API_KEY is not set.*AL_SHARE_SETTINGS"):
        adopt(lone, patience=0)
