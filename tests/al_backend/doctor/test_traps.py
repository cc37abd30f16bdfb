"""Traps of Label Studio, each made in one real project, found by the doctor, and left behind by `--fix` or by hand.

The project is healthy between two tests: what `doctor --fix` does not repair, the test takes back.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from al_backend.connect import TITLE, connect
from al_backend.demo.server import LabelStudioServer
from al_backend.doctor import Finding, Level, Treatment, examine, treat
from al_backend.jobs.embedded_redis import EmbeddedRedis
from al_backend.jobs.liveness import living_worker
from al_backend.jobs.queues import QueueName, connect_to
from al_backend.labelstudio.client import LabelStudio
from al_backend.registry import GateVerdict, Registry, Version
from al_backend.settings import Settings
from tests.al_backend.served_app import LABEL_CONFIG, served

pytestmark = [pytest.mark.labelstudio, pytest.mark.redis]

VERSION = "yolov5n-v1-abcdef"
NOW = datetime(2026, 3, 1, tzinfo=timezone.utc)
SCORES = (0.125, 0.375, 0.625, 0.875)


class Patient:
    """A project that is connected, trained and published."""

    def __init__(self, settings: Settings, client: LabelStudio, registry: Registry, project: int) -> None:
        self.settings = settings
        self.client = client
        self.registry = registry
        self.id = project
        self.tasks = [task.id for task in client.open_tasks(project)]

    def found(self, check: str, settings: Settings | None = None) -> Finding:
        """The worst finding of a check."""
        own = [finding for finding in examine(settings or self.settings, self.id) if finding.check == check]
        return max(own, key=lambda finding: [Level.OK, Level.WARNING, Level.ERROR].index(finding.level))

    def wrong(self) -> set[str]:
        return {finding.check for finding in examine(self.settings, self.id) if not finding.ok}

    def fix(self) -> Treatment:
        """Repair; a second time there is nothing to do."""
        treatment = treat(self.settings, self.id)
        again = treat(self.settings, self.id)
        assert again.repaired == (), "the second run had something to do"
        assert again.failed == ()
        assert [finding.check for finding in again.left] == [finding.check for finding in treatment.left]
        return treatment

    def healed(self) -> tuple[str, ...]:
        """What was repaired, after which nothing is wrong."""
        treatment = self.fix()
        assert treatment.left == (), treatment
        assert treatment.failed == ()
        return treatment.repaired

    def patch(self, **fields: Any) -> None:
        self.client.request("PATCH", f"/api/projects/{self.id}/", body=fields)

    def prediction(self, task: int, score: float | None, version: str = VERSION) -> int:
        body = {"task": task, "result": [], "score": score, "model_version": version}
        return int(self.client.request("POST", "/api/predictions/", body=body)["id"])


@pytest.fixture(scope="module")
def sick_room(
    label_studio: LabelStudioServer, redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Patient]:
    folder = tmp_path_factory.mktemp("traps")
    client = LabelStudio(label_studio.url, label_studio.token)
    project = client.create_project("Traps", LABEL_CONFIG).id
    pictures = []
    for number in range(len(SCORES)):
        content = io.BytesIO()
        Image.new("RGB", (40, 30), (number * 40, 90, 90)).save(content, "PNG")
        pictures.append(folder / f"{number}.png")
        pictures[-1].write_bytes(content.getvalue())
    client.upload_images(project, pictures)
    queues = connect_to(redis_server.start().url)
    password = {"basic_auth_user": "ann", "basic_auth_pass": "secret"}
    with (
        served(label_studio, folder, queues, redis_url=redis_server.url, **password) as (settings, registry),
        living_worker(queues.connection, list(QueueName)),
    ):
        connect(settings, client, registry, project, queues=queues)
        patient = Patient(settings, client, registry, project)
        (folder / "files").mkdir()
        (folder / "files" / "weights").write_bytes(b"x")
        version = Version(
            name=VERSION, number=1, project=project, detector="yolov5n", classes=("crab", "fish"), created_at=NOW,
            snapshot_at=NOW, labels={}, label_counts={}, train_images=1, validation_images=0, boxes=1, training={},
            settings={}, gate=GateVerdict(promoted=True, reason="first"),
        )  # fmt: skip
        registry.add_version(version, folder / "files")
        registry.promote(project, VERSION, reason="first")
        client.import_predictions(
            project,
            [
                {"task": task, "result": [], "score": score, "model_version": VERSION}
                for task, score in zip(patient.tasks, SCORES, strict=True)
            ],
        )
        client.publish_model_version(project, VERSION)
        registry.write_document(project, "published", {"model_version": VERSION, "ranking": VERSION})
        yield patient
    client.delete_project(project)
    client.close()
    queues.connection.close()


@pytest.fixture
def patient(sick_room: Patient) -> Patient:
    """Healthy, or the test before this one has left something behind."""
    return sick_room


def test_a_healthy_project_needs_nothing(patient: Patient) -> None:
    assert patient.wrong() == set()
    assert patient.healed() == ()
    assert "repaired: nothing" in str(treat(patient.settings, patient.id))


# What `--fix` repairs


def test_a_connection_without_a_webhook(patient: Patient) -> None:
    for hook in patient.client.webhooks(patient.id):
        patient.client.delete_webhook(hook["id"])
    finding = patient.found("webhook")
    assert "the model connection but no webhook" in finding.message
    assert "SSRF_PROTECTION_ENABLED=false" in finding.remedy
    assert patient.healed() == ("added the webhook",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"headers": {"Authorization": "Bearer other"}}, "another secret"),
        ({"is_active": False}, "switched off"),
        ({"send_payload": False}, "payload"),
    ],
)
def test_a_webhook_that_brings_nothing(patient: Patient, change: dict[str, Any], words: str) -> None:
    (hook,) = patient.client.webhooks(patient.id)
    patient.client.request("PATCH", f"/api/webhooks/{hook['id']}/", body={"url": hook["url"]} | change)
    assert words in patient.found("webhook").message
    assert patient.healed() == ("updated the webhook",)


def test_every_event_comes_twice(patient: Patient) -> None:
    (hook,) = patient.client.webhooks(patient.id)
    body = {"url": hook["url"], "project": patient.id, "send_payload": True, "send_for_all_actions": True}
    patient.client.request("POST", "/api/webhooks/", body=body | {"headers": hook["headers"]})
    assert "2 webhooks lead to" in patient.found("webhook").message
    assert patient.healed() == ("removed 1 surplus webhooks",)


def test_the_title_is_shown_as_model_version(patient: Patient) -> None:
    patient.patch(model_version=TITLE)
    finding = patient.found("title")
    assert finding.level is Level.ERROR
    assert "orders at random" in finding.message
    (repaired,) = patient.healed()
    assert f'from the title "{TITLE}" to "{VERSION}"' in repaired


def test_the_title_is_a_version_too(patient: Patient) -> None:
    """With such a title, deleting any other version in Label Studio clears the project's model version."""
    identity = patient.prediction(patient.tasks[0], 0.5, TITLE)
    finding = patient.found("title")
    assert finding.level is Level.ERROR
    assert "which is also a model version" in finding.message
    (repaired,) = patient.healed()
    assert repaired == f'updated the model connection "{TITLE} 2"'
    patient.client.delete_predictions([identity])
    (backend,) = patient.client.ml_backends(patient.id)
    patient.client.update_ml_backend(
        backend["id"], patient.id, patient.settings.own_url, title=TITLE, basic_auth=("ann", "secret")
    )


