"""SIGTERM and SIGINT in the middle of work: a bounded end, no orphan, and the work goes on where it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

import psutil
import pytest
from rq.job import Job

from al_backend.jobs.embedded_redis import EmbeddedRedis
from al_backend.jobs.liveness import has_worker
from al_backend.jobs.queues import QueueName, Queues
from tests.al_backend.faults.field import Field
from tests.al_backend.faults.test_kills import training_in_mid_epoch

pytestmark = [pytest.mark.redis, pytest.mark.slow]

GRACE = 20.0
"""Seconds that processes have to finish what they do."""


def gone(family: list[psutil.Process]) -> bool:
    return not [member for member in family if member.is_running() and member.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.labelstudio
def test_up_stops_during_a_training_and_goes_on_with_it_when_it_starts_again(field: Field) -> None:
    steps = 400
    project = field.project("Stopped in order", iterations=steps)
    training_in_mid_epoch(field, project, steps, after=55)  # its state is kept every 50 steps
    assert field.backend.pid is not None
    family = psutil.Process(field.backend.pid).children(recursive=True)
    started = time.monotonic()

    field.backend.stop()

    assert time.monotonic() - started < GRACE + 15, "an end without a bound"
    assert gone(family)
    restarted = datetime.now(timezone.utc)
    field.backend.start()
    field.wait_published(project, number=1)
    (version,) = field.registry.versions(project)
    assert version.training["iterations"] == steps
    # Where it came to its end within the grace, there was nothing to go on with.
    assert version.training["resumed_after"] >= 50 or version.created_at < restarted
    field.check(project, versions=1)
    field.close(project)


def test_a_worker_finishes_the_job_in_hand_and_leaves_the_others(
    queues: Queues, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    # Every process of Python looks for this name when it starts.
    (tmp_path / "sitecustomize.py").write_text(
        "from al_backend.jobs import rq_workers\nrq_workers.FUNCTIONS = {'time.sleep'}\n"
    )
    first, second = (
        queues.queue(QueueName.PUBLISH).enqueue("time.sleep", seconds, job_timeout=60, meta={"kind": "publish"})
        for seconds in (3, 4)
    )
    environment = os.environ | {
        "REDIS_URL": redis_server.url,
        "MODEL_DIR": str(tmp_path / "models"),
        "AL_DATA_DIR": str(tmp_path / "data"),
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).resolve().parents[3])]),
    }
    command = [sys.executable, "-m", "al_backend.cli", "worker", "--queues", "publish"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stderr=log, stdout=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not fetched(queues, first).is_started:
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.05)
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)  # Ctrl-C; SIGTERM goes the same way, see above
        assert process.wait(timeout=GRACE + 10) == 0
    finally:
        process.kill()
    assert gone(family)
    assert fetched(queues, first).is_finished, "what was in hand was not finished"
    assert fetched(queues, second).is_queued, "what was not begun has left the queue"
    assert not has_worker(queues.connection, QueueName.PUBLISH)
    assert "Traceback" not in (tmp_path / "log").read_text()


def fetched(queues: Queues, job: Job) -> Job:
    return Job.fetch(job.id, connection=queues.connection, serializer=queues.serializer)
