"""What large projects rely on, of a real Label Studio and of the simulated one that the load is measured with."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import pytest

from al_backend.demo.server import LabelStudioServer
from al_backend.errors import LabelStudioError
from al_backend.jobs.pool_memory import PoolMemory, superseded
from al_backend.labelstudio.client import LabelStudio, Task
from al_backend.labelstudio.labeling_config import parse_labeling_config
from benchmarks._label_studio.server import SimulatedLabelStudio

CONFIG = """<View><Image name="image" value="$image"/>
<RectangleLabels name="label" toName="image"><Label value="crab"/><Label value="eel"/></RectangleLabels></View>"""


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedLabelStudio]:
    folder = tmp_path_factory.mktemp("images")
    (folder / "one.jpg").write_bytes(b"an image")
    with SimulatedLabelStudio(CONFIG, folder) as server:
        yield server


@pytest.fixture(params=[pytest.param("real", marks=pytest.mark.labelstudio), "simulated"])
def client(request: pytest.FixtureRequest) -> Iterator[LabelStudio]:
    server: LabelStudioServer | SimulatedLabelStudio = request.getfixturevalue(
        "label_studio" if request.param == "real" else "simulated"
    )
    made = LabelStudio(server.url, server.token)
    yield made
    made.close()


@pytest.fixture
def project(request: pytest.FixtureRequest, client: LabelStudio) -> int:
    """With 12 open tasks."""
    if "simulated" in request.node.name:
        server: SimulatedLabelStudio = request.getfixturevalue("simulated")
        return server.add_project(12)
    made = client.create_project(request.node.name[:50], CONFIG).id
    client.import_tasks(made, [{"data": {"image": f"https://x.test/{i}.jpg"}} for i in range(12)])
    return made


@pytest.fixture
def tasks(client: LabelStudio, project: int) -> list[int]:
    return [task.id for task in client.open_tasks(project)]


def item(task: int, score: float, version: str = "v1", **value: Any) -> dict[str, Any]:
    box = {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0, "rectanglelabels": ["crab"]} | value
    region = {"from_name": "label", "to_name": "image", "type": "rectanglelabels", "value": box}
    return {"task": task, "result": [region], "score": score, "model_version": version}


def test_what_was_touched_is_told_from_what_was_not(client: LabelStudio, project: int, tasks: list[int]) -> None:
    pool, others, stamp = client.touched_tasks(project, "")
    assert [task.id for task in pool] == tasks
    assert others == set()
    assert set(pool[0].data) == {"image"}
    assert client.touched_tasks(project, stamp) == ([], set(), stamp)

    client.import_predictions(project, [item(task, 0.5) for task in tasks])
    assert client.touched_tasks(project, stamp) == ([], set(), stamp), "predictions touch nothing"

    client.submit_annotation(tasks[3], [])
    pool, others, later = client.touched_tasks(project, stamp)
    assert (pool, others) == ([], {tasks[3]})
    assert later > stamp
    assert client.count_open_tasks(project) == 11
    assert client.open_task_ids(project) == set(tasks) - {tasks[3]}


def test_predictions_come_page_by_page_with_all_of_a_task(
    client: LabelStudio, project: int, tasks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("al_backend.labelstudio.reading._PREDICTION_PAGE", 5)
    client.import_predictions(project, [item(task, 0.25, "v1") for task in tasks])
    client.import_predictions(project, [item(task, 0.75, "v1+r2") for task in tasks[:6]])
    pages = list(client.predictions_of(project, "v1"))
    assert [len({row.task for row in page}) for page in pages] == [5, 5, 2]
    rows = [row for page in pages for row in page]
    assert {(row.task, row.score) for row in rows if row.model_version == "v1"} == {(task, 0.25) for task in tasks}
    # Label Studio finds "v1+r2" when it is asked for "v1", and of no other task than asked for.
    assert sorted(row.task for row in rows if row.model_version == "v1+r2") == tasks[:6]
    renamed = [row for page in client.predictions_of(project, "v1+r2") for row in page]
    assert {row.task for row in renamed} == set(tasks[:6])
    several = [row for page in client.predictions_of(project, "v1", several=True) for row in page]
    assert {row.task for row in several} == set(tasks[:6])
    assert client.tasks_with_version(project, "v1+r2", first=tasks[2], last=tasks[4]) == set(tasks[2:5])
    assert client.tasks_with_version(project, "v1+r2", first=tasks[5]) == {tasks[5]}
    assert list(client.predictions_of(project, "v9")) == [[]]


def test_of_two_predictions_of_a_version_the_older_is_superseded(
    client: LabelStudio, project: int, tasks: list[int]
) -> None:
    client.import_predictions(project, [item(task, 0.25) for task in tasks])
    first = {row.task: row.id for row in client.predictions(project)}
    assert superseded(client, project, "v1", 12, 50) == []
    client.import_predictions(project, [item(task, 0.5) for task in tasks[4:7]], absent=True)
    assert superseded(client, project, "v1", 15, 50) == [first[task] for task in tasks[4:7]]
    assert len(superseded(client, project, "v1", 15, 2)) == 2
    assert superseded(client, project, "v1", 0, 50) == []


def test_what_is_invalid_is_dropped_and_what_is_unknown_refuses_all(
    client: LabelStudio, project: int, tasks: list[int]
) -> None:
    report = client.import_predictions(project, [item(tasks[0], 0.5), item(tasks[1], 7.5), item(tasks[2], 0.1, x=500)])
    assert (report.created, report.dropped) == (1, (tasks[1], tasks[2]))
    with pytest.raises(LabelStudioError) as refused:
        client.request("POST", f"/api/projects/{project}/import/predictions", body=[item(10**9, 0.5)])
    assert refused.value.status == 400
    with pytest.raises(LabelStudioError, match="Model version"):
        client.publish_model_version(project, "v2")


def test_the_stream_and_the_tab_follow_the_published_version(
    client: LabelStudio, project: int, tasks: list[int]
) -> None:
    tab = client.ensure_queue_tab(project)
    assert client.ensure_queue_tab(project) == tab
    client.import_predictions(project, [item(task, (n + 0.5) / 12) for n, task in enumerate(reversed(tasks))])
    client.publish_model_version(project, "v1")
    assert [task for task, _ in client.queue(project, tab, 12)] == tasks[::-1]
    for expected in tasks[:-4:-1]:
        first = client.next_task(project)
        assert first is not None
        assert first["id"] == expected
        client.submit_annotation(expected, [])
    assert [task for task, _ in client.queue(project, tab, 12)] == tasks[-4::-1]


def test_a_remembered_pool_is_the_pool(
    client: LabelStudio, project: int, tasks: list[int], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr("al_backend.jobs.pool_memory.SMALL", 3)
    config = parse_labeling_config(CONFIG)
    memory = PoolMemory()
    asked: list[str] = []
    ask = client.touched_tasks

    def noted(project: int, since: str) -> tuple[list[Task], set[int], str]:
        asked.append(since)
        return ask(project, since)

    monkeypatch.setattr(client, "touched_tasks", noted)

    def pool() -> list[int]:
        return [task.id for task in memory.pool(client, project, config)]

    assert pool() == tasks
    assert pool() == tasks
    client.submit_annotation(tasks[0], [])
    assert pool() == tasks[1:]
    if request.node.name.endswith("[real]"):
        client.request("POST", f"/api/projects/{project}/import", body=[{"data": {"image": "https://x.test/n.jpg"}}])
    else:
        request.getfixturevalue("simulated").add_tasks(project, 1)
    new = max(client.open_task_ids(project))
    assert pool() == [*tasks[1:], new]
    assert asked.count("") == 1, "only the first look reads everything"

    # What is remembered wrongly is noticed by counting.
    memory._pools[project].tasks.pop(tasks[5])
    memory._pools[project].ahead = datetime(2999, 1, 1, tzinfo=timezone.utc)
    assert pool() == [*tasks[1:], new]
    assert asked.count("") == 2


def test_remembered_predictions_are_those_that_are_stored(
    client: LabelStudio, project: int, tasks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("al_backend.jobs.pool_memory.SMALL", 3)
    memory, pool = PoolMemory(), client.open_tasks(project)
    asked: list[int] = []
    ask = client.tasks_with_version

    def noted(project: int, version: str, *, first: int = 0, last: int | None = None) -> set[int]:
        asked.append(first)
        return ask(project, version, first=first, last=last)

    monkeypatch.setattr(client, "tasks_with_version", noted)

    def scored() -> set[int]:
        return memory.scored(client, project, "v1", client.model_versions(project), pool)

    assert scored() == set()
    client.import_predictions(project, [item(task, 0.5) for task in tasks[:10]])
    asked.clear()
    assert scored() == set(tasks[:10])
    assert scored() == set(tasks[:10])
    assert asked == [tasks[0]]
    client.import_predictions(project, [item(tasks[10], 0.5)], absent=True)
    assert scored() == set(tasks[:11])
    assert asked == [tasks[0], tasks[10]], "only the new ones are read"
    client.delete_predictions([row.id for row in client.predictions(project, task_id=tasks[0])])
    assert scored() == set(tasks[1:11])
    assert asked == [tasks[0], tasks[10], tasks[11], 0]