@pytest.mark.parametrize("shown", ["", "elsewhere"])
def test_another_version_than_the_published_one_is_shown(patient: Patient, shown: str) -> None:
    identity = patient.prediction(patient.tasks[0], 0.5, "elsewhere")
    patient.patch(model_version=shown)
    finding = patient.found("model version")
    assert finding.level is Level.ERROR
    assert f'expected "{VERSION}"' in finding.message
    assert ("at random" in finding.message) is not shown
    assert "--fix" in finding.remedy
    (repaired,) = patient.healed()
    assert f'"{VERSION}" again' in repaired
    patient.client.delete_predictions([identity])


def test_hiding_predictions_clears_the_model_version(patient: Patient) -> None:
    patient.patch(show_collab_predictions=False)
    assert patient.client.project(patient.id).model_version == ""
    assert "does not show predictions" in patient.found("annotators").message
    treatment = patient.fix()
    assert [finding.check for finding in treatment.left] == ["annotators"], "somebody may hide them on purpose"
    patient.patch(show_collab_predictions=True)
    assert patient.healed() in ((), (f'the project shows the model version "{VERSION}" again, not ""',))


def test_another_sampling(patient: Patient) -> None:
    patient.patch(sampling="Sequential sampling")
    assert "Sequential sampling" in patient.found("sampling").message
    (repaired,) = patient.healed()
    assert repaired.startswith("changed the sampling")


