"""What somebody who may write to Redis can make a worker do: nothing that a job of ours does not."""

from __future__ import annotations

import base64
import json
import os
import pickle
import re
import zlib
from pathlib import Path
from typing import Any

import pytest
from rq.job import Job
from rq.serializers import resolve_serializer

from al_backend.jobs import client
from al_backend.jobs.queues import QueueName, Queues
from al_backend.jobs.rq_workers import FUNCTIONS, FreshWorker, WarmWorker
from al_backend.registry import Registry

pytestmark = pytest.mark.redis

PACKAGE = Path(__file__).parents[3] / "al_backend"


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(str(tmp_path / "registry"))


class Mark:
    """A pickle that makes a file when it is opened."""

    def __init__(self, path: Path) -> None:
        self._command = f"touch {path}"

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self._command,)


def work(queues: Queues, kind: type[WarmWorker] | type[FreshWorker] = WarmWorker) -> None:
    names = [queues.queue(name) for name in QueueName]
    kind(names, connection=queues.connection, serializer=queues.serializer).work(burst=True, logging_level="CRITICAL")


def write_job(queues: Queues, data: bytes, **fields: bytes) -> Job:
    """A job of our kind, whose fields somebody has written over."""
    job = queues.queue(QueueName.SCORE).enqueue("al_backend.jobs.ranking.score_shard", job_id="forged")
    written: dict[Any, Any] = {"data": data, **fields}
    queues.connection.hset(job.key, mapping=written)
    return job


def call(function: str, *arguments: object) -> bytes:
    return zlib.compress(json.dumps([function, None, list(arguments), {}]).encode())


@pytest.mark.parametrize(
    ("kind", "function"),
    [
        (FreshWorker, "os.system"),  # in a process of its own, with which the rule has to go
        (WarmWorker, "os.system"),
        (WarmWorker, "builtins.eval"),
        (WarmWorker, "al_backend.jobs.embedded_redis.start_child"),
        (WarmWorker, "al_backend.jobs.workers.main"),
        (WarmWorker, "al_backend.jobs.ranking.score_shard.__globals__"),
        (WarmWorker, ""),
    ],
)
def test_a_worker_calls_no_function_but_its_own(
    queues: Queues, tmp_path: Path, kind: type[WarmWorker] | type[FreshWorker], function: str
) -> None:
    job = write_job(queues, call(function, f"touch {tmp_path / 'mark'}"))
    work(queues, kind)
    assert job.get_status() == "failed"
    assert not (tmp_path / "mark").exists()
    result = job.latest_result()
    assert result is not None
    assert "no job of this backend" in (result.exc_string or "")


def test_callbacks_and_webhooks_of_a_job_are_not_looked_at(queues: Queues, tmp_path: Path) -> None:
    fields = {f"{when}_callback_name": b"os.system" for when in ("success", "failure", "stopped")}
    hooks = json.dumps([{"url": "http://127.0.0.1:9/", "events": ["failed"]}]).encode()
    write_job(queues, call("os.system", "x"), webhooks=hooks, **fields)
    read = WarmWorker.job_class.fetch("forged", connection=queues.connection, serializer=queues.serializer)
    assert read.webhooks == []
    assert (read.success_callback, read.failure_callback, read.stopped_callback) == (None, None, None)
    work(queues)
    assert read.get_status() == "failed"


@pytest.mark.parametrize("field", ["data", "meta", "result"])
def test_a_pickle_in_a_job_is_not_opened(queues: Queues, registry: Registry, tmp_path: Path, field: str) -> None:
    mark = tmp_path / "mark"
    evil = pickle.dumps(Mark(mark))
    job = write_job(queues, call("os.system", "x"), **({} if field == "data" else {field: evil}))
    if field == "data":
        queues.connection.hset(job.key, "data", zlib.compress(evil))
    work(queues)
    client.job_status(registry, queues, "forged")
    client.overview(queues)
    assert not mark.exists()


def test_a_pickle_in_a_result_is_not_opened(queues: Queues, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    job = queues.queue(QueueName.PREDICT).enqueue("al_backend.jobs.live.predict", job_id="forged")
    fields: dict[Any, Any] = {
        "type": "1",
        "return_value": base64.b64encode(pickle.dumps(Mark(mark))),
        "created_at": "1",
    }
    queues.connection.xadd(f"rq:results:{job.id}", fields)
    with pytest.raises(Exception, match=r".") as caught:
        job.latest_result()
    assert not isinstance(caught.value, AssertionError)
    assert not mark.exists()


def test_where_rq_falls_back_to_pickle_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="A pickle from Redis could run code"):
        resolve_serializer(None).loads(pickle.dumps(Mark(tmp_path / "mark")))
    assert not (tmp_path / "mark").exists()


def test_every_job_that_is_enqueued_somewhere_is_on_the_list() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    named = set(re.findall(r'"(al_backend\.jobs\.[a-z_]+\.[a-z_]+)"', sources))
    assert named == FUNCTIONS, "name new jobs in al_backend/jobs/rq_workers.py, or no worker takes them"
