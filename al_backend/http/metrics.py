"""What `/metrics` shows.

Requests are counted where they are answered. With one web process they live in its memory. With several, each process
keeps its counts in a memory-mapped file of a common folder and whichever answers the scrape adds them up, so the
numbers are those of the whole server; they start again from zero with it. Everything else is read from Redis (queues,
workers, what workers have counted) and the registry at the scrape, so every process shows the same.

`al_backend.metrics` has the definitions.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from flask import Flask, Response, current_app, g, request
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from al_backend import metrics
from al_backend.http.metrics_state import State
from al_backend.http.services import Services

CONTENT_TYPE = CONTENT_TYPE_LATEST

_EXTENSION = "al_backend_metrics"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 100)


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
        self._state_registry.register(State(here))
        requests, seconds = metrics.REQUESTS, metrics.REQUEST_SECONDS
        self.requests = Counter(requests.name, requests.help, requests.labels, registry=self._requests_registry)
        self.seconds = Histogram(
            seconds.name, seconds.help, seconds.labels, buckets=_BUCKETS, registry=self._requests_registry
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
            requests.register(_AllProcesses(str(self._shared_folder)))
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


def current_metrics() -> Metrics:
    """The metrics of the app that handles the current request."""
    return cast(Metrics, current_app.extensions[_EXTENSION])


class _AllProcesses(Collector):
    """The counts of all web processes, with the help texts that the shared files do not keep."""

    def __init__(self, folder: str) -> None:
        self._collector = MultiProcessCollector(None, path=folder)

    def describe(self) -> list[Metric]:
        """Nothing: the files are read at the scrape."""
        return []

    def collect(self) -> Iterator[Metric]:
        """One family after another."""
        for family in self._collector.collect():
            definition = metrics.DEFINITIONS.get(family.name)
            if definition is not None:
                family.documentation = definition.help
            yield family
