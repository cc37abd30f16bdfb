"""Settings that a worker on another machine takes over, so that `REDIS_URL` and `MODEL_DIR` are all it has to be given.

The cycle workers put them into Redis and keep them fresh; a worker without a key takes what it was not given. The key
of Label Studio is among them. Whoever may write to this Redis can make the workers run what they like, so it
has to be as safe as they are; and the registry, which is often shared with more people, never sees the key.
"""

from __future__ import annotations

import json
import logging
import time
from typing import Any

import redis
from pydantic import SecretStr

from al_backend.errors import ConfigError
from al_backend.jobs.queues import connect
from al_backend.settings import LearningSettings, Settings, load_settings

logger = logging.getLogger(__name__)

_KEY = "al:settings"
_EXPIRY = 120  # seconds; longer than a restart of the process that shares them
_LOOK_EVERY = 0.5
_SHARED = frozenset(LearningSettings.model_fields) | {
    "label_studio_url",
    "label_studio_api_key",
    "verify_ssl",
    "image_hosts",
    "image_max_mb",
    "image_timeout",
    "train_timeout",
    "publish_chunk",
    "publish_pause",
    "publish_rate",
    "keep_versions",
}


def share(connection: redis.Redis, settings: Settings) -> None:
    """Put the settings of this process where the workers of other machines find them; nothing without a key."""
    if settings.label_studio_api_key is None or not settings.share_settings:
        return
    given = {name: _plain(getattr(settings, name)) for name in sorted(settings.model_fields_set & _SHARED)}
    connection.set(_KEY, json.dumps(given), ex=_EXPIRY)


def adopt(settings: Settings, *, patience: float = 10.0) -> Settings:
    """These settings with what they leave open filled in from what is shared.

    Nothing is asked of Redis when they have a key of Label Studio: then they are meant as they are.

    Args:
        settings: of this process; what its environment says stays.
        patience: seconds to wait for a process that shares.

    Raises:
        ConfigError: Redis does not answer, or nobody shares anything.
    """
    if settings.label_studio_api_key is not None or not settings.redis_url:
        return settings
    connection = connect(settings).connection
    deadline = time.monotonic() + patience
    try:
        while (shared := connection.get(_KEY)) is None:
            if time.monotonic() > deadline:
                raise ConfigError(
                    "LABEL_STUDIO_API_KEY is not set, and no process on this Redis shares it. Start `al-backend up` or "
                    "`al-backend worker --queues reconcile` with the key first (and without AL_SHARE_SETTINGS=false), "
                    "or set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY here, too."
                )
            time.sleep(_LOOK_EVERY)
    finally:
        connection.close()
    found = json.loads(shared)
    own = {name: getattr(settings, name) for name in settings.model_fields_set}
    return load_settings(**{name: value for name, value in found.items() if name in _SHARED} | own)


def _plain(value: Any) -> Any:
    return value.get_secret_value() if isinstance(value, SecretStr) else value
