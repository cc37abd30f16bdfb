"""How much slower `/predict` is than Ultralytics called directly on the same files with the same weights.

Ours is the whole way: HTTP, queue, inference worker, cached image, network, regions, place in the order of a ranked
pool. Theirs is `YOLO(...).predict(paths)` in this process. Both run in turns, so that whatever else the machine does
hits both; every pair of neighbours gives one ratio.
"""

from __future__ import annotations

import copy
import functools
import http.server
import logging
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl

from al_backend.demo.backend import RunningBackend, free_port
from al_backend.demo.sample import label_config
from al_backend.errors import BackendError
from al_backend.jobs.documents import PUBLISHED
from al_backend.jobs.liveness import has_worker
from al_backend.jobs.queues import QueueName
from al_backend.jobs.strategies import strategy_fields
from al_backend.registry import GateVerdict, Ranking, Registry, Version
from al_backend.settings import Settings, load_settings
from benchmarks._report import Goal, Options, Outcome, main, spread
from model.acquisition.order import order_scores
from model.data.reef import OTHER_SPECIES, write_reef
from model.detectors.factory import create, find_base, load
from model.detectors.yolo import YoloDetector

PROJECT = 1
ARCHITECTURE = "yolov5n"
IMAGE_SIZE = 640
SCENE = (480, 640)
RANKED = 10_000
"""Tasks in the ranking that live tasks are placed in."""

BATCHES = (1, 16)
GOAL_RATIO = 1.3
CONFIDENCE = 0.1
OVERLAP = 0.7


def measure(options: Options) -> Outcome:
    """Pairs of calls for 1 and for 16 tasks."""
    pairs = {1: 15, 16: 6} if options.quick else {1: 60, 16: 25}
    with tempfile.TemporaryDirectory(prefix="al-benchmark-") as name:
        folder = Path(name)
        write_reef(folder / "scenes", max(BATCHES), seed=5, size=SCENE, species=OTHER_SPECIES)
        paths = sorted((folder / "scenes").rglob("*.jpg"))
        with _file_server(paths[0].parent) as address:
            settings = _settings(folder, address)
            version = _prepare(settings, folder)
            theirs = _ultralytics(Registry(settings.model_dir).fetch_version(PROJECT, version.name))
            backend = RunningBackend(settings, folder / "backend.log")
            with backend, httpx.Client(timeout=120, trust_env=False) as http_:
                _wait_for_worker(backend)
                ours = functools.partial(_ask, http_, f"http://127.0.0.1:{settings.port}/predict", address)
                outcome = Outcome()
                for batch in BATCHES:
                    outcome.results += _pairs(ours, theirs, paths[:batch], pairs[batch])
    outcome.notes = [
        f"{ARCHITECTURE} at {IMAGE_SIZE} px, scenes of {SCENE[1]} x {SCENE[0]} px, {RANKED} tasks in the ranking; "
        "images in our cache, files on disk for Ultralytics.",
        "ultralytics: its default for a list of paths, one image per forward pass; ultralytics_batched: batch=16.",
    ]
    largest = max(BATCHES)
    ratio = max(row["ratio"]["median"] for row in outcome.results if row["tasks"] == largest)
    name = f"/predict of {largest} tasks against the faster of Ultralytics' two ways, ratio"
    outcome.goals = [Goal(name, ratio, f"at most {GOAL_RATIO}", ratio <= GOAL_RATIO)]
    return outcome


def _pairs(ours: Any, theirs: Any, paths: list[Path], count: int) -> list[dict[str, Any]]:
    ways = {"ultralytics": 1} if len(paths) == 1 else {"ultralytics": 1, "ultralytics_batched": len(paths)}
    for _ in range(2):
        found = [len(result["result"]) for result in ours(paths)]
        expected = {name: [len(result.boxes) for result in theirs(paths, batch)] for name, batch in ways.items()}
    times: dict[str, list[float]] = {"ours": [], **{name: [] for name in ways}}
    for number in range(count):
        calls = [("ours", functools.partial(ours, paths))]
        calls += [(name, functools.partial(theirs, paths, batch)) for name, batch in ways.items()]
        for name, call in calls[number % len(calls) :] + calls[: number % len(calls)]:
            started = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - started)
    rows = []
    for name in ways:
        ratios = [own / other for own, other in zip(times["ours"], times[name], strict=True)]
        rows.append(
            {
                "tasks": len(paths),
                "against": name,
                "pairs": count,
                "ours_ms": spread([1000 * value for value in times["ours"]]),
                "theirs_ms": spread([1000 * value for value in times[name]]),
                "ratio": spread(ratios),
                "boxes_ours": sum(found),
                "boxes_theirs": sum(expected[name]),
            }
        )
    return rows


