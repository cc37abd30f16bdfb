"""Every request of the client against a real Label Studio."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from al_backend.demo.server import LabelStudioServer
from al_backend.errors import LabelStudioError
from al_backend.labelstudio.client import QUEUE_TAB, ImportReport, LabelStudio, Project

pytestmark = pytest.mark.labelstudio

CONFIG = """<View><Image name="image" value="$image"/>
<RectangleLabels name="label" toName="image"><Label value="crab"/><Label value="eel"/></RectangleLabels></View>"""


def region(label: str = "crab", **value: Any) -> dict[str, Any]:
    box = {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0, "rectanglelabels": [label]} | value
    return {"from_name": "label", "to_name": "image", "type": "rectanglelabels", "value": box}


def item(task: int, score: float, version: str = "v1", **fields: Any) -> dict[str, Any]:
    return {"task": task, "result": [region()], "score": score, "model_version": version} | fields


@pytest.fixture
def client(label_studio: LabelStudioServer) -> Iterator[LabelStudio]:
    client = LabelStudio(label_studio.url, label_studio.token)
    yield client
    client.close()


@pytest.fixture
def project(client: LabelStudio, request: pytest.FixtureRequest) -> Iterator[Project]:
    """A project with 12 tasks, deleted afterwards."""
    project = client.create_project(request.node.name[:50], CONFIG)
    assert client.import_tasks(project.id, [{"data": {"image": f"https://x.test/{i}.jpg"}} for i in range(12)]) == 12
    yield project
    client.delete_project(project.id)


@pytest.fixture
def tasks(client: LabelStudio, project: Project) -> list[int]:
    return [task.id for task in client.open_tasks(project.id)]


@pytest.fixture
def stub_backend() -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """A model server that answers everything and notes (path, Authorization)."""
    calls: list[tuple[str, str | None]] = []

    class Stub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            calls.append((self.path, self.headers.get("Authorization")))
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.dumps({"status": "UP", "model_version": "stub-1", "results": []}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", calls
    server.shutdown()
    server.server_close()


# -- who we are


def test_both_kinds_of_key_work(label_studio: LabelStudioServer, label_studio_pat: str) -> None:
    for key in (label_studio.token, label_studio_pat):
        client = LabelStudio(label_studio.url, key)
        assert client.whoami()["email"] == label_studio.email
        assert client.version().startswith("1.")
        made = client.create_project("either key", CONFIG)
        assert client.import_tasks(made.id, [{"data": {"image": "https://x.test/1.jpg"}}]) == 1
        client.delete_project(made.id)


def test_a_refused_access_token_is_replaced(label_studio: LabelStudioServer, label_studio_pat: str) -> None:
    client = LabelStudio(label_studio.url, label_studio_pat)
    client.whoami()
    before = client.auth._access
    assert before is not None
    client.auth._access = before[:-4] + "AAAA"  # as if Label Studio had forgotten it
    assert client.whoami()["email"] == label_studio.email
    assert client.auth._access != before[:-4] + "AAAA"


def test_wrong_keys_are_refused_without_being_shown(label_studio: LabelStudioServer, label_studio_pat: str) -> None:
    with pytest.raises(LabelStudioError, match=r"refused GET /api/current-user/whoami with 401: .*API_KEY") as error:
        LabelStudio(label_studio.url, "f" * 40).whoami()
    assert error.value.status == 401
    assert "f" * 40 not in str(error.value)
    head, body, _ = label_studio_pat.split(".")
    with pytest.raises(LabelStudioError, match="refused the personal access token with 401") as error:
        LabelStudio(label_studio.url, f"{head}.{body}.{'A' * 43}").whoami()
    assert body not in str(error.value)


def test_a_missing_project_is_named(client: LabelStudio) -> None:
    with pytest.raises(LabelStudioError, match=r"refused GET /api/projects/999999/ with 404") as error:
        client.project(999999)
    assert error.value.status == 404


def test_label_studios_own_words_are_passed_on(client: LabelStudio) -> None:
    with pytest.raises(LabelStudioError, match=r"with 400: .*title"):
        client.create_project("ab", CONFIG)


# -- reading


def test_a_new_project(client: LabelStudio, project: Project) -> None:
    found = client.project(project.id)
    assert (found.title, found.label_config, found.model_version) == (project.title, project.label_config, "")
    assert "RectangleLabels" in found.label_config
    assert found.sampling == "Sequential sampling"
    assert found.show_collab_predictions
    assert found.maximum_annotations == 1
    assert found.task_number == 12
    assert client.members(project.id) == 0
    assert client.model_versions(project.id) == {}
    assert client.labelled_tasks(project.id) == []
    assert client.predictions(project.id) == []


def test_pages_are_read_to_the_end(client: LabelStudio, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (5, 6, 12, 100):
        monkeypatch.setattr("al_backend.labelstudio.reading._PAGE", size)
        found = client.open_tasks(project.id)
        assert [task.data["image"] for task in found] == [f"https://x.test/{i}.jpg" for i in range(12)]
    ids = sorted(client.task_ids(project.id))
    assert client.task_ids(project.id, first=ids[2], last=ids[4]) == set(ids[2:5])


def test_what_counts_as_labelled(client: LabelStudio, project: Project, tasks: list[int]) -> None:
    client.submit_annotation(tasks[0], [region()])
    client.submit_annotation(tasks[1], [])
    client.submit_annotation(tasks[2], [], was_cancelled=True)
    client.request("POST", f"/api/tasks/{tasks[3]}/drafts", body={"result": [region()]})
    labelled = client.labelled_tasks(project.id)
    assert [(task.id, len(task.annotations)) for task in labelled] == [(tasks[0], 1), (tasks[1], 1)]
    assert labelled[0].annotations[0]["result"][0]["value"]["rectanglelabels"] == ["crab"]
    assert labelled[0].data == {"image": "https://x.test/0.jpg"}
    assert labelled[1].annotations[0]["result"] == []
    assert [task.id for task in client.open_tasks(project.id)] == tasks[2:]
    assert [task.id for task in client.labelled_tasks(project.id, [tasks[1], tasks[2], tasks[5]])] == [tasks[1]]


def test_labels_are_read_in_batches(
    client: LabelStudio, project: Project, tasks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("al_backend.labelstudio.reading._EXPORT_BATCH", 2)
    for task in tasks[:5]:
        client.submit_annotation(task, [region()])
    assert [task.id for task in client.labelled_tasks(project.id)] == tasks[:5]


def test_a_mark_changes_with_the_labels_and_not_with_predictions(
    client: LabelStudio, project: Project, tasks: list[int]
) -> None:
    made = client.submit_annotation(tasks[0], [region()])
    client.submit_annotation(tasks[1], [])
    seen = [client.label_marks(project.id)]
    assert set(seen[0]) == set(tasks[:2])
    client.update_annotation(made["id"], result=[region("eel")])
    seen.append(client.label_marks(project.id))
    client.update_annotation(made["id"], ground_truth=True)
    seen.append(client.label_marks(project.id))
    assert len({marks[tasks[0]] for marks in seen}) == 3
    client.import_predictions(project.id, [item(tasks[0], 0.5)])
    assert client.label_marks(project.id) == seen[-1]
    client.delete_annotation(made["id"])
    assert set(client.label_marks(project.id)) == {tasks[1]}


# -- predictions


def test_import_and_read_back(client: LabelStudio, project: Project, tasks: list[int]) -> None:
    progress: list[int] = []
    items = [item(task, index / 12, result=[] if index % 2 else [region()]) for index, task in enumerate(tasks)]
    report = client.import_predictions(project.id, items, chunk=5, pause=0, on_progress=progress.append)
    assert (report.sent, report.created, report.present, report.dropped) == (12, 12, 0, ())
    assert progress == [5, 10, 12]
    rows = client.predictions(project.id)
    assert [(row.task, row.model_version, row.score) for row in rows] == [
        (task, "v1", index / 12) for index, task in enumerate(tasks)
    ]
    assert rows[0].created_at.utcoffset() is not None
    assert client.model_versions(project.id) == {"v1": 12}
    assert [row.task for row in client.predictions(project.id, task_id=tasks[3])] == [tasks[3]]


def test_predictions_without_a_proper_score_are_found_without_reading_the_others(
    client: LabelStudio, project: Project, tasks: list[int]
) -> None:
    client.import_predictions(project.id, [item(task, 0.5) for task in tasks[:8]])
    wrong = dict(zip(tasks[8:], (None, 7.5, -0.25, 0.0), strict=True))
    for task, score in wrong.items():
        body = {"task": task, "result": [], "score": score, "model_version": "v1"}
        client.request("POST", "/api/predictions/", body=body)
    client.publish_model_version(project.id, "v1")
    rows = [row for page in client.misscored_predictions(project.id, "v1") for row in page]
    assert {row.task: row.score for row in rows} == {task: wrong[task] for task in tasks[8:11]}


def test_a_repeated_import_stores_nothing_twice(client: LabelStudio, project: Project, tasks: list[int]) -> None:
    client.import_predictions(project.id, [item(task, 0.5, "v10") for task in tasks])
    client.import_predictions(project.id, [item(task, 0.5) for task in tasks[:7]])
    assert client.tasks_with_version(project.id, "v1") == set(tasks[:7])
    report = client.import_predictions(project.id, [item(task, 0.5) for task in tasks])
    assert (report.sent, report.created, report.present, report.dropped) == (12, 5, 7, ())
    assert client.model_versions(project.id) == {"v1": 12, "v10": 12}


@pytest.mark.parametrize("rows_per_read", [0, 50])
def test_dropped_items_are_found(
    client: LabelStudio, project: Project, tasks: list[int], monkeypatch: pytest.MonkeyPatch, rows_per_read: int
) -> None:
    monkeypatch.setattr("al_backend.labelstudio.publishing._ROWS_PER_READ", rows_per_read)
    items = [item(task, 0.5) for task in tasks]
    items[1]["score"] = 7.5
    items[4]["result"] = [region("whale")]
    items[7]["result"] = [region(x=120)]
    items[8]["result"] = [region() | {"from_name": "other"}]
    report = client.import_predictions(project.id, items, chunk=4, pause=0)
    assert report.dropped == (tasks[1], tasks[4], tasks[7], tasks[8])
    assert report.created == 8
    assert client.model_versions(project.id) == {"v1": 8}


def test_deleted_tasks_do_not_stop_the_others(client: LabelStudio, project: Project, tasks: list[int]) -> None:
    client.request("DELETE", f"/api/tasks/{tasks[2]}/")
    client.request("DELETE", f"/api/tasks/{tasks[11]}/")
    report = client.import_predictions(project.id, [item(task, 0.5) for task in tasks])
    assert report.dropped == (tasks[2], tasks[11])
    assert report.created == 10
    nothing = client.import_predictions(project.id, [item(tasks[2], 0.5)])
    assert (nothing.created, nothing.dropped) == (0, (tasks[2],))


def test_a_lost_answer_does_not_store_twice(
    client: LabelStudio, project: Project, tasks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first answer gets lost on the way back, the second request on the way there."""
    monkeypatch.setattr("al_backend.labelstudio.publishing._SETTLE_SECONDS", 0)
    send, sends = client._http.request, []

    def flaky(method: str, url: str, **arguments: Any) -> httpx.Response:
        if method == "POST":
            sends.append(len(json.loads(arguments["content"])))
            if len(sends) == 1:
                part = json.loads(arguments["content"])[:3]
                send(method, url, **arguments | {"content": json.dumps(part).encode()})
                raise httpx.ReadError("connection reset")
            if len(sends) == 2:
                raise httpx.ConnectError("connection refused")
        return send(method, url, **arguments)

    monkeypatch.setattr(client._http, "request", flaky)
    report = client.import_predictions(project.id, [item(task, 0.5) for task in tasks], chunk=500)
    assert sends == [12, 9, 9]
    assert (report.created, report.dropped) == (12, ())
    assert client.model_versions(project.id) == {"v1": 12}


