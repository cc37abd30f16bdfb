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
from al_backend.doctor import Finding, Level, examine, treat
from al_backend.doctor.connection import model_connection, webhook
from al_backend.doctor.subject import Subject
from al_backend.jobs.embedded_redis import EmbeddedRedis
from al_backend.jobs.liveness import living_worker
from al_backend.jobs.queues import QueueName, connect_to
from al_backend.labelstudio.client import UNCERTAINTY_SAMPLING, LabelStudio
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

    def look(self, settings: Settings | None = None) -> dict[str, Finding]:
        """The worst finding of each check."""
        findings = examine(settings or self.settings, self.id)
        ranked = sorted(findings, key=lambda finding: [Level.OK, Level.WARNING, Level.ERROR].index(finding.level))
        return {finding.check: finding for finding in ranked}

    def publish(self) -> None:
        """Predictions of all tasks in the order of their ids, and the project shows them."""
        items = [
            {"task": task, "result": [], "score": score, "model_version": VERSION}
            for task, score in zip(self.tasks, SCORES, strict=True)
        ]
        self.client.import_predictions(self.id, items)
        self.client.publish_model_version(self.id, VERSION)

    def connection(self, **changes: Any) -> None:
        (backend,) = self.client.ml_backends(self.id)
        self.client.update_ml_backend(
            backend["id"], self.id, self.settings.own_url, basic_auth=("ann", "secret"), **changes
        )

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
    password: dict[str, Any] = {"basic_auth_user": "ann", "basic_auth_pass": "secret"}
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
        patient.publish()
        registry.write_document(project, "published", {"model_version": VERSION, "ranking": VERSION})
        yield patient
    client.delete_project(project)
    client.close()
    queues.connection.close()


@pytest.fixture
def patient(sick_room: Patient) -> Patient:
    """Healthy, or the test before this one has left something behind."""
    return sick_room


