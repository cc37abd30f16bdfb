"""Label Studio as teams run it: on PostgreSQL, legacy tokens switched off, access tokens that run out in mid-run.

Its tables are made from its models as they are now: its 300 migrations would come to the same and take a minute.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from al_backend.demo.server import LabelStudioServer
from al_backend.errors import LabelStudioError
from al_backend.labelstudio.client import LabelStudio, Project
from tests.al_backend.faults.field import Field
from tests.al_backend.labelstudio.postgres import PostgresServer, find_initdb
from tests.al_backend.labelstudio.test_client_live import CONFIG, item

pytestmark = [pytest.mark.labelstudio, pytest.mark.slow]

TOKEN_SECONDS = 6
TASKS = 12
SETTINGS = f"""
from datetime import timedelta
from core.settings.base import *
from core.settings.label_studio import *

SIMPLE_JWT = {{"ACCESS_TOKEN_LIFETIME": timedelta(seconds={TOKEN_SECONDS})}}


class _NoMigrations:
    def __contains__(self, name):
        return True

    def __getitem__(self, name):
        return None


MIGRATION_MODULES = _NoMigrations()
"""


@pytest.fixture(scope="module")
def on_postgres(label_studio_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudioServer]:
    """Label Studio on PostgreSQL. Its `token` is a personal access token, the legacy one is of no use."""
    initdb = find_initdb()
    if initdb is None:
        pytest.skip("no initdb on PATH or in /usr/lib/postgresql: install Debian's postgresql")
    folder = tmp_path_factory.mktemp("postgres")
    (folder / "teams_settings.py").write_text(SETTINGS)
    package = next((label_studio_program.parent.parent / "lib").glob("python3*/site-packages/label_studio"))
    with PostgresServer(initdb) as database:
        environment = database.environment | {
            "PYTHONPATH": os.pathsep.join([str(folder), str(package)]),
            "DJANGO_SETTINGS_MODULE": "teams_settings",
        }
        make_tables(label_studio_program.with_name("python"), environment, folder)
        with LabelStudioServer(label_studio_program, folder / "label-studio", environment=environment) as server:
            use_personal_access_token_only(server)
            yield server


def make_tables(python: Path, environment: dict[str, str], folder: Path) -> None:
    quiet = {"HOME": str(folder), "COLLECT_ANALYTICS": "false", "SENTRY_DSN": "", "LATEST_VERSION_CHECK": "false"}
    made = subprocess.run(
        [python, "-m", "django", "migrate", "--run-syncdb", "-v0"],
        env=environment | quiet | {"LABEL_STUDIO_BASE_DATA_DIR": str(folder / "tables"), "PATH": os.defpath},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert made.returncode == 0, made.stderr


def use_personal_access_token_only(server: LabelStudioServer) -> None:
    headers = {"Authorization": f"Token {server.token}"}
    switch = f"{server.url}/api/jwt/settings"
    both = {"api_tokens_enabled": True, "legacy_api_tokens_enabled": True}
    httpx.post(switch, json=both, headers=headers).raise_for_status()
    answer = httpx.post(f"{server.url}/api/token/", headers=headers)
    answer.raise_for_status()
    httpx.post(switch, json=both | {"legacy_api_tokens_enabled": False}, headers=headers).raise_for_status()
    server.legacy_token, server.token = server.token, str(answer.json()["token"])  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def client(on_postgres: LabelStudioServer) -> Iterator[LabelStudio]:
    client = LabelStudio(on_postgres.url, on_postgres.token)
    yield client
    client.close()


@pytest.fixture
def project(client: LabelStudio, request: pytest.FixtureRequest) -> Project:
    return client.create_project(request.node.name[:50], CONFIG)


@pytest.fixture
def tasks(client: LabelStudio, project: Project) -> list[int]:
    client.import_tasks(project.id, [{"data": {"image": f"https://x.test/{i}.jpg"}} for i in range(TASKS)])
    return sorted(client.task_ids(project.id))


def served(client: LabelStudio, project: Project) -> list[int]:
    """All tasks as Label Studio serves them, each skipped."""
    order: list[int] = []
    while (task := client.next_task(project.id)) is not None and task["id"] not in order:
        order.append(int(task["id"]))
        client.submit_annotation(order[-1], [])
    return order


def imported(client: LabelStudio, project: Project, items: list[dict[str, Any]]) -> None:
    """Past our own checks, which would refuse what is to be tried."""
    created = client.request("POST", f"/api/projects/{project.id}/import/predictions", body=items)
    assert created["created"] == len(items)


def test_the_order_follows_the_published_version_through_a_roll_over(
    client: LabelStudio, project: Project, tasks: list[int]
) -> None:
    orders = {}
    for version in ("v1", "v10"):  # Label Studio's filter by name finds both under "v1"
        orders[version] = random.Random(version).sample(tasks, TASKS)
        scored = [item(task, (rank + 0.5) / TASKS, version) for rank, task in enumerate(orders[version])]
        assert client.import_predictions(project.id, scored, pause=0).created == TASKS
        again = client.import_predictions(project.id, scored, pause=0)
        assert (again.created, again.present) == (0, TASKS)
        assert client.tasks_with_version(project.id, version) == set(tasks)
    tab = client.ensure_queue_tab(project.id)
    for version in ("v1", "v10"):
        client.publish_model_version(project.id, version)
        shown = client.queue(project.id, tab, 100)
        assert [task for task, _ in shown] == orders[version]
        assert [score for _, score in shown] == pytest.approx([(rank + 0.5) / TASKS for rank in range(TASKS)])
    assert served(client, project) == orders["v10"]


def test_where_null_scores_and_duplicates_go(client: LabelStudio, project: Project, tasks: list[int]) -> None:
    """The traps behind "exactly one finite score per task and version"; PostgreSQL sorts nulls last, SQLite first."""
    scores = {task: (rank + 0.5) / TASKS for rank, task in enumerate(tasks)}
    without, twice = tasks[0], tasks[-1]
    rows = [item(task, score, "v1") for task, score in scores.items()]
    rows[0]["score"] = None
    imported(client, project, [*rows, item(twice, 0.001, "v1")])
    client.publish_model_version(project.id, "v1")
    tab = client.ensure_queue_tab(project.id)
    in_tab = [task for task, _ in client.queue(project.id, tab, 100)]
    in_stream = served(client, project)
    assert in_stream == [twice, *tasks[1:-1], without]
    assert in_tab == [*tasks[1:6], twice, *tasks[6:-1], without]


def test_new_tasks_come_last_until_they_are_scored(client: LabelStudio, project: Project, tasks: list[int]) -> None:
    client.import_predictions(project.id, [item(task, 0.5 + 0.01 * i, "v1") for i, task in enumerate(tasks)], pause=0)
    client.publish_model_version(project.id, "v1")
    client.import_tasks(project.id, [{"data": {"image": "https://x.test/new.jpg"}}])
    (new,) = client.task_ids(project.id) - set(tasks)
    tab = client.ensure_queue_tab(project.id)
    assert [task for task, _ in client.queue(project.id, tab, 100)] == [*tasks, new]
    client.import_predictions(project.id, [item(new, 0.1, "v1")])
    assert [task for task, _ in client.queue(project.id, tab, 100)] == [new, *tasks]
    assert served(client, project) == [new, *tasks]


def test_deleting_the_shown_version_clears_the_project_s(
    client: LabelStudio, project: Project, tasks: list[int]
) -> None:
    client.import_predictions(project.id, [item(task, 0.5, version) for task in tasks for version in ("v1", "v2")])
    client.publish_model_version(project.id, "v2")
    path = f"/api/projects/{project.id}/model-versions"
    client.request("DELETE", path, body={"model_version": "v1"})
    assert client.project(project.id).model_version == "v2"
    client.request("DELETE", path, body={"model_version": "v2"})
    assert client.project(project.id).model_version == ""


def test_a_legacy_token_is_refused_in_words(on_postgres: LabelStudioServer) -> None:
    legacy = LabelStudio(on_postgres.url, on_postgres.legacy_token)  # type: ignore[attr-defined]
    with pytest.raises(LabelStudioError, match=r"legacy token authentication has been disabled.*LABEL_STUDIO_API_KEY"):
        legacy.whoami()
    legacy.close()


def test_an_access_token_that_ran_out_is_replaced(on_postgres: LabelStudioServer) -> None:
    client = LabelStudio(on_postgres.url, on_postgres.token)
    client.whoami()
    first = client.auth._access
    client.auth._good_until = float("inf")  # as if our clock ran slower than Label Studio's
    time.sleep(TOKEN_SECONDS + 1)
    assert client.whoami()["email"] == on_postgres.email
    assert client.auth._access != first
    client.close()


@pytest.mark.redis
def test_two_cycles_with_nothing_but_a_personal_access_token(
    on_postgres: LabelStudioServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    field = Field(on_postgres, tmp_path)
    with field.backend:
        before = refreshes(on_postgres)
        project = field.project("On PostgreSQL")
        field.wait_published(project, number=1)
        field.check(project, versions=1, stream=False)
        field.label_more(project, 4)
        field.wait_published(project, number=2)
        field.check(project, versions=2)
        assert refreshes(on_postgres) > before + 2, "the run was shorter than a token's life"
        said = field.backend.log_tail(1_000_000)
        assert f"project={project}" in said
        assert on_postgres.token not in said
        assert "eyJ" not in said, "nor one of the tokens that it is exchanged for"
    field.client.close()


def refreshes(server: LabelStudioServer) -> int:
    return server.log_path.read_text(errors="replace").count("/api/token/refresh/")