def test_a_label_studio_that_stays_away_is_an_error(
    client: LabelStudio, project: Project, tasks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("al_backend.labelstudio.publishing._SETTLE_SECONDS", 0)
    send = client._http.request

    def away(method: str, url: str, **arguments: Any) -> httpx.Response:
        if method == "POST":
            raise httpx.ConnectError("connection refused")
        return send(method, url, **arguments)

    monkeypatch.setattr(client._http, "request", away)
    with pytest.raises(LabelStudioError, match=r"did not answer POST .*connection refused"):
        client.import_predictions(project.id, [item(task, 0.5) for task in tasks])


@pytest.mark.slow
def test_an_import_outlives_a_crash_of_label_studio(
    tmp_path: Path, label_studio_program: Path, label_studio_template: Path
) -> None:
    with LabelStudioServer(label_studio_program, tmp_path, template_dir=label_studio_template) as server:
        client = LabelStudio(server.url, server.token)
        project = client.create_project("crash", CONFIG)
        client.import_tasks(project.id, [{"data": {"image": f"https://x.test/{i}.jpg"}} for i in range(1500)])
        items = [item(task.id, 0.5) for task in client.open_tasks(project.id)]
        crashed = threading.Event()

        def crash(done: int) -> None:
            if not crashed.is_set():
                crashed.set()
                threading.Timer(0.3, server.kill).start()  # in the middle of the second chunk

        # The child ends with the thread that starts it, so this one starts it and another imports.
        reports: list[ImportReport] = []
        importing = threading.Thread(
            target=lambda: reports.append(
                client.import_predictions(project.id, items, chunk=300, pause=0, on_progress=crash)
            )
        )
        importing.start()
        assert crashed.wait(60)
        while server.running:
            time.sleep(0.05)
        server.start()
        importing.join(120)
        assert [(report.created, report.dropped) for report in reports] == [(1500, ())]
        assert client.model_versions(project.id) == {"v1": 1500}


def test_single_predictions_are_deleted(client: LabelStudio, project: Project, tasks: list[int]) -> None:
    client.import_predictions(project.id, [item(task, 0.5) for task in tasks])
    ids = [row.id for row in client.predictions(project.id)]
    client.request("DELETE", f"/api/predictions/{ids[0]}/")
    progress: list[int] = []
    assert client.delete_predictions(ids[:3], pause=0, on_progress=progress.append) == 2
    assert progress == [1, 2, 3]
    assert client.model_versions(project.id) == {"v1": 9}


# -- the order of the queue


def test_the_order_follows_the_published_version(client: LabelStudio, project: Project, tasks: list[int]) -> None:
    with pytest.raises(LabelStudioError, match="Model version doesn't exist"):
        client.publish_model_version(project.id, "v1")
    orders = {}
    for version in ("v1", "v2"):
        orders[version] = random.Random(version).sample(tasks, len(tasks))
        scored = [item(task, (rank + 0.5) / len(tasks), version) for rank, task in enumerate(orders[version])]
        assert client.import_predictions(project.id, scored).created == 12
    tab = client.ensure_queue_tab(project.id)
    assert client.ensure_queue_tab(project.id) == tab
    assert [score for _, score in client.queue(project.id, tab, 3)] == [None, None, None]
    for version in ("v1", "v2"):
        published = client.publish_model_version(project.id, version)
        assert (published.model_version, published.sampling) == (version, "Uncertainty sampling")
        shown = client.queue(project.id, tab, 100)
        assert [task for task, _ in shown] == orders[version]
        assert [score for _, score in shown] == pytest.approx([(rank + 0.5) / 12 for rank in range(12)])
    assert client.queue(project.id, tab, 2) == shown[:2]
    served = []
    for _ in range(12):
        task = client.next_task(project.id)
        assert task is not None
        served.append(task["id"])
        client.submit_annotation(task["id"], [])
    assert served == orders["v2"]
    assert client.next_task(project.id) is None
    assert client.queue(project.id, tab, 100) == []
    with pytest.raises(LabelStudioError, match="404"):
        client.next_task(999999)


def test_the_tab_shows_little_and_the_image_first(client: LabelStudio, project: Project) -> None:
    view = client.request("GET", f"/api/dm/views/{client.ensure_queue_tab(project.id)}/")
    assert view["data"]["title"] == QUEUE_TAB
    hidden = set(view["data"]["hiddenColumns"]["explore"])
    columns = client.request("GET", "/api/dm/columns", params={"project": project.id})["columns"]
    shown = [c["id"] for c in columns if f"tasks:{c['id']}" not in hidden and c["target"] == "tasks"]
    assert {"id", "total_annotations", "predictions_score", "predictions_model_versions", "image"} <= set(shown)
    assert "annotators" not in shown
    assert "created_at" not in shown


# -- backends and webhooks


def test_connect_change_and_disconnect_a_backend(
    client: LabelStudio, project: Project, stub_backend: tuple[str, list[tuple[str, str | None]]]
) -> None:
    url, calls = stub_backend
    made = client.add_ml_backend(project.id, url, "Stub", basic_auth=("bob", "s3cret"), extra_params={"budget": 5})
    assert ("/health", "Basic Ym9iOnMzY3JldA==") in calls
    assert [hook["url"] for hook in client.webhooks(project.id)] == [f"{url}/webhook"]
    client.update_ml_backend(made["id"], project.id, url, title="Renamed", extra_params={"budget": 6})
    (found,) = client.ml_backends(project.id)
    assert (found["title"], found["extra_params"]) == ("Renamed", {"budget": 6})
    client.train(made["id"])
    assert calls[-1][0] == "/webhook"
    client.delete_ml_backend(made["id"])
    assert client.ml_backends(project.id) == []


def test_a_backend_that_does_not_answer_is_not_left_half_connected(client: LabelStudio, project: Project) -> None:
    with pytest.raises(LabelStudioError, match="health check failed"):
        client.add_ml_backend(project.id, "http://127.0.0.1:9", "Nobody")
    assert client.ml_backends(project.id) == []


def test_webhooks_are_set_once(client: LabelStudio, project: Project) -> None:
    url = "http://127.0.0.1:9/webhook"
    for _ in range(2):  # as Label Studio's own, and one by hand
        client.request("POST", "/api/webhooks/", body={"url": url, "project": project.id, "headers": {}})
    first = client.set_webhook(project.id, url, {"Authorization": "Bearer one"})
    assert client.set_webhook(project.id, url, {"Authorization": "Bearer one"})["id"] == first["id"]
    changed = client.set_webhook(project.id, url, {"Authorization": "Bearer two"})
    assert changed["id"] == first["id"]
    (kept,) = client.webhooks(project.id)
    assert kept["headers"] == {"Authorization": "Bearer two"}
    assert kept["is_active"]
    assert kept["send_for_all_actions"]
    other = client.set_webhook(project.id, "http://127.0.0.1:9/other", {})
    assert len(client.webhooks(project.id)) == 2
    client.delete_webhook(other["id"])
    assert [hook["id"] for hook in client.webhooks(project.id)] == [first["id"]]


# -- tasks and actions


def test_images_are_uploaded_in_order(
    client: LabelStudio, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("al_backend.labelstudio.labelling._FILES_PER_IMPORT", 2)
    files = [tmp_path / f"shot {i}.png" for i in range(5)]
    for index, file in enumerate(files):
        Image.new("RGB", (4, 4), (index, 0, 0)).save(file)
    ids = client.upload_images(project.id, files)
    images = {task.id: task.data["image"] for task in client.open_tasks(project.id)}
    assert [f"shot_{i}" in images[task] for i, task in enumerate(ids)] == [True] * 5
    assert images[ids[0]].startswith(f"/data/upload/{project.id}/")


def test_an_action_on_some_tasks(client: LabelStudio, project: Project, tasks: list[int]) -> None:
    client.import_predictions(project.id, [item(task, 0.5) for task in tasks])
    answer = client.action(project.id, "delete_tasks_predictions", tasks[:2])
    assert answer["processed_items"] == 2
    assert client.model_versions(project.id) == {"v1": 10}
    client.action(project.id, "delete_tasks_predictions")
    assert client.model_versions(project.id) == {}
