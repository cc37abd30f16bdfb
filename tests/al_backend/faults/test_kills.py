"""`kill -9` of every process, and an emptied Redis, in the middle of their work: nobody has to do anything.

After each: the work is complete, the registry holds whole versions only, Label Studio one prediction per open task and
version, and the order is exact.
"""

from __future__ import annotations

import os
import signal

import psutil
import pytest

from tests.al_backend.faults.field import LABELLED, POOL, Field, alive

pytestmark = [pytest.mark.labelstudio, pytest.mark.redis, pytest.mark.slow]


OPEN = POOL - LABELLED


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def training_in_mid_epoch(field: Field, project: int, iterations: int, *, after: int = 0) -> int:
    """The process that trains, caught after step `after` and before its last."""

    def look() -> int | None:
        for job in field.jobs(project, "train"):
            progress = job["progress"] or {}
            if progress.get("phase") == "train" and after < progress["iteration"] < iterations:
                return field.runner(project, "train")
        return None

    return field.until("a training in mid-epoch", look, 90)


def ranking_in_mid_shard(field: Field, project: int) -> tuple[str, int]:
    """The ranking, and the process that measures one of its last shards."""

    def look() -> tuple[str, int] | None:
        rankings = field.registry.rankings(project)
        if not rankings:
            return None
        finished = len(field.registry.finished_shards(project, rankings[-1].id))
        runner = field.runner(project, "score")
        return (rankings[-1].id, runner) if runner and 0 < finished < rankings[-1].shards - 1 else None

    return field.until("a ranking in mid-shard", look, 120, every=0.01)


def test_training_process_in_mid_epoch(field: Field) -> None:
    project = field.project("Training killed", iterations=300)
    process = training_in_mid_epoch(field, project, 300, after=55)  # its state is kept every 50 steps
    assert process in {child.pid for child in psutil.Process(field.worker("train")).children(recursive=True)}

    kill(process)

    assert field.registry.versions(project) == []
    field.wait_published(project, number=1)
    (version,) = field.registry.versions(project)
    assert version.training["resumed_after"] >= 50
    assert version.training["iterations"] == 300
    field.check(project, versions=1)
    field.close(project)


def test_train_worker_takes_its_training_along(field: Field) -> None:
    project = field.project("Train worker killed", iterations=20)
    process = training_in_mid_epoch(field, project, 20)

    kill(field.worker("train"))

    field.until("the end of the training without a parent", lambda: not alive(process), 10)
    assert field.registry.versions(project) == []
    field.wait_published(project, number=1)
    field.check(project, versions=1)
    field.close(project)


def test_inference_worker_in_mid_shard(field: Field) -> None:
    project = field.project("Inference killed", image_size=256)
    ranking, process = ranking_in_mid_shard(field, project)
    assert process == field.worker("inference")

    kill(process)

    assert len(field.registry.finished_shards(project, ranking)) < field.registry.ranking(project, ranking).shards
    field.wait_published(project, number=1)
    assert [item.id for item in field.registry.rankings(project)] == [ranking]
    field.check(project, versions=1)
    field.close(project)


def test_publish_worker_while_it_publishes(field: Field) -> None:
    project = field.project("Publishing killed")

    def half_way() -> int | None:
        runner = field.runner(project, "publish")
        return runner if runner and 0 < sum(field.client.model_versions(project).values()) < OPEN else None

    process = field.until("half of the predictions imported", half_way, 120)
    assert process == field.worker("publish")

    kill(process)

    assert 0 < len(field.client.predictions(project)) < OPEN
    assert field.published(project) is None
    field.wait_published(project, number=1, seconds=60)
    field.check(project, versions=1)
    assert len(field.client.predictions(project)) == OPEN
    field.close(project)


def test_web_server_while_people_label(field: Field) -> None:
    project = field.project("Web server killed")
    field.wait_published(project, number=1)

    kill(field.web())
    field.label_more(project, 4)

    field.wait_published(project, number=2)
    field.until("the web server's answer", field.healthy, 30)
    field.check(project, versions=2)
    field.close(project)


def test_emptied_redis_in_mid_rank(field: Field) -> None:
    project = field.project("Redis emptied in a ranking", image_size=256)
    ranking, _ = ranking_in_mid_shard(field, project)

    field.backend.queues.connection.flushall()

    field.wait_published(project, number=1)
    assert [item.id for item in field.registry.rankings(project)] == [ranking]
    field.check(project, versions=1)
    field.close(project)


def test_emptied_redis_in_mid_epoch(field: Field) -> None:
    project = field.project("Redis emptied in a training", iterations=20)
    training_in_mid_epoch(field, project, 20)

    field.backend.queues.connection.flushall()

    field.wait_published(project, number=1)
    field.check(project, versions=1)
    field.close(project)
