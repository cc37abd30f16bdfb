"""The queues: their names and the connection to Redis."""

from __future__ import annotations

import logging
from enum import Enum
from typing import Any, NoReturn

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq import Queue
from rq.serializers import DefaultSerializer, JSONSerializer

from al_backend.errors import ConfigError
from al_backend.jobs.embedded_redis import EmbeddedRedis, running_url
from al_backend.masking import masked, masked_url
from al_backend.settings import Settings

__all__ = ["EmbeddedRedis", "QueueName", "Queues", "connect", "connect_to", "ping"]

logger = logging.getLogger(__name__)

_ANSWER_TIMEOUT = 120.0  # of the workers, who can wait for a Redis that is busy
_FIRST_ANSWER = 5.0
_JOB_TIMEOUT = 3600  # RQ's own default of 180 s would cut a ranking short


def _refuse_pickle(*_: Any) -> NoReturn:
    raise ValueError("A pickle from Redis could run code and is not opened; jobs of this backend are JSON.")


# RQ forgets our serializer in places, such as the job of an execution, and falls back to pickle there.
DefaultSerializer.loads = staticmethod(_refuse_pickle)


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
        self._impatient: dict[float, Queues] = {}

    def within(self, seconds: float) -> Queues:
        """The same queues over connections on which every answer has to come within so many seconds.

        For everybody for whom a person or Label Studio waits: a Redis that hangs would hold them for minutes. A
        connection that broke is made anew once; who got no answer in time is not asked again.
        """
        known = self._impatient.get(seconds)
        if known is None:
            pool = self.connection.connection_pool
            options = pool.connection_kwargs | {
                "socket_timeout": seconds,
                "socket_connect_timeout": seconds,
                "retry": Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
            }
            impatient = redis.ConnectionPool(connection_class=pool.connection_class, **options)
            known = self._impatient.setdefault(seconds, Queues(redis.Redis(connection_pool=impatient)))
        return known

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
        queues = Queues(connection)
        queues.within(_FIRST_ANSWER).connection.ping()
    except ValueError:
        # The reason quotes parts of an address that cannot be taken apart, and they may be of the password.
        raise ConfigError(f"REDIS_URL is {masked_url(url)!r}, expected redis://host:6379/0 or the like.") from None
    except redis.RedisError as error:
        raise ConfigError(
            f"Redis at {masked_url(url)} does not answer ({masked(str(error))}). Start it, or correct REDIS_URL."
        ) from error
    return queues


def ping(queues: Queues) -> bool:
    """Whether Redis answers."""
    try:
        return bool(queues.connection.ping())
    except redis.RedisError as error:
        logger.debug("Redis does not answer: %s", error)
        return False
