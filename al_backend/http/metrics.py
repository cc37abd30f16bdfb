"""What `/metrics` shows.

Requests are counted where they are answered. With one web process they live in its memory. With several, each process
keeps its counts in a memory-mapped file of a common folder and whichever answers the scrape adds them up, so the
numbers are those of the whole server; they start again from zero with it. Queue depths, workers and versions are read
from Redis and the registry at the scrape, so every process shows the same.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import redis
from flask import Flask, Response, current_app, g, request
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from al_backend.errors import BackendError
from al_backend.http.services import Services
from al_backend.jobs import liveness
from al_backend.jobs.queues import QueueName

logger = logging.getLogger(__name__)

CONTENT_TYPE = CONTENT_TYPE_LATEST

_EXTENSION = "al_backend_metrics"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 100)
_REGISTRY_SECONDS = 30.0


class Metrics:
    """The metrics of one web process.

    Args:
        here: services of the app.
        shared_folder: where several processes keep their counts; None when there is one.
    """

    def __init__(self, here: Services, shared_folder: Path | None = None) -> None:
        self._shared_folder = shared_folder
        self._requests_registry = CollectorRegistry()
        self._state_registry = CollectorRegistry()
        self._state_registry.register(_State(here))
        self.requests = Counter(
            "al_backend_requests",
            "Requests answered.",
            ["route", "method", "status"],
            registry=self._requests_registry,
        )
        self.seconds = Histogram(
            "al_backend_request_seconds",
            "Time to answer a request.",
            ["route"],
            buckets=_BUCKETS,
            registry=self._requests_registry,
        )

    def observe(self, status: int, seconds: float) -> None:
        """Count the current request; unknown routes and methods share a label, or a scanner could make millions."""
        route = request.url_rule.rule if request.url_rule else "unknown"
        method = request.method if request.method in _METHODS else "other"
        self.requests.labels(route, method, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def render(self) -> bytes:
        """Everything in Prometheus' text format."""
        requests = self._requests_registry
        if self._shared_folder is not None:
            requests = CollectorRegistry()
            MultiProcessCollector(requests, path=str(self._shared_folder))
        return generate_latest(requests) + generate_latest(self._state_registry)


def install_metrics(app: Flask, here: Services, shared_folder: Path | None) -> None:
    """Count every request of the app, those that are refused included."""
    measured = app.extensions[_EXTENSION] = Metrics(here, shared_folder)

    def start() -> None:
        g.started_at = time.perf_counter()

    def finish(response: Response) -> Response:
        measured.observe(response.status_code, time.perf_counter() - g.started_at)
        return response

    app.before_request(start)
    app.after_request(finish)


def metrics() -> Metrics:
    """The metrics of the app that handles the current request."""
    return cast(Metrics, current_app.extensions[_EXTENSION])


class _State(Collector):
    """Queues, workers and versions at the moment of the scrape."""

    def __init__(self, here: Services) -> None:
        self._here = here
        self._versions: list[Metric] = []
        self._read_at = float("-inf")
        self._guard = threading.Lock()

    def describe(self) -> list[Metric]:
        """Nothing: `collect` needs Redis and must not run when this is registered."""
        return []

    def collect(self) -> Iterator[Metric]:
        """One gauge family after another; what cannot be read is left out and said in `al_backend_redis_up`."""
        try:
            families = [*self._queues()]
        except (BackendError, redis.RedisError) as error:
            logger.debug("Metrics without queues: %s", error)
            families = []
        yield GaugeMetricFamily("al_backend_redis_up", "1 when Redis answers.", value=float(bool(families)))
        yield from families
        try:
            yield from self._registry()
        except BackendError as error:
            logger.warning("Metrics without versions: %s", error)

    def _queues(self) -> Iterator[Metric]:
        queues = self._here.queues
        depth = GaugeMetricFamily("al_backend_queue_depth", "Jobs that wait in a queue.", labels=["queue"])
        workers = GaugeMetricFamily("al_backend_workers", "Living workers that take a queue.", labels=["queue"])
        living = liveness.workers(queues.connection)
        for name in QueueName:
            depth.add_metric([name.value], queues.queue(name).count)
            workers.add_metric([name.value], sum(name.value in worker["queues"] for worker in living))
        yield depth
        yield workers

    def _registry(self) -> list[Metric]:
        """Read at most twice a minute: on an object store every manifest is a request."""
        with self._guard:
            if time.monotonic() - self._read_at > _REGISTRY_SECONDS:
                self._versions = list(self._read_registry())
                self._read_at = time.monotonic()
            return self._versions

    def _read_registry(self) -> Iterator[Metric]:
        registry = self._here.registry
        versions = GaugeMetricFamily("al_backend_versions", "Trained versions of a project.", labels=["project"])
        labelled = GaugeMetricFamily(
            "al_backend_labelled_images", "Labelled images that the newest version was made from.", labels=["project"]
        )
        map50 = GaugeMetricFamily(
            "al_backend_active_map50",
            "mAP50 of the active version on its held-out images.",
            labels=["project", "version"],
        )
        published = GaugeMetricFamily(
            "al_backend_published_tasks", "Open tasks in the published order.", labels=["project", "model_version"]
        )
        for project in registry.projects():
            found = registry.versions(project)
            versions.add_metric([str(project)], len(found))
            if found:
                labelled.add_metric([str(project)], found[-1].train_images + found[-1].validation_images)
            pointer = registry.active(project)
            for version in found:
                value = (version.metrics or {}).get("map50")
                if pointer and version.name == pointer.version and isinstance(value, int | float):
                    map50.add_metric([str(project), version.name], float(value))
            document = registry.read_document(project, "published") or {}
            if isinstance(document.get("tasks"), int):
                published.add_metric([str(project), str(document.get("model_version"))], document["tasks"])
        yield from (versions, labelled, map50, published)