def test_the_tab_of_the_queue_is_gone_or_sorted_otherwise(patient: Patient) -> None:
    (tab,) = patient.client.queue_tabs(patient.id)
    patient.client.request("DELETE", f"/api/dm/views/{tab['id']}/")
    finding = patient.found("queue tab")
    assert finding.level is Level.WARNING
    assert "has no tab" in finding.message
    assert patient.healed() == ("made the queue's tab in the Data Manager",)

    (tab,) = patient.client.queue_tabs(patient.id)
    data = tab["data"] | {"ordering": ["-tasks:predictions_score"]}
    patient.client.request("PUT", f"/api/dm/views/{tab['id']}/", body=tab | {"project": patient.id, "data": data})
    finding = patient.found("queue tab")
    assert "sorted or filtered in another way" in finding.message
    assert "another name" in finding.remedy
    assert patient.healed() == ("set the order and the filter of the queue's tab",)
    shown = patient.client.queue(patient.id, int(tab["id"]), 10)
    assert [task for task, _ in shown] == patient.tasks


def test_two_predictions_of_one_version_and_one_task(patient: Patient) -> None:
    extra = patient.prediction(patient.tasks[0], 0.99)
    finding = patient.found("predictions")
    assert finding.level is Level.WARNING
    assert "1 tasks have a second prediction" in finding.message
    (repaired,) = patient.healed()
    assert repaired == f"deleted 1 second predictions of {VERSION}"
    (kept,) = patient.client.predictions(patient.id, task_id=patient.tasks[0])
    assert kept.id == extra, "the newer one counts"
    patient.client.delete_predictions([extra])
    patient.prediction(patient.tasks[0], SCORES[0])


def test_a_prediction_without_a_score_is_served_first(patient: Patient) -> None:
    last = patient.tasks[-1]
    (row,) = patient.client.predictions(patient.id, task_id=last)
    patient.client.delete_predictions([row.id])
    patient.prediction(last, None)
    served = patient.client.next_task(patient.id)
    assert served is not None
    assert served["id"] == last, "the trap itself: Label Studio serves it before all others"
    finding = patient.found("predictions")
    assert finding.level is Level.ERROR
    assert "no score between 0 and 1" in finding.message
    treatment = patient.fix()
    assert treatment.repaired == (f"deleted 1 predictions without a score of {VERSION}",)
    (left,) = treatment.left
    assert "1 open tasks have no place in the published order yet" in left.message
    assert "next look" in left.remedy
    patient.prediction(last, SCORES[-1])


# What is left to a person


def test_the_published_predictions_are_deleted(patient: Patient) -> None:
    """Also where another version is deleted whose name the connection has, Label Studio clears the model version."""
    path = f"/api/projects/{patient.id}/model-versions"
    patient.client.request("DELETE", path, body={"model_version": VERSION})
    finding = patient.found("model version")
    assert finding.level is Level.ERROR
    assert "no prediction carries it any more" in finding.message
    assert "al-backend rank" in finding.remedy
    treatment = patient.fix()
    assert treatment.repaired == ()
    items = [
        {"task": task, "result": [], "score": score, "model_version": VERSION}
        for task, score in zip(patient.tasks, SCORES, strict=True)
    ]
    patient.client.import_predictions(patient.id, items)
    patient.client.publish_model_version(patient.id, VERSION)


@pytest.mark.parametrize(
    ("change", "check", "words", "remedy"),
    [
        ({"maximum_annotations": 2}, "annotators", "2 annotations: begun tasks come first", "annotations per task"),
        ({"evaluate_predictions_automatically": True}, "automatic evaluation", "every page waits", "off"),
        ({"min_annotations_to_start_training": 5}, "start training", "every 5 annotations", "to 0"),
    ],
)
def test_settings_that_somebody_may_want(
    patient: Patient, change: dict[str, Any], check: str, words: str, remedy: str
) -> None:
    before = {name: patient.client.project(patient.id).raw.get(name) for name in change}
    patient.patch(**change)
    finding = patient.found(check)
    assert finding.level is Level.WARNING
    assert words in finding.message
    assert remedy in finding.remedy
    treatment = patient.fix()
    assert treatment.repaired == ()
    assert [left.check for left in treatment.left] == [check]
    patient.patch(**before)


