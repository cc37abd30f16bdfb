"""`/predict`: as many results as tasks, or a clear refusal; never a hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient

from al_backend.http.app import create_app
from al_backend.jobs import client as jobs
from al_backend.jobs.queues import Queues
from al_backend.registry import Registry
from al_backend.settings import Settings

pytestmark = pytest.mark.redis

TASK = {"id": 7, "data": {"image": "/data/upload/7.png"}, "annotations": [{"result": []}], "predictions": []}
GOOD = {"result": [], "score": 0.5, "model_version": "v1"}


def body(*tasks: object, project: object = "5.1795253337") -> dict[str, Any]:
    return {"tasks": list(tasks), "project": project, "label_config": "<View/>", "params": {"context": None}}


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """An inference worker that answers at once; what it was asked."""
    asked: list[Any] = []

    def predict(queues: Queues, project: int, tasks: list[dict[str, Any]], *, timeout: float) -> list[dict[str, Any]]:
        asked.append((project, tasks, timeout))
        return [GOOD | {"score": (index + 0.5) / len(tasks)} for index in range(len(tasks))]

    monkeypatch.setattr(jobs, "predict", predict)
    return asked


def test_every_task_gets_its_result_in_order(client: FlaskClient, connected: int, worker: list[Any]) -> None:
    tasks = [TASK | {"id": number} for number in (9, 7, 8)]

    answer = client.post("/predict", json=body(*tasks))

    assert answer.status_code == 200
    assert answer.json is not None
    assert [result["score"] for result in answer.json["results"]] == [0.5 / 3, 1.5 / 3, 2.5 / 3]
    project, sent, timeout = worker[0]
    assert project == connected
    assert sent == [{"id": number, "data": TASK["data"]} for number in (9, 7, 8)]
    assert timeout < 100


def test_tasks_without_an_id_stay_apart(client: FlaskClient, connected: int, worker: list[Any]) -> None:
    task = {"data": TASK["data"]}

    assert client.post("/predict", json=body(task, task)).status_code == 200
    assert [sent["id"] for sent in worker[0][1]] == [-1, -2]


def test_no_tasks_need_no_worker(client: FlaskClient) -> None:
    answer = client.post("/predict", json=body(project="77"))

    assert (answer.status_code, answer.json) == (200, {"results": []})


def test_without_a_worker_it_is_refused_within_two_seconds(client: FlaskClient, connected: int) -> None:
    started = time.monotonic()
    answer = client.post("/predict", json=body(TASK))

    assert time.monotonic() - started < 2
    assert answer.status_code == 503
    assert answer.json is not None
    assert "al-backend worker" in answer.json["error"]


@pytest.mark.parametrize(
    ("request_body", "words"),
    [
        ({"project": "5"}, '"tasks" is missing'),
        ({"tasks": {"id": 1}, "project": "5"}, '"tasks" is an object'),
        (body(5), '"tasks[0]" is a number'),
        (body(TASK, None), '"tasks[1]" is missing'),
        (body(TASK | {"id": "7"}), "tasks[0].id"),
        (body(TASK | {"id": True}), "tasks[0].id"),
        (body(TASK | {"data": "x.png"}), "tasks[0].data"),
        (body(TASK, project=None), '"project" is missing'),
        (body(TASK, project={"id": "x"}), "project.id"),
    ],
)
def test_wrong_types_are_refused(
    client: FlaskClient,
    connected: int,
    enqueued: Callable[[], list[Any]],
    request_body: dict[str, Any],
    words: str,
) -> None:
    answer = client.post("/predict", json=request_body)

    assert answer.status_code == 400
    assert answer.json is not None
    assert words in answer.json["error"]
    assert enqueued() == []


def test_an_unknown_project_is_refused(client: FlaskClient, worker: list[Any]) -> None:
    assert client.post("/predict", json=body(TASK, project="77")).status_code == 404
    assert worker == []


@pytest.mark.parametrize(
    "results",
    [
        [],
        [GOOD, GOOD],
        [GOOD | {"score": None}],
        [GOOD | {"score": float("nan")}],
        [GOOD | {"score": float("inf")}],
        [GOOD | {"score": 1.5}],
        [GOOD | {"score": True}],
        [GOOD | {"model_version": None}],
        [GOOD | {"result": None}],
        [{}],
    ],
)
def test_a_broken_answer_of_the_worker_never_reaches_label_studio(
    client: FlaskClient, connected: int, monkeypatch: pytest.MonkeyPatch, results: list[dict[str, Any]]
) -> None:
    monkeypatch.setattr(jobs, "predict", lambda *args, **kwargs: results)

    answer = client.post("/predict", json=body(TASK))

    assert answer.status_code == 503
    assert answer.json is not None
    assert "inference worker" in answer.json["error"]


def test_a_failed_prediction_says_why(client: FlaskClient, connected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise jobs.PredictionFailed("The inference worker failed: CUDA out of memory")

    monkeypatch.setattr(jobs, "predict", fail)

    answer = client.post("/predict", json=body(TASK))

    assert answer.status_code == 503
    assert answer.json == {"error": "The inference worker failed: CUDA out of memory"}


def test_waiting_predictions_leave_threads_for_health(
    settings: Settings, registry: Registry, queues: Queues, connected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, waiting = threading.Event(), threading.Semaphore(0)

    def wait(*args: object, **kwargs: object) -> list[dict[str, Any]]:
        waiting.release()
        release.wait(20)
        return [GOOD]

    monkeypatch.setattr(jobs, "predict", wait)
    app = create_app(settings.model_copy(update={"threads": 4}), registry=registry, queues=queues)
    threads = [threading.Thread(target=app.test_client().post, args=("/predict",), kwargs={"json": body(TASK)})] * 1
    threads += [threading.Thread(target=app.test_client().post, args=("/predict",), kwargs={"json": body(TASK)})]
    for thread in threads:
        thread.start()
    assert waiting.acquire(timeout=10)
    assert waiting.acquire(timeout=10)

    refused = app.test_client().post("/predict", json=body(TASK))
    release.set()
    for thread in threads:
        thread.join()

    assert refused.status_code == 503
    assert refused.json is not None
    assert "THREADS" in refused.json["error"]
    assert app.test_client().post("/predict", json=body(TASK)).status_code == 200
