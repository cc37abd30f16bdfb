"""How long a person waits for the dashboard's first byte, with 100,000 tasks in a project and 50 versions.

The web server as it is served, a registry with that project, a real Redis with workers' heartbeats and a queue of
shards. Pages are asked for in turns over a connection of their own each, so that whatever else the machine does hits
all of them. The first visit, which reads the versions and draws the pictures, is told apart.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import polars as pl

from al_backend.child_process import start_child, stop_child
from al_backend.demo.backend import free_port
from al_backend.errors import BackendError
from al_backend.jobs.context import Context
from al_backend.jobs.documents import PUBLISHED
from al_backend.jobs.embedded_redis import EmbeddedRedis
from al_backend.jobs.liveness import ensure_job, living_worker
from al_backend.jobs.observed import OBSERVED
from al_backend.jobs.queues import QueueName, Queues, connect_to
from al_backend.jobs.ranking import order
from al_backend.jobs.strategies import context_fields, strategy_fields
from al_backend.jobs.workers import GROUPS
from al_backend.processes import child_environment
from al_backend.registry import GateVerdict, Ranking, Registry, Version
from al_backend.settings import Settings, load_settings
from benchmarks._report import Goal, Options, Outcome, main, percentile, spread

PROJECT = 1
TASKS = 100_000
VERSIONS = 50
LABELS_PER_VERSION = 400
SHARD = 512
WAITING = 100
"""Jobs in the queue while the pages are asked for."""

GOAL_MS = 300.0
CLASSES = tuple(f"species_{number}" for number in range(12))
PAGES = {
    "projects": "/dashboard",
    "learning": f"/dashboard/projects/{PROJECT}",
    "queue": f"/dashboard/projects/{PROJECT}/queue",
    "queue, page 10": f"/dashboard/projects/{PROJECT}/queue?from=216",
    "versions": f"/dashboard/projects/{PROJECT}/versions",
    "health": f"/dashboard/projects/{PROJECT}/health",
    "jobs": "/dashboard/jobs",
    "progress": f"/dashboard/projects/{PROJECT}/live",
}
_START = datetime(2026, 1, 5, 9, tzinfo=timezone.utc)


def measure(options: Options) -> Outcome:
    """Rounds over all pages; the first one is the first visit."""
    rounds = 15 if options.quick else 60
    with tempfile.TemporaryDirectory(prefix="al-benchmark-") as name, ExitStack() as stack:
        folder = Path(name)
        redis = stack.enter_context(EmbeddedRedis(folder / "redis"))
        settings = load_settings(
            model_dir=str(folder / "registry"),
            data_dir=folder / "data",
            redis_url=redis.url,
            port=free_port(),
            label_studio_url="http://127.0.0.1:9",  # nobody waits for Label Studio: nothing answers there
            log_level="WARNING",
        )
        queues = connect_to(redis.url)
        seconds = _prepare(settings, queues, folder)
        for kind, names in GROUPS.items():
            stack.enter_context(living_worker(queues.connection, names, kind=kind, device="cpu"))
        command = [sys.executable, "-m", "al_backend.http.serve"]
        server = start_child(command, env={**os.environ, **child_environment(settings)})
        stack.callback(stop_child, server, grace=10.0)
        _until_it_answers(settings)
        times: dict[str, list[float]] = {page: [] for page in PAGES}
        sizes: dict[str, int] = {}
        for _ in range(rounds + 1):
            for page, address in PAGES.items():
                elapsed, sizes[page] = _first_byte(settings.port, address)
                times[page].append(elapsed * 1000)
    outcome = Outcome(
        results=[
            {
                "page": page,
                "first_visit_ms": round(values[0], 1),
                "first_byte_ms": spread(values[1:]),
                "p95_ms": percentile(values[1:], 95),
                "kilobytes": round(sizes[page] / 1000, 1),
            }
            for page, values in times.items()
        ],
        notes=[
            f"{TASKS} tasks in the published order, {VERSIONS} versions with up to "
            f"{VERSIONS * LABELS_PER_VERSION} labels, {len(CLASSES)} classes, {WAITING} jobs waiting, one web process. "
            f"Making that order, with the reasons of its first places, took {seconds:.1f} s."
        ],
    )
    worst = max(row["first_byte_ms"]["median"] for row in outcome.results)
    outcome.goals = [
        Goal("first byte of the slowest page, median, ms", worst, f"< {GOAL_MS:.0f}", worst < GOAL_MS),
    ]
    return outcome


def _first_byte(port: int, address: str) -> tuple[float, int]:
    """Seconds from the request to the first byte of the answer, and the bytes of the page."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        started = time.perf_counter()
        connection.request("GET", address)
        answer = connection.getresponse()
        elapsed = time.perf_counter() - started
        body = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise BackendError(f"{address} answered {answer.status}: {body[:300]!r}")
    return elapsed, len(body)