def _wait_for_worker(backend: RunningBackend) -> None:
    deadline = time.monotonic() + 120
    while not has_worker(backend.queues.connection, QueueName.PREDICT):
        if time.monotonic() > deadline:
            raise BackendError(f"No inference worker came up; the backend's last lines:\n{backend.log_tail(30)}")
        time.sleep(0.2)


def _ask(client: httpx.Client, url: str, address: str, paths: list[Path]) -> list[dict[str, Any]]:
    tasks = [
        {"id": RANKED + index, "data": {"image": f"{address}/{path.name}"}, "annotations": [], "predictions": []}
        for index, path in enumerate(paths)
    ]
    answer = client.post(url, json={"tasks": tasks, "project": f"{PROJECT}.0", "params": {}})
    answer.raise_for_status()
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


def _ultralytics(folder: Path) -> Any:
    """`YOLO(...).predict` with the network of a stored version."""
    detector = load(folder, device="auto")
    if not isinstance(detector, YoloDetector):
        raise TypeError(f"{folder} holds a {type(detector).__name__}, expected a YoloDetector")
    from ultralytics import YOLO  # after our own door to it, which undoes what importing it changes

    network = copy.deepcopy(detector._network)
    network.names = dict(enumerate(detector.classes))
    yolo = YOLO(f"{ARCHITECTURE}.yaml", task="detect")
    yolo.model = network

    def predict(paths: list[Path], batch: int) -> list[Any]:
        sources = [str(path) for path in paths]
        found = yolo.predict(
            sources, imgsz=IMAGE_SIZE, conf=CONFIDENCE, iou=OVERLAP, batch=batch, device=detector.device, verbose=False
        )
        return list(found)

    return predict


def _settings(folder: Path, address: str) -> Settings:
    port = free_port()
    return load_settings(
        label_studio_url="http://127.0.0.1:9",  # nobody: only live predictions are asked for
        label_studio_api_key="0" * 40,
        redis_url=None,
        model_dir=str(folder / "models"),
        data_dir=folder / "data",
        host="127.0.0.1",
        port=port,
        image_hosts=(address.removeprefix("http://"),),
        image_size=IMAGE_SIZE,
        measure_threshold=CONFIDENCE,
        score_threshold=CONFIDENCE,
        reconcile_every=100_000.0,
        log_level="WARNING",
    )


def _prepare(settings: Settings, folder: Path) -> Version:
    """A project with a version, a ranking of `RANKED` tasks and the note that it is published."""
    registry = Registry(settings.model_dir)
    registry.register_project(PROJECT, label_config=label_config(OTHER_SPECIES), overrides={})
    detector = create(ARCHITECTURE, OTHER_SPECIES, image_size=IMAGE_SIZE, base=find_base(ARCHITECTURE, None))
    detector.save(folder / "weights")
    moment = datetime.now(timezone.utc)
    version = Version(
        name=f"{ARCHITECTURE}-v1-abcdef",
        number=1,
        project=PROJECT,
        detector=ARCHITECTURE,
        classes=OTHER_SPECIES,
        created_at=moment,
        snapshot_at=moment,
        labels={},
        label_counts=dict.fromkeys(OTHER_SPECIES, 10),
        train_images=10,
        validation_images=0,
        boxes=10,
        training={},
        settings={},
        gate=GateVerdict(promoted=True, reason="the first one"),
    )
    registry.add_version(version, folder / "weights")
    registry.promote(PROJECT, version.name, reason="the first one")
    ranking = Ranking(
        id=version.name,
        project=PROJECT,
        version=version.name,
        model_version=version.name,
        strategy=strategy_fields(settings.learning, version.detector),
        context={"classes": list(OTHER_SPECIES), "label_counts": [10] * len(OTHER_SPECIES), "seed": 0},
        created_at=moment,
        tasks=RANKED,
        shard_size=RANKED,
        shards=1,
    )
    ids = np.arange(RANKED)
    registry.create_ranking(ranking, pl.DataFrame({"task_id": ids, "image": [""] * RANKED, "shard": [0] * RANKED}))
    order = pl.DataFrame(
        {
            "rank": ids,
            "task_id": ids,
            "informativeness": np.linspace(5, 0, RANKED),
            "regions": ["[]"] * RANKED,
            "error": pl.Series([None] * RANKED, dtype=pl.String),
            "order_score": order_scores(RANKED),
        }
    )
    registry.write_order(PROJECT, ranking.id, order)
    published = {"ranking": ranking.id, "version": version.name, "model_version": version.name}
    registry.write_document(PROJECT, PUBLISHED, published)
    return version


@contextmanager
def _file_server(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            logging.getLogger(__name__).debug(format, *args)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


if __name__ == "__main__":
    raise SystemExit(main("predict_latency", "What does /predict cost beside Ultralytics called directly?", measure))
