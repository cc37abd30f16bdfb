"""The label-studio-ml class under the release of label-studio-ml that is installed, and its calls in the 2.x form."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from label_studio_ml.api import init_app
from label_studio_ml.model import LabelStudioMLManager
from PIL import Image

from al_backend.cycle import UNTRAINED
from al_backend.errors import BackendError, LabelConfigError
from al_backend.jobs.client import pending_key
from al_backend.jobs.context import context
from al_backend.jobs.documents import TRAIN_REQUEST
from al_backend.jobs.embedded_redis import EmbeddedRedis
from al_backend.jobs.queues import QueueName, Queues
from al_backend.plugin import ActiveLearningBackend
from al_backend.registry import GateVerdict, Registry, Version
from model.data.reef import draw_scene
from model.detectors.factory import create, find_base

pytestmark = pytest.mark.redis

PROJECT = 5
CLASSES = ("crab", "fish")
LABEL_CONFIG = (
    '<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image">'
    '<Label value="crab"/><Label value="fish"/></RectangleLabels></View>'
)
SETUP = {
    "project": f"{PROJECT}.1795253337",
    "schema": LABEL_CONFIG,
    "hostname": "http://localhost:8080",
    "access_token": "unused",
    "model_version": "",
}


def data_uri(index: int) -> str:
    buffer = io.BytesIO()
    Image.fromarray(draw_scene(index, seed=1, size=(64, 96)).image).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def task(number: int, image: str) -> dict[str, Any]:
    return {"id": number, "data": {"image": image}, "project": PROJECT, "annotations": [], "predictions": []}


def start_training() -> dict[str, Any]:
    return {"action": "START_TRAINING", "project": {"id": PROJECT, "label_config": LABEL_CONFIG, "model_version": ""}}


@pytest.fixture
def registry(
    tmp_path: Path, queues: Queues, redis_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Registry]:
    """The registry of a process that is configured as users configure it: by its environment."""
    for name in ("REDIS_URL", "LABEL_STUDIO_HOST", "LABEL_STUDIO_ACCESS_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    environment = {
        "MODEL_DIR": str(tmp_path / "registry"),
        "AL_DATA_DIR": str(tmp_path / "data"),
        "REDIS_URL": redis_server.url,
        "LABEL_STUDIO_URL": "http://127.0.0.1:1",
        "LABEL_STUDIO_API_KEY": "0" * 40,
        "DEVICE": "cpu",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    context.cache_clear()
    yield context().registry
    context().images.close()
    context.cache_clear()


@pytest.fixture
def app(registry: Registry, tmp_path: Path) -> FlaskClient:
    """label-studio-ml's own server around our class."""
    LabelStudioMLManager._current_model = {}
    client: FlaskClient = init_app(ActiveLearningBackend, model_dir=str(tmp_path / "jobs")).test_client()
    return client


@pytest.fixture
def version(registry: Registry, tmp_path: Path) -> Version:
    """A small but real version, active."""
    detector = create("yolov5n", CLASSES, image_size=96, device="cpu", base=find_base("yolov5n", None))
    detector.save(tmp_path / "weights")
    moment = datetime.now(timezone.utc)
    made = Version(
        name="yolov5n-v1-abcdef",
        number=1,
        project=PROJECT,
        detector="yolov5n",
        classes=CLASSES,
        created_at=moment,
        snapshot_at=moment,
        labels={},
        label_counts=dict.fromkeys(CLASSES, 1),
        train_images=1,
        validation_images=0,
        boxes=1,
        training={},
        settings={},
        gate=GateVerdict(promoted=True, reason="the first one"),
    )
    registry.add_version(made, tmp_path / "weights")
    registry.promote(PROJECT, made.name, reason="the first one")
    return made


def reconciles(queues: Queues) -> int:
    return int(queues.queue(QueueName.RECONCILE).count)