def _prepare(settings: Settings, queues: Queues, folder: Path) -> float:
    """The project in the registry; returns the seconds that ordering it took."""
    registry = Registry(settings.model_dir)
    labels = "".join(f'<Label value="{name}"/>' for name in CLASSES)
    config = (
        f'<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image">{labels}'
        "</RectangleLabels></View>"
    )
    registry.register_project(PROJECT, label_config=config, overrides={})
    weights = folder / "weights"
    weights.mkdir()
    (weights / "weights.safetensors").write_bytes(bytes(1_000_000))
    version = [_add_version(registry, number, weights) for number in range(1, VERSIONS + 1)][-1]
    ranking = Ranking(
        id=version.name,
        project=PROJECT,
        version=version.name,
        model_version=version.name,
        strategy=strategy_fields(settings.learning, version.detector),
        context=context_fields(version, settings.learning),
        created_at=_START + timedelta(days=60),
        tasks=TASKS,
        shard_size=SHARD,
        shards=-(-TASKS // SHARD),
    )
    ids = np.arange(1, TASKS + 1)
    images = pl.Series("image", [f"/data/upload/1/{task:08d}.jpg" for task in ids])
    registry.create_ranking(ranking, pl.DataFrame({"task_id": ids, "image": images, "shard": (ids - 1) // SHARD}))
    measured = _measured(ids)
    for index in range(ranking.shards):
        registry.write_shard(PROJECT, ranking.id, index, measured[index * SHARD : (index + 1) * SHARD])
    here = Context(settings)
    vars(here).update(registry=registry, queues=queues)
    started = time.perf_counter()
    order(here, ranking)
    seconds = time.perf_counter() - started
    published = {"ranking": ranking.id, "version": version.name, "model_version": version.name, "tasks": TASKS}
    registry.write_document(PROJECT, PUBLISHED, published | {"published_at": _START.isoformat()})
    registry.write_document(
        PROJECT,
        OBSERVED,
        {
            "at": datetime.now(timezone.utc).isoformat(),
            "title": "A large survey",
            "labels": VERSIONS * LABELS_PER_VERSION,
            "new_labels": 3,
            "missing_labels": 17,
            "pool": TASKS,
            "scored": TASKS,
            "model_version": version.name,
            "ranking": ranking.id,
            "taken": [],
        },
    )
    for index in range(WAITING):
        meta = {"project": PROJECT, "kind": "score", "ranking": ranking.id}
        job = f"score-{PROJECT}-{ranking.id}-{index}".replace(".", "_")
        ensure_job(queues, QueueName.SCORE, job, "al_backend.jobs.ranking.score_shard", timeout=60, meta=meta)
    return seconds


def _measured(ids: np.ndarray) -> pl.DataFrame:
    """What shards hold: uncertainties, and two boxes per image on average."""
    random = np.random.default_rng(0)
    counts = random.poisson(2, len(ids))
    regions = [json.dumps([_region(random) for _ in range(count)]) for count in counts]
    error = [None if task % 997 else "The image answered 404." for task in ids]
    return pl.DataFrame(
        {
            "task_id": ids,
            "uncertainty": random.gamma(2.0, 0.5, len(ids)) * (counts > 0),
            "boxes": counts.astype(np.float64),
            "regions": regions,
            "error": pl.Series(error, dtype=pl.String),
        }
    )


def _region(random: np.random.Generator) -> dict[str, object]:
    x, y, width, height = (float(value) for value in np.round(random.uniform(5, 45, 4), 4))
    label = CLASSES[int(random.integers(len(CLASSES)))]
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": 0, "rectanglelabels": [label]}
    return {
        "id": f"{int(random.integers(2**40)):010x}",
        "from_name": "label",
        "to_name": "image",
        "type": "rectanglelabels",
        "original_width": 1920,
        "original_height": 1080,
        "image_rotation": 0,
        "score": round(float(random.uniform(0.25, 1)), 5),
        "value": value,
    }


def _add_version(registry: Registry, number: int, weights: Path) -> Version:
    labels = number * LABELS_PER_VERSION
    quality = 0.75 * (1 - float(np.exp(-labels / 6000))) + 0.01 * (number % 3)
    per_class = {
        name: {"ap50": quality * (0.7 + 0.05 * index), "ap50_95": quality / 2, "boxes": labels // 40}
        for index, name in enumerate(CLASSES)
    }
    made = _START + timedelta(days=number)
    version = Version(
        name=f"yolov5n-v{number}-{number:06x}",
        number=number,
        project=PROJECT,
        detector="yolov5n",
        classes=CLASSES,
        created_at=made,
        snapshot_at=made,
        labels={str(task): f"{task:040x}" for task in range(1, labels + 1)},
        label_counts={name: labels // (index + 1) for index, name in enumerate(CLASSES)},
        train_images=labels * 4 // 5,
        validation_images=labels // 5,
        boxes=labels * 3,
        metrics={
            "map50": quality,
            "map50_95": quality / 2,
            "images": labels // 5,
            "boxes": labels // 2,
            "per_class": per_class,
            "intervals": {
                "map50": (quality - 0.02, quality + 0.02),
                "map50_95": (quality / 2 - 0.01, quality / 2 + 0.01),
            },
        },
        training={"seconds": 900.0},
        settings={},
        gate=GateVerdict(promoted=number % 7 != 0, reason=f"mAP50 {quality:.3f} on {labels // 5} held-out images."),
    )
    registry.add_version(version, weights)
    if version.gate.promoted:
        registry.promote(PROJECT, version.name, reason=version.gate.reason)
    return version


def _until_it_answers(settings: Settings, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            _first_byte(settings.port, "/health")
        except (OSError, http.client.HTTPException) as error:
            if time.monotonic() > deadline:
                raise BackendError(f"The web server does not answer within {seconds:.0f} s.") from error
            time.sleep(0.2)
        else:
            return


if __name__ == "__main__":
    raise SystemExit(main("dashboard", "How long does a person wait for the dashboard's first byte?", measure))