def test_a_healthy_project_needs_nothing(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    read = LabelStudio.request

    def without_regions(client: LabelStudio, method: str, path: str, **more: Any) -> Any:
        assert path != "/api/predictions/", "all predictions of a project, with all boxes, do not fit into a web server"
        answer = read(client, method, path, **more)
        assert path != "/api/tasks" or not any(task.get("predictions") for task in answer["tasks"])
        return answer

    monkeypatch.setattr(LabelStudio, "request", without_regions)
    treatment = treat(patient.settings, patient.id)
    assert treatment.left == (), treatment
    assert treatment.repaired == ()
    assert "repaired: nothing" in str(treatment)


# What `--fix` repairs: several traps at once, because each look costs Label Studio seconds


def test_the_webhook_the_sampling_and_the_tab_are_gone_and_predictions_are_double(patient: Patient) -> None:
    client = patient.client
    (hook,) = client.webhooks(patient.id)
    (tab,) = client.queue_tabs(patient.id)
    client.delete_webhook(hook["id"])
    client.request("DELETE", f"/api/dm/views/{tab['id']}/")
    patient.patch(sampling="Sequential sampling", model_version=TITLE)
    extra = patient.prediction(patient.tasks[0], 0.99)

    found = patient.look()
    assert "the model connection but no webhook" in found["webhook"].message
    assert "SSRF_PROTECTION_ENABLED=false" in found["webhook"].remedy
    assert "Sequential sampling" in found["sampling"].message
    assert "has no tab" in found["queue tab"].message
    assert "the title of the model connection: no prediction carries it" in found["title"].message
    assert f'expected "{VERSION}"' in found["model version"].message
    assert "1 tasks have a second prediction" in found["predictions"].message
    assert all(finding.remedy for finding in found.values() if not finding.ok)

    treatment = treat(patient.settings, patient.id)
    assert (treatment.left, treatment.failed) == ((), ()), treatment
    assert set(treatment.repaired) == {
        "added the webhook",
        f'changed the sampling from "Sequential sampling" to "{UNCERTAINTY_SAMPLING}"',
        f'changed the model version from the title "{TITLE}" to "{VERSION}"',
        f"deleted 1 second predictions of {VERSION}",
        "made the queue's tab in the Data Manager",
    }
    assert treat(patient.settings, patient.id).repaired == (), "the second run had something to do"
    (kept,) = client.predictions(patient.id, task_id=patient.tasks[0])
    assert kept.id == extra, "the newer one counts"
    client.delete_predictions([extra])
    patient.prediction(patient.tasks[0], SCORES[0])


def test_a_stale_secret_a_title_that_is_a_version_a_sorted_tab_and_a_missing_score(patient: Patient) -> None:
    """With such a title, deleting any other version in Label Studio clears the project's model version."""
    client, last = patient.client, patient.tasks[-1]
    (hook,) = client.webhooks(patient.id)
    stale = {"url": hook["url"], "headers": {"Authorization": "Bearer other"}}
    client.request("PATCH", f"/api/webhooks/{hook['id']}/", body=stale)
    called_like_the_connection = patient.prediction(patient.tasks[0], 0.5, TITLE)
    (tab,) = client.queue_tabs(patient.id)
    data = tab["data"] | {"ordering": ["-tasks:predictions_score"]}
    client.request("PUT", f"/api/dm/views/{tab['id']}/", body=tab | {"project": patient.id, "data": data})
    (row,) = client.predictions(patient.id, task_id=last)
    client.delete_predictions([row.id])
    patient.prediction(last, None)
    served = client.next_task(patient.id)
    assert served is not None
    assert served["id"] == last, "the trap itself: Label Studio serves a task without a score before all others"

    found = patient.look()
    assert "another secret" in found["webhook"].message
    assert "which is also a model version" in found["title"].message
    assert "sorted or filtered in another way" in found["queue tab"].message
    assert "another name" in found["queue tab"].remedy
    assert found["predictions"].level is Level.ERROR
    assert "no score between 0 and 1" in found["predictions"].message

    treatment = treat(patient.settings, patient.id)
    assert treatment.failed == ()
    assert set(treatment.repaired) == {
        "updated the webhook",
        f'updated the model connection "{TITLE} 2"',
        f"deleted 1 predictions without a score of {VERSION}",
        "set the order and the filter of the queue's tab",
    }
    (left,) = treatment.left
    assert "1 open tasks have no place in the published order yet" in left.message
    assert "next look" in left.remedy
    assert treat(patient.settings, patient.id).repaired == ()
    patient.prediction(last, SCORES[-1])
    assert [task for task, _ in client.queue(patient.id, int(tab["id"]), 10)] == patient.tasks
    client.delete_predictions([called_like_the_connection])
    patient.connection(title=TITLE)


def test_events_come_twice_and_a_foreign_version_is_shown(patient: Patient) -> None:
    client = patient.client
    (hook,) = client.webhooks(patient.id)
    body = {"url": hook["url"], "project": patient.id, "send_payload": True, "send_for_all_actions": True}
    client.request("POST", "/api/webhooks/", body=body | {"headers": hook["headers"]})
    client.request("PATCH", f"/api/webhooks/{hook['id']}/", body={"url": hook["url"], "is_active": False})
    foreign = patient.prediction(patient.tasks[0], 0.5, "elsewhere")
    patient.patch(model_version="elsewhere")

    found = patient.look()
    assert "switched off" in found["webhook"].message
    assert 'The project shows "elsewhere"' in found["model version"].message
    assert "--fix" in found["model version"].remedy

    treatment = treat(patient.settings, patient.id)
    assert (treatment.left, treatment.failed) == ((), ()), treatment
    assert set(treatment.repaired) == {
        "removed 1 surplus webhooks",
        "updated the webhook",
        f'the project shows the model version "{VERSION}" again, not "elsewhere"',
    }
    assert treat(patient.settings, patient.id).repaired == ()
    client.delete_predictions([foreign])


def test_a_webhook_that_brings_nothing(patient: Patient) -> None:
    subject = Subject(patient.settings, patient.client, patient.registry, None, patient.id)
    (hook,) = patient.client.webhooks(patient.id)
    right = {name: hook[name] for name in ("url", "headers", "is_active", "send_payload", "send_for_all_actions")}
    for change, words in (
        ({"headers": {}}, "Authorization header is missing"),
        ({"headers": {"Authorization": "Bearer other"}}, "another secret"),
        ({"is_active": False}, "switched off"),
        ({"send_payload": False}, "payload"),
        ({"send_for_all_actions": False}, "all actions"),
    ):
        patient.client.request("PATCH", f"/api/webhooks/{hook['id']}/", body=right | change)
        (finding,) = webhook(subject)
        assert finding.level is Level.ERROR
        assert words in finding.message
        assert f"al-backend connect {patient.id}" in finding.remedy
    patient.client.request("PATCH", f"/api/webhooks/{hook['id']}/", body=right)
    (finding,) = webhook(subject)
    assert finding.ok


# What is left to a person


def test_what_somebody_may_want_is_left(patient: Patient) -> None:
    client = patient.client
    changes = {
        "maximum_annotations": 2,
        "evaluate_predictions_automatically": True,
        "min_annotations_to_start_training": 5,
    }
    before = {name: client.project(patient.id).raw.get(name) for name in changes}
    patient.patch(**changes)
    hook = client.request("POST", "/api/webhooks/", body={"url": "http://127.0.0.1:9/webhook", "project": patient.id})

    treatment = treat(patient.settings, patient.id)
    assert treatment.repaired == ()
    left = {finding.check: finding for finding in treatment.left}
    for check, words, remedy in (
        ("annotators", "2 annotations: begun tasks come first", "annotations per task"),
        ("automatic evaluation", "every page waits", "off"),
        ("start training", "every 5 annotations", "to 0"),
        ("other webhooks", "http://127.0.0.1:9/webhook, where no model connection leads", "Delete them"),
    ):
        finding = left.pop(check)
        assert words in finding.message
        assert remedy in finding.remedy
    assert left == {}
    assert "left to a person:" in str(treatment)
    assert json.loads(json.dumps(treatment.as_dict()))["left"][0]["remedy"]

    patient.patch(**before)
    client.delete_webhook(hook["id"])


def test_hidden_predictions_clear_the_model_version(patient: Patient) -> None:
    patient.patch(show_collab_predictions=False)
    assert patient.client.project(patient.id).model_version == "", "the trap itself"
    found = patient.look()
    assert "does not show predictions" in found["annotators"].message
    assert "at random or unscored ones first" in found["model version"].message
    treatment = treat(patient.settings, patient.id)
    assert "annotators" in [finding.check for finding in treatment.left], "somebody may hide them on purpose"
    patient.patch(show_collab_predictions=True)
    treat(patient.settings, patient.id)
    assert patient.client.project(patient.id).model_version == VERSION


def test_the_published_predictions_are_deleted(patient: Patient) -> None:
    path = f"/api/projects/{patient.id}/model-versions"
    patient.client.request("DELETE", path, body={"model_version": VERSION})
    assert patient.client.project(patient.id).model_version == "", "the trap itself"
    treatment = treat(patient.settings, patient.id)
    assert treatment.repaired == ()
    finding = {finding.check: finding for finding in treatment.left}["model version"]
    assert finding.level is Level.ERROR
    assert "no prediction carries it any more" in finding.message
    assert "al-backend rank" in finding.remedy
    patient.publish()


def test_a_labelling_config_without_boxes_and_an_address_with_a_query(patient: Patient) -> None:
    choices = '<Choices name="c" toName="image"><Choice value="a"/></Choices>'
    patient.patch(label_config=f'<View><Image name="image" value="$image"/>{choices}</View>')
    asked = patient.settings.model_copy(update={"public_url": f"{patient.settings.own_url}?key=1"})
    found = patient.look(asked)
    assert found["labelling config"].level is Level.ERROR
    assert "RectangleLabels" in found["labelling config"].message
    assert "behind a question mark" in found["address"].message
    assert "AL_PUBLIC_URL" in found["address"].remedy
    patient.patch(label_config=LABEL_CONFIG)


def test_a_label_studio_of_another_release(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LabelStudio, "version", lambda self: "2.0.1")  # there is only one to test with
    (finding,) = [item for item in examine(patient.settings) if item.check == "label studio release"]
    assert finding.level is Level.WARNING
    assert "2.0.1" in finding.message


def test_a_repair_that_is_refused_says_why(patient: Patient) -> None:
    patient.patch(sampling="Sequential sampling")
    dead = patient.settings.model_copy(update={"public_url": "http://127.0.0.1:9"})
    treatment = treat(dead, patient.id)
    assert len(treatment.failed) == 1
    assert "http://127.0.0.1:9" in treatment.failed[0]
    assert {"web server", "model connection"} <= {finding.check for finding in treatment.left}
    assert len(patient.client.ml_backends(patient.id)) == 1
    patient.patch(sampling=UNCERTAINTY_SAMPLING)


def test_a_project_that_nobody_connected_is_left_alone(patient: Patient) -> None:
    other = patient.client.create_project("Not connected", LABEL_CONFIG).id
    treatment = treat(patient.settings, other)
    assert treatment.repaired == ()
    assert patient.client.ml_backends(other) == []
    assert patient.client.webhooks(other) == []
    assert any(f"al-backend connect {other}" in finding.remedy for finding in treatment.left)
    patient.client.delete_project(other)


def test_another_model_comes_first_and_ours_is_there_twice(patient: Patient) -> None:
    client, address = patient.client, patient.settings.own_url
    project = client.create_project("Two models", LABEL_CONFIG).id
    subject = Subject(patient.settings, client, patient.registry, None, project)

    def add(url: str, title: str) -> int:
        return int(client.add_ml_backend(project, url, title, basic_auth=("ann", "secret"))["id"])

    def look() -> Finding:
        return next(model_connection(subject, client.project(project)))

    other = add(address.replace("127.0.0.1", "localhost"), "Other model")
    add(address, TITLE)
    found = look()
    assert found.level is Level.WARNING
    assert 'asks only the first model connection, "Other model"' in found.message
    assert "Remove that one" in found.remedy

    client.delete_ml_backend(other)
    add(address, f"{TITLE} again")
    found = look()
    assert found.level is Level.WARNING
    assert "2 model connections lead to" in found.message
    assert f"al-backend connect {project}" in found.remedy
    client.delete_project(project)


def test_a_task_that_somebody_has_open_stays_theirs(patient: Patient) -> None:
    """Label Studio tells nobody who has opened what, so that this is said always."""
    client = patient.client
    project = client.create_project("Open task", LABEL_CONFIG).id
    client.import_tasks(project, [{"data": {"image": "http://127.0.0.1:9/a.png"}}] * 3)
    tasks = sorted(client.task_ids(project))
    client.request("PATCH", f"/api/projects/{project}/", body={"sampling": UNCERTAINTY_SAMPLING})
    for version, order in (("v1", tasks), ("v2", tasks[::-1])):
        items = [
            {"task": task, "result": [], "score": score, "model_version": version}
            for task, score in zip(order, SCORES, strict=False)
        ]
        client.import_predictions(project, items)
        client.publish_model_version(project, version)
        served = client.next_task(project)
        assert served is not None
        assert served["id"] == tasks[0], "the trap itself: first by v1, and last by v2"
    found = Patient(patient.settings, client, patient.registry, project).look()["annotators"]
    assert found.ok
    assert "has open stays theirs for a day" in found.message
    client.delete_project(project)


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
        own = Patient(patient.settings, client, patient.registry, project)
        finding = own.look()["predictions"]
        assert finding.level is Level.ERROR
        assert "infinite score" in finding.message
        assert "Delete predictions" in finding.remedy
        client.action(project, "delete_tasks_predictions")  # the remedy
        assert "predictions" not in own.look()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        client.delete_project(project)