def wait_for(condition: Callable[[], object], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_setup_takes_our_labelling_config_and_names_what_is_wrong_with_another(app: FlaskClient) -> None:
    assert app.get("/health").status_code == 200
    assert app.post("/setup", json=SETUP).status_code == 200
    refused = app.post("/setup", json=SETUP | {"schema": '<View><Text name="t" value="$text"/></View>'})

    assert refused.status_code == 500
    assert "LabelConfigError" in refused.get_data(as_text=True)
    assert "RectangleLabels" in refused.get_data(as_text=True)


def test_predict_answers_every_task_with_the_active_version(
    app: FlaskClient, registry: Registry, version: Version
) -> None:
    app.post("/setup", json=SETUP)
    tasks = [task(3, data_uri(0)), task(1, data_uri(1)), task(2, "data:image/png;base64,broken")]

    answer = app.post("/predict", json={"tasks": tasks, "project": SETUP["project"], "label_config": LABEL_CONFIG})

    assert answer.status_code == 200, answer.get_data(as_text=True)
    results = (answer.json or {})["results"]
    assert [result["model_version"] for result in results] == [version.name] * 3
    assert all(0 <= result["score"] <= 1 for result in results)
    assert results[2]["result"] == []
    for region in [*results[0]["result"], *results[1]["result"]]:
        assert region["type"] == "rectanglelabels"
        assert region["value"]["rectanglelabels"][0] in CLASSES
        assert (region["original_width"], region["original_height"]) == (96, 64)
    record = registry.project(PROJECT)
    assert record is not None
    assert record.label_config == LABEL_CONFIG


def test_predict_before_the_first_training_is_empty(app: FlaskClient) -> None:
    app.post("/setup", json=SETUP)

    answer = app.post("/predict", json={"tasks": [task(1, data_uri(0))], "project": SETUP["project"]})

    assert (answer.json or {})["results"] == [{"result": [], "score": 0.5, "model_version": UNTRAINED}]


START_TRAINING = pytest.param(
    "START_TRAINING",
    marks=pytest.mark.xfail(
        "START_TRAINING" not in ActiveLearningBackend.TRAIN_EVENTS,
        reason="label-studio-ml 1.0.9 calls fit() only for the events of TRAIN_EVENTS, and START_TRAINING is none",
        run=False,
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize("action", [START_TRAINING, "ANNOTATION_CREATED"])
def test_webhook_events_reach_the_queues(app: FlaskClient, registry: Registry, queues: Queues, action: str) -> None:
    app.post("/setup", json=SETUP)

    answer = app.post("/webhook", json=start_training() | {"action": action})

    assert answer.status_code == 201
    # label-studio-ml handles events in a process of its own, which imports everything once more.
    assert wait_for(lambda: queues.connection.exists(pending_key(PROJECT)), 90)
    assert wait_for(lambda: reconciles(queues) == 1, 5)
    request = registry.read_document(PROJECT, TRAIN_REQUEST)
    if action == "START_TRAINING":
        assert request is not None
        assert request["from_scratch"] is False
    else:
        assert request is None


def test_fit_in_the_form_of_2_x_requests_a_training(registry: Registry, queues: Queues) -> None:
    model = ActiveLearningBackend(project_id=str(PROJECT), label_config=LABEL_CONFIG)

    answer = model.fit("START_TRAINING", start_training())

    request = registry.read_document(PROJECT, TRAIN_REQUEST)
    assert request is not None
    assert answer == {"project": PROJECT, "job": request["id"]}
    assert reconciles(queues) == 1


def test_fit_in_the_form_of_1_x_asks_for_one_look_however_often_it_is_called(
    registry: Registry, queues: Queues
) -> None:
    model = ActiveLearningBackend(label_config=LABEL_CONFIG, train_output={})

    for _ in range(3):
        answer = model.fit((), event="ANNOTATION_CREATED", data={"project": {"id": PROJECT}}, job_id="1")

    assert answer == {"project": PROJECT, "job": None}
    assert reconciles(queues) == 1
    assert registry.read_document(PROJECT, TRAIN_REQUEST) is None


def test_fit_refuses_an_event_without_a_project(registry: Registry) -> None:
    with pytest.raises(BackendError, match="names no project"):
        ActiveLearningBackend(label_config=LABEL_CONFIG).fit("START_TRAINING", {})


def test_predict_in_the_form_of_2_x(registry: Registry, version: Version) -> None:
    model = ActiveLearningBackend(project_id=str(PROJECT), label_config=LABEL_CONFIG)

    (result,) = model.predict([task(1, data_uri(0))], context=None)

    assert result["model_version"] == version.name
    assert model.predict([], context=None) == []


def test_a_project_nobody_knows_and_nothing_is_said_about(registry: Registry) -> None:
    with pytest.raises(LabelConfigError, match="al-backend connect 5"):
        ActiveLearningBackend().predict([task(1, data_uri(0))])
    with pytest.raises(BackendError, match="names no project"):
        ActiveLearningBackend().predict([task(1, data_uri(0)) | {"project": None}])
