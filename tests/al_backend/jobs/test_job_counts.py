"""What workers count about their jobs, and what the log of a job carries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from al_backend import metrics
from al_backend.jobs import rq_workers, telemetry
from al_backend.jobs.embedded_redis import EmbeddedRedis
from al_backend.jobs.queues import QueueName, Queues
from al_backend.jobs.rq_workers import KILLED, WarmWorker

pytestmark = pytest.mark.redis


def counted(queues: Queues) -> dict[tuple[str, ...], float]:
    return {
        (name, *labels): value for name, rows in telemetry.read(queues.connection).items() for labels, value in rows
    }


def test_finished_and_failed_jobs_are_counted_by_kind_and_error(
    queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rq_workers, "FUNCTIONS", {"builtins.abs", "builtins.int"})
    queue = queues.queue(QueueName.SCORE)
    queue.enqueue("builtins.abs", -1, meta={"kind": "score"})
    queue.enqueue("builtins.abs", -2, meta={"kind": "score"})
    queue.enqueue("builtins.int", "no number", meta={"kind": "score"})
    queue.enqueue("nowhere.nothing", meta={"kind": "publish"})
    queue.enqueue("builtins.abs", -1)
    WarmWorker([queue], connection=queues.connection, serializer=queues.serializer).work(
        burst=True, logging_level="CRITICAL"
    )
    found = counted(queues)
    assert found["al_backend_jobs", "score", "finished"] == 2
    assert found["al_backend_jobs", "score", "failed"] == 1
    assert found["al_backend_jobs", "other", "finished"] == 1
    assert found["al_backend_job_failures", "score", "ValueError"] == 1
    assert found["al_backend_job_seconds_count", "score"] == 2
    assert found["al_backend_job_seconds_sum", "score"] >= 0
    assert found["al_backend_job_failures", "publish", "ConfigError"] == 1, "no function of ours"


def test_without_redis_nothing_is_counted_and_nothing_fails() -> None:
    nowhere = redis.Redis(unix_socket_path="/nonexistent/redis.sock", retry=Retry(NoBackoff(), 0))
    telemetry.add(nowhere, metrics.RANKINGS, project=1)
    telemetry.put(nowhere, {metrics.POOL: 1}, project=1)


def test_numbers_of_an_older_release_are_left_out(queues: Queues) -> None:
    queues.connection.hset("al:metrics:values", json.dumps(["al_backend_gone", ["7"]]), "1")
    queues.connection.hset("al:metrics:values", json.dumps(["al_backend_pool_tasks", []]), "1")
    telemetry.put(queues.connection, {metrics.POOL: 3}, project=7)
    assert telemetry.read(queues.connection) == {"al_backend_pool_tasks": [(("7",), 3.0)]}


@pytest.mark.slow
def test_the_process_of_a_training_logs_what_it_is_about_and_its_death_is_counted(
    queues: Queues, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    (tmp_path / "work.py").write_text(
        "import logging, os, signal\n"
        "def tell(): logging.getLogger('work').info('two\\nlines, key-5dc1f4')\n"
        "def die(): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    # Every process of Python looks for this name when it starts.
    (tmp_path / "sitecustomize.py").write_text(
        "from al_backend.jobs import rq_workers\nrq_workers.FUNCTIONS = {'work.tell', 'work.die'}\n"
    )
    queue = queues.queue(QueueName.TRAIN)
    queue.enqueue("work.tell", job_id="train-7", meta={"kind": "train", "project": 7, "request": "trace-1"})
    queue.enqueue("work.die", job_id="train-8", meta={"kind": "train", "project": 8})
    code = (
        "import sys; from al_backend import logs; from al_backend.settings import load_settings\n"
        "from al_backend.jobs.queues import QueueName, connect; from al_backend.jobs.rq_workers import FreshWorker\n"
        "settings = load_settings(); logs.configure(settings); queues = connect(settings)\n"
        "worker = FreshWorker([queues.queue(QueueName.TRAIN)], connection=queues.connection,"
        " serializer=queues.serializer)\n"
        "worker.work(burst=True, logging_level='INFO')\n"
    )
    environment = os.environ | {
        "REDIS_URL": redis_server.url,
        "LOG_FORMAT": "json",
        "LABEL_STUDIO_API_KEY": "key-5dc1f4",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).resolve().parents[3])]),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.stdout == "", "RQ printed something in a format of its own"
    (said,) = [event for event in events if event["logger"] == "work"]
    assert said["message"].split() == ["two", "lines,", "***"]
    assert {"project": 7, "job": "train-7", "kind": "train", "request": "trace-1"}.items() <= said.items()
    (died,) = [event for event in events if "terminated unexpectedly" in event["message"]]
    assert died["project"] == 8
    found = counted(queues)
    assert found["al_backend_jobs", "train", "finished"] == 1
    assert found["al_backend_job_failures", "train", KILLED] == 1