def test_the_webhook_of_a_connection_that_is_gone(patient: Patient) -> None:
    body = {"url": "http://127.0.0.1:9/webhook", "project": patient.id}
    hook = patient.client.request("POST", "/api/webhooks/", body=body)
    finding = patient.found("other webhooks")
    assert "http://127.0.0.1:9/webhook" in finding.message
    assert "every submit waits" in finding.message
    assert patient.fix().repaired == ()
    patient.client.delete_webhook(hook["id"])


def test_an_address_with_a_query(patient: Patient) -> None:
    asked = patient.settings.model_copy(update={"public_url": f"{patient.settings.own_url}?key=1"})
    finding = patient.found("model connection", asked)
    assert finding.level is Level.ERROR
    assert "Expected none" in finding.message or "No model connection" in finding.message


def test_extra_params_that_name_no_setting(patient: Patient) -> None:
    (backend,) = patient.client.ml_backends(patient.id)
    url, password = patient.settings.own_url, ("ann", "secret")
    patient.client.update_ml_backend(
        backend["id"], patient.id, url, basic_auth=password, extra_params={"stratgy": "random"}
    )
    finding = patient.found("extra params")
    assert "stratgy" in finding.message
    assert "Extra params" in finding.remedy
    assert patient.fix().repaired == ()
    patient.client.update_ml_backend(backend["id"], patient.id, url, basic_auth=password, extra_params={})


def test_a_labelling_config_without_boxes(patient: Patient) -> None:
    choices = '<Choices name="c" toName="image"><Choice value="a"/></Choices>'
    wrong = f'<View><Image name="image" value="$image"/>{choices}</View>'
    patient.patch(label_config=wrong)
    finding = patient.found("labelling config")
    assert finding.level is Level.ERROR
    assert "RectangleLabels" in finding.message
    patient.fix()
    patient.patch(label_config=LABEL_CONFIG)
    assert patient.healed() == ()


def test_a_label_studio_of_another_release(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LabelStudio, "version", lambda self: "2.0.1")  # there is only one to test with
    finding = patient.found("label studio release")
    assert finding.level is Level.WARNING
    assert "2.0.1" in finding.message


def test_repairs_without_a_web_server_say_what_refused_them(patient: Patient) -> None:
    patient.patch(sampling="Sequential sampling")
    dead = patient.settings.model_copy(update={"public_url": "http://127.0.0.1:9"})
    treatment = treat(dead, patient.id)
    assert len(treatment.failed) == 1
    assert "http://127.0.0.1:9" in treatment.failed[0]
    assert {"web server", "model connection"} <= {finding.check for finding in treatment.left}
    assert len(patient.client.ml_backends(patient.id)) == 1
    patient.healed()


def test_a_project_that_nobody_connected_is_left_alone(patient: Patient) -> None:
    other = patient.client.create_project("Not connected", LABEL_CONFIG).id
    treatment = treat(patient.settings, other)
    assert treatment.repaired == ()
    assert patient.client.ml_backends(other) == []
    assert patient.client.webhooks(other) == []
    assert any(f"al-backend connect {other}" in finding.remedy for finding in treatment.left)
    patient.client.delete_project(other)


class _Infinite(BaseHTTPRequestHandler):
    """A model connection that answers with an infinite score, as JSON that Python writes and Label Studio takes."""

    def do_GET(self) -> None:
        self._answer({"status": "UP", "model_class": "Other"})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length) or b"{}")
        tasks = body.get("tasks") or []
        results = [{"result": [], "score": float("inf"), "model_version": "infinite"} for _ in tasks]
        self._answer({"results": results, "model_version": "infinite"})

    def _answer(self, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


def test_an_infinite_score_of_another_model(patient: Patient, tmp_path: Path) -> None:
    client = patient.client
    server = HTTPServer(("127.0.0.1", 0), _Infinite)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    project = client.create_project("Infinite", LABEL_CONFIG).id
    try:
        client.import_tasks(project, [{"data": {"image": "http://127.0.0.1:9/a.png"}}])
        client.add_ml_backend(project, f"http://127.0.0.1:{server.server_port}", "Other model")
        client.action(project, "retrieve_tasks_predictions")
        own = replace_id(patient, project)
        finding = own.found("predictions")
        assert finding.level is Level.ERROR
        assert "infinite score" in finding.message
        assert "Delete predictions" in finding.remedy
        client.action(project, "delete_tasks_predictions")  # the remedy
        assert "predictions" not in own.wrong()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        client.delete_project(project)


def replace_id(patient: Patient, project: int) -> Patient:
    return Patient(patient.settings, patient.client, patient.registry, project)
