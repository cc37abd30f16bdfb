"""The queues: their names and the connection to Redis."""

from __future__ import annotations

import logging
from enum import Enum
from urllib.parse import urlsplit, urlunsplit

import redis
from rq import Queue
from rq.serializers import JSONSerializer

from al_backend.errors import ConfigError
from al_backend.jobs.embedded_redis import EmbeddedRedis, running_url
from al_backend.settings import Settings

__all__ = ["EmbeddedRedis", "QueueName", "Queues", "connect", "connect_to", "ping", "without_password"]

logger = logging.getLogger(__name__)

_ANSWER_TIMEOUT = 120.0  # longer than the longest blocking read, the wait of /predict for its worker
_JOB_TIMEOUT = 3600  # RQ's own default of 180 s would cut a ranking short


class QueueName(str, Enum):
    """What a worker can take."""

    RECONCILE = "reconcile"
    PUBLISH = "publish"
    TRAIN = "train"
    PREDICT = "predict"
    SCORE = "score"

    def __str__(self) -> str:
        """The name as users type it."""
        return self.value


class Queues:
    """The RQ queues over one Redis connection; jobs travel as JSON, because a pickle from Redis could run code."""

    serializer = JSONSerializer

    def __init__(self, connection: redis.Redis) -> None:
        """Nothing is asked of Redis yet."""
        self.connection = connection

    def queue(self, name: QueueName) -> Queue:
        """The queue of that name."""
        return Queue(name.value, connection=self.connection, serializer=self.serializer, default_timeout=_JOB_TIMEOUT)


def connect(settings: Settings) -> Queues:
    """The queues of `REDIS_URL`, else those of a running `al-backend up` on the same data folder.

    Raises:
        ConfigError: no Redis is named or running, or it does not answer.
    """
    url = settings.redis_url or running_url(settings.data_dir)
    if url is None:
        raise ConfigError(
            f"No Redis: REDIS_URL is not set and no `al-backend up` runs on {settings.data_dir}. "
            "Start `al-backend up` there, or set REDIS_URL (redis://host:6379/0)."
        )
    return connect_to(url)


def connect_to(url: str) -> Queues:
    """The queues of the Redis at `url` (redis://, rediss:// or unix://).

    Raises:
        ConfigError: the URL is malformed or nothing answers there.
    """
    try:
        connection = redis.Redis.from_url(
            url, socket_connect_timeout=2, socket_timeout=_ANSWER_TIMEOUT, health_check_interval=30
        )
        connection.ping()
    except ValueError as error:
        raise ConfigError(f"REDIS_URL is {without_password(url)!r}: {error}") from error
    except redis.RedisError as error:
        raise ConfigError(
            f"Redis at {without_password(url)} does not answer ({error}). Start it, or correct REDIS_URL."
        ) from error
    return Queues(connection)


def ping(queues: Queues) -> bool:
    """Whether Redis answers."""
    try:
        return bool(queues.connection.ping())
    except redis.RedisError as error:
        logger.debug("Redis does not answer: %s", error)
        return False


def without_password(url: str) -> str:
    """The URL as it may be printed."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    _, _, address = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{address}"))
