"""What workers count and measure, kept in Redis until somebody scrapes it.

A number that cannot be written is left out: work never fails for want of a metric.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any, cast

import redis

from al_backend.metrics import DEFINITIONS, Definition

logger = logging.getLogger(__name__)

_COUNTS = "al:metrics:counts"
_VALUES = "al:metrics:values"


def add(connection: redis.Redis, definition: Definition, amount: float = 1.0, **labels: object) -> None:
    """Add to a counter, of this and of all other processes."""
    _write(lambda: connection.hincrbyfloat(_COUNTS, _key(definition.name, definition, labels), amount))


def observe(connection: redis.Redis, definition: Definition, value: float, **labels: object) -> None:
    """Add one value to a summary."""

    def write() -> object:
        pipeline = connection.pipeline(transaction=False)
        pipeline.hincrbyfloat(_COUNTS, _key(f"{definition.name}_count", definition, labels), 1)
        pipeline.hincrbyfloat(_COUNTS, _key(f"{definition.name}_sum", definition, labels), value)
        return pipeline.execute()

    _write(write)


def put(connection: redis.Redis, values: Mapping[Definition, float], **labels: object) -> None:
    """Set gauges that share their labels."""
    fields = {_key(definition.name, definition, labels): value for definition, value in values.items()}
    _write(lambda: connection.hset(_VALUES, mapping=cast("Mapping[Any, Any]", fields)))


def read(connection: redis.Redis) -> dict[str, list[tuple[tuple[str, ...], float]]]:
    """What was written: name (with `_count` and `_sum` for summaries) -> label values and number.

    What an earlier release wrote under other labels is left out.
    """
    found: dict[str, list[tuple[tuple[str, ...], float]]] = {}
    for key in (_COUNTS, _VALUES):
        stored = cast("dict[bytes, bytes]", connection.hgetall(key))
        for field, value in sorted(stored.items()):
            name, labels = json.loads(field)
            definition = DEFINITIONS.get(name) or DEFINITIONS.get(name.removesuffix("_count").removesuffix("_sum"))
            if definition is not None and len(definition.labels) == len(labels):
                found.setdefault(name, []).append((tuple(labels), float(value)))
    return found


def _key(name: str, definition: Definition, labels: Mapping[str, object]) -> str:
    if labels.keys() != set(definition.labels):
        raise ValueError(f"{name} has the labels {definition.labels}, got {tuple(labels)}")
    return json.dumps([name, [str(labels[label]) for label in definition.labels]])


def _write(write: Any) -> None:
    try:
        write()
    except redis.RedisError as error:
        logger.debug("A metric is not counted: %s", error)
