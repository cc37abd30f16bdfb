"""Connecting a project of a real Label Studio to a real web server of ours."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from al_backend.connect import ConnectReport, connect
from al_backend.demo.server import LabelStudioServer
from al_backend.doctor import Level
from al_backend.doctor.connection import webhook
from al_backend.doctor.subject import Subject
from al_backend.errors import ConfigError, LabelConfigError, LabelStudioError
from al_backend.jobs.queues import QueueName, Queues
from al_backend.labelstudio.client import QUEUE_TAB, UNCERTAINTY_SAMPLING, LabelStudio
from al_backend.registry import Registry
from al_backend.settings import Settings
from tests.al_backend.served_app import LABEL_CONFIG, served

pytestmark = [pytest.mark.labelstudio, pytest.mark.redis]

PASSWORD: dict[str, Any] = {"basic_auth_user": "ann", "basic_auth_pass": "secret"}
PREDICTION = {"result": [], "score": 0.5}


@pytest.fixture
def backend(label_studio: LabelStudioServer, tmp_path: Path, queues: Queues) -> Iterator[tuple[Settings, Registry]]:
    with served(label_studio, tmp_path, queues, **PASSWORD) as there:
        yield there


@pytest.fixture
def client(label_studio: LabelStudioServer) -> Iterator[LabelStudio]:
    found = LabelStudio(label_studio.url, label_studio.token)
    yield found
    found.close()


@pytest.fixture
def project(client: LabelStudio) -> Iterator[int]:
    made = client.create_project("Reef", LABEL_CONFIG)
    yield made.id
    client.delete_project(made.id)


def state(client: LabelStudio, project: int) -> dict[str, Any]:
    """Everything that connecting changes, as Label Studio tells it."""
    tabs = client.request("GET", "/api/dm/views/", params={"project": project})
    found = client.project(project)
    return {
        "backends": [
            (item["id"], item["title"], item["url"], item["state"], item["auth_method"])
            for item in client.ml_backends(project)
        ],
        "webhooks": [(item["id"], item["url"], item["headers"]) for item in client.webhooks(project)],
        "tabs": [tab["id"] for tab in tabs if tab["data"].get("title") == QUEUE_TAB],
        "sampling": found.sampling,
        "model_version": found.model_version,
    }


def test_a_fresh_project_gets_everything_once(
    client: LabelStudio, backend: tuple[Settings, Registry], queues: Queues, project: int
) -> None:
    settings, registry = backend

    report = connect(settings, client, registry, project, queues=queues)

    url = settings.own_url
    assert state(client, project) == {
        "backends": [(report.backend, "Active learning", url, "CO", "BASIC_AUTH")],
        "webhooks": [(report.webhook, f"{url}/webhook", {"Authorization": f"Bearer {settings.webhook_bearer}"})],
        "tabs": [report.tab],
        "sampling": UNCERTAINTY_SAMPLING,
        "model_version": "",
    }
    record = registry.project(project)
    assert record is not None
    assert record.label_config == LABEL_CONFIG
    assert [job.args[0] for job in queues.queue(QueueName.RECONCILE).get_jobs()] == [project]
    assert json.loads(json.dumps(report.as_dict()))["labels"] == ["crab", "fish"]
    for words in ('"Reef" is connected', "crab, fish", "added the model connection", "it comes with the first order"):
        assert words in str(report)
    assert "secret" not in str(report)


def test_a_second_time_changes_nothing(
    client: LabelStudio, backend: tuple[Settings, Registry], queues: Queues, project: int
) -> None:
    settings, registry = backend
    first = connect(settings, client, registry, project, queues=queues)
    before = state(client, project)

    second = connect(settings, client, registry, project, queues=queues)

    assert second.changes == ()
    assert "nothing, it was connected already" in str(second)
    assert (second.backend, second.webhook, second.tab) == (first.backend, first.webhook, first.tab)
    assert state(client, project) == before


def test_events_and_start_training_arrive_though_there_is_a_password(
    client: LabelStudio, backend: tuple[Settings, Registry], queues: Queues, project: int
) -> None:
    settings, registry = backend
    report = connect(settings, client, registry, project, queues=queues)
    client.import_tasks(project, [{"image": "http://127.0.0.1:9/a.png"}])
    queues.connection.flushall()

    task = client.open_tasks(project)[0]
    client.submit_annotation(task.id, [])

    jobs = queues.queue(QueueName.RECONCILE).get_jobs()
    assert [list(job.args) for job in jobs] == [[project, "webhook ANNOTATION_CREATED"]]
    client.train(report.backend)
    assert registry.read_document(project, "train_request") is not None
    trainings = client.request("GET", f"/api/ml/{report.backend}")
    assert trainings["error_message"] is None


def test_label_studio_shows_the_sentence_of_a_refused_setup(
    client: LabelStudio, backend: tuple[Settings, Registry], project: int
) -> None:
    settings, registry = backend
    report = connect(settings, client, registry, project)

    with pytest.raises(LabelStudioError, match="budgett"):
        client.update_ml_backend(
            report.backend,
            project,
            settings.own_url,
            basic_auth=("ann", "secret"),
            extra_params={"budgett": 5},
        )


def test_a_missing_webhook_and_a_stale_secret_are_repaired(
    client: LabelStudio, backend: tuple[Settings, Registry], project: int
) -> None:
    settings, registry = backend
    first = connect(settings, client, registry, project)
    client.delete_webhook(first.webhook)

    assert connect(settings, client, registry, project).changes == ("added the webhook",)

    client.set_webhook(project, f"{settings.own_url}/webhook", {"Authorization": "Bearer old"})
    assert connect(settings, client, registry, project).changes == ("updated the webhook",)
    assert connect(settings, client, registry, project).changes == ()


def test_surplus_connections_and_webhooks_are_removed(
    client: LabelStudio, backend: tuple[Settings, Registry], project: int
) -> None:
    settings, registry = backend
    first = connect(settings, client, registry, project)
    client.add_ml_backend(project, settings.own_url, "again", basic_auth=("ann", "secret"))
    other = "http://127.0.0.1:9/webhook"
    client.request("POST", "/api/webhooks/", body={"project": project, "url": other})
    for address in (f"{settings.own_url}/webhook", f"{settings.own_url}/webhook/"):
        client.request("POST", "/api/webhooks/", body={"project": project, "url": address})

    connect(settings, client, registry, project)

    now = state(client, project)
    assert [item[0] for item in now["backends"]] == [first.backend]
    assert sorted(item[1] for item in now["webhooks"]) == sorted([other, f"{settings.own_url}/webhook"])


def test_a_backend_that_moved_takes_its_connection_along(
    client: LabelStudio, label_studio: LabelStudioServer, tmp_path: Path, queues: Queues, project: int
) -> None:
    with served(label_studio, tmp_path, queues) as (old, registry):
        first = connect(old, client, registry, project)
    with served(label_studio, tmp_path, queues) as (new, registry):
        report = connect(new, client, registry, project)

        now = state(client, project)
        assert [item[:4] for item in now["backends"]] == [(first.backend, "Active learning", new.own_url, "CO")]
        assert [item[1] for item in now["webhooks"]] == [f"{new.own_url}/webhook"]
        assert any("moved" in change for change in report.changes)


def test_a_changed_password_is_passed_on(
    client: LabelStudio, label_studio: LabelStudioServer, tmp_path: Path, queues: Queues, project: int
) -> None:
    with served(label_studio, tmp_path, queues) as (settings, registry):
        first = connect(settings, client, registry, project)
        port = httpx.URL(settings.own_url).port or 0
    with served(label_studio, tmp_path, queues, port=port, **PASSWORD) as (settings, registry):
        report = connect(settings, client, registry, project)

        assert report.changes == ('updated the model connection "Active learning"', "updated the webhook")
        now = state(client, project)
        assert [item[3:] for item in now["backends"]] == [("CO", "BASIC_AUTH")]
        secret = {"Authorization": f"Bearer {settings.webhook_bearer}"}
        assert now["webhooks"] == [(first.webhook, f"{settings.own_url}/webhook", secret)]


def test_the_title_is_never_a_version(client: LabelStudio, backend: tuple[Settings, Registry], project: int) -> None:
    settings, registry = backend
    client.import_tasks(project, [{"image": "http://127.0.0.1:9/a.png"}])
    task = client.open_tasks(project)[0].id
    client.import_predictions(project, [PREDICTION | {"task": task, "model_version": "Active learning"}])

    assert connect(settings, client, registry, project).title == "Active learning 2"
    assert connect(settings, client, registry, project, title="untrained").changes == ()


def test_a_model_version_that_is_none_of_ours_stays(
    client: LabelStudio, backend: tuple[Settings, Registry], project: int
) -> None:
    settings, registry = backend
    client.import_tasks(project, [{"image": "http://127.0.0.1:9/a.png"}])
    task = client.open_tasks(project)[0].id
    client.import_predictions(project, [PREDICTION | {"task": task, "model_version": "v1"}])
    client.publish_model_version(project, "v1")

    report = connect(settings, client, registry, project)

    assert (report.model_version, client.project(project).model_version) == ("v1", "v1")


def test_the_title_as_model_version_gives_way_to_the_published_one(
    client: LabelStudio, backend: tuple[Settings, Registry], project: int
) -> None:
    settings, registry = backend
    connect(settings, client, registry, project)
    client.import_tasks(project, [{"image": "http://127.0.0.1:9/a.png"}])
    task = client.open_tasks(project)[0].id
    client.import_predictions(project, [PREDICTION | {"task": task, "model_version": "v1"}])
    registry.write_document(project, "published", {"model_version": "v1", "ranking": "r"})
    client.publish_model_version(project, "Active learning", "Sequential sampling")

    report = connect(settings, client, registry, project)

    assert client.project(project).model_version == "v1"
    assert client.project(project).sampling == UNCERTAINTY_SAMPLING
    assert len(report.changes) == 2


def test_what_makes_the_order_loose_is_said(
    client: LabelStudio, backend: tuple[Settings, Registry], project: int
) -> None:
    settings, registry = backend
    client.request("PATCH", f"/api/projects/{project}/", body={"maximum_annotations": 2})

    report = connect(settings, client, registry, project)

    assert ["2 annotations per task" in warning for warning in report.warnings] == [True]


def test_a_config_without_boxes_is_refused_before_anything_is_made(
    client: LabelStudio, backend: tuple[Settings, Registry]
) -> None:
    settings, registry = backend
    config = '<View><Text name="t" value="$t"/><Choices name="c" toName="t"><Choice value="a"/></Choices></View>'
    made = client.create_project("Texts", config)

    with pytest.raises(LabelConfigError, match="RectangleLabels"):
        connect(settings, client, registry, made.id)

    assert client.ml_backends(made.id) == []
    assert client.webhooks(made.id) == []
    assert registry.projects() == []


def test_a_wrong_key_and_a_wrong_project_are_told_apart(
    client: LabelStudio, label_studio: LabelStudioServer, backend: tuple[Settings, Registry]
) -> None:
    settings, registry = backend
    stranger = LabelStudio(label_studio.url, "0" * 40)

    with pytest.raises(LabelStudioError, match="LABEL_STUDIO_API_KEY"):
        connect(settings, stranger, registry, 1)
    with pytest.raises(LabelStudioError, match="no project 987654"):
        connect(settings, client, registry, 987654)


def test_a_backend_that_does_not_answer_is_not_connected(
    client: LabelStudio, backend: tuple[Settings, Registry], project: int
) -> None:
    settings, registry = backend

    with pytest.raises(LabelStudioError, match="AL_PUBLIC_URL"):
        connect(settings, client, registry, project, url="http://127.0.0.1:9")

    assert client.ml_backends(project) == []
    assert registry.project(project) is None


def test_extra_params_of_the_connection_become_the_projects_overrides(
    client: LabelStudio, backend: tuple[Settings, Registry], project: int
) -> None:
    settings, registry = backend
    credentials = ("ann", "secret")
    client.add_ml_backend(project, settings.own_url, "mine", basic_auth=credentials, extra_params={"budget": 7})

    report = connect(settings, client, registry, project)

    record = registry.project(project)
    assert record is not None
    assert record.overrides == {"budget": 7}
    assert report.title == "mine"


def test_a_service_name_without_a_dot_is_explained(
    client: LabelStudio, backend: tuple[Settings, Registry], project: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, registry = backend
    with pytest.raises(LabelStudioError, match="valid URL") as refused:
        client.set_webhook(project, "http://al-backend:9090/webhook", {})

    def refuse(*args: object) -> None:
        raise refused.value

    monkeypatch.setattr(client, "set_webhook", refuse)
    with pytest.raises(LabelStudioError, match="a name with a dot"):
        connect(settings, client, registry, project)


@pytest.fixture(scope="module", params=["true", "false"], ids=["both", "webhooks alone"])
def refusing(
    request: pytest.FixtureRequest,
    label_studio_program: Path,
    label_studio_template: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[LabelStudioServer]:
    """Label Studio as it comes: it refuses private addresses, with one of its switches those of webhooks alone."""
    environment = {"SSRF_PROTECTION_ENABLED": "true", "ML_BLOCK_LOCAL_IP": request.param}
    folder = tmp_path_factory.mktemp("refusing")
    with LabelStudioServer(
        label_studio_program, folder, template_dir=label_studio_template, environment=environment
    ) as server:
        yield server


@pytest.mark.slow
def test_blocked_addresses_leave_no_half_connection(
    refusing: LabelStudioServer, tmp_path: Path, queues: Queues
) -> None:
    """With one of the switches Label Studio adds the backend and refuses its webhook."""
    with served(refusing, tmp_path, queues) as (settings, registry):
        client = LabelStudio(refusing.url, refusing.token)
        project = client.create_project("Reef", LABEL_CONFIG).id

        with pytest.raises(LabelStudioError) as refused:
            connect(settings, client, registry, project)

        assert "SSRF_PROTECTION_ENABLED=false" in str(refused.value)
        assert "ML_BLOCK_LOCAL_IP=false" in str(refused.value)
        assert client.ml_backends(project) == []
        assert client.webhooks(project) == []


@pytest.mark.slow
@pytest.mark.parametrize("refusing", ["false"], ids=["webhooks alone"], indirect=True)
def test_the_doctor_knows_that_webhooks_are_refused_now_or_at_each_event(
    refusing: LabelStudioServer, tmp_path: Path, queues: Queues
) -> None:
    with served(refusing, tmp_path, queues) as (settings, registry):
        client = LabelStudio(refusing.url, refusing.token)
        project = client.create_project("Reef", LABEL_CONFIG).id
        subject = Subject(settings, client, registry, queues, project)
        body = {"project": project, "url": settings.own_url, "title": "By hand"}
        with pytest.raises(LabelStudioError, match="reserved network"):
            client.request("POST", "/api/ml/", body=body)
        assert (len(client.ml_backends(project)), client.webhooks(project)) == (1, []), "the trap itself"
        (half,) = webhook(subject)
        assert half.level is Level.ERROR
        assert "the model connection but no webhook" in half.message
        assert "SSRF_PROTECTION_ENABLED=false and ML_BLOCK_LOCAL_IP=false" in half.remedy

        # It was connected while Label Studio ran with the switch, and then Label Studio was started without it.
        known = client.set_webhook(project, "http://8.8.8.8/webhook", {})
        with closing(sqlite3.connect(refusing.data_dir / "label_studio.sqlite3")) as database, database:
            database.execute("UPDATE webhook SET url = ? WHERE id = ?", (f"{settings.own_url}/webhook", known["id"]))
        before = client.webhooks(project)
        (silent,) = webhook(subject)
        assert silent.level is Level.ERROR
        assert "sends no event to" in silent.message
        assert "reserved network" in silent.message
        assert "SSRF_PROTECTION_ENABLED=false and ML_BLOCK_LOCAL_IP=false" in silent.remedy
        assert client.webhooks(project) == before, "to look changes nothing"
        client.import_tasks(project, [{"data": {"image": "http://127.0.0.1:9/a.png"}}])
        assert "reserved network address" in refusing.log_path.read_text(errors="replace"), "the trap itself"


@pytest.mark.parametrize("bad", [{"budgett": 1}, "[1]", "{"])
def test_wrong_extra_params_are_refused(bad: object) -> None:
    from al_backend.extra_params import parse_extra_params
    from al_backend.settings import LearningSettings

    with pytest.raises(ConfigError, match=r"[Ee]xtra params"):
        parse_extra_params(bad, LearningSettings())


@pytest.mark.parametrize(
    "detector",
    ["/srv/models/theirs.yaml", "../theirs.yaml", "theirs.pt", "https://x.test/a.yaml", "a\\b", "", "~"],
)
def test_a_project_cannot_name_a_file_of_this_machine(detector: str) -> None:
    from al_backend.extra_params import parse_extra_params
    from al_backend.settings import LearningSettings

    with pytest.raises(ConfigError, match="only AL_DETECTOR may name a file"):
        parse_extra_params({"AL_DETECTOR": detector}, LearningSettings())
    if detector.endswith((".yaml", ".pt")):
        ours = LearningSettings(detector=detector)
        assert parse_extra_params({"detector": detector}, ours) == {"detector": detector}
    for named in ("ssd300_vgg16", "yolov8n.yaml"):
        assert parse_extra_params({"detector": named}, LearningSettings()) == {"detector": named}


def test_a_report_without_changes_prints() -> None:
    report = ConnectReport(1, "Reef", "http://b", "Active learning", 2, 3, 4, ("crab",), "v1", (), ("slow",))
    assert str(report).splitlines()[-1] == "  warning: slow"
