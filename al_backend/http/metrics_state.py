"""The part of `/metrics` that is read at the scrape: Redis first, then the registry."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

import redis
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from rq.exceptions import NoSuchJobError
from rq.job import Job

from al_backend import __version__, metrics
from al_backend.errors import BackendError
from al_backend.http.services import Services
from al_backend.jobs import client, liveness, telemetry
from al_backend.jobs.current import current_ranking
from al_backend.jobs.documents import PUBLISHED, THROUGHPUT
from al_backend.jobs.queues import QueueName, Queues
from al_backend.metrics import Definition, Kind
from al_backend.registry import Registry

logger = logging.getLogger(__name__)

_REGISTRY_SECONDS = 30.0

Row = tuple[tuple[str, ...], float]
Rows = dict[Definition, list[Row]]

_COUNTED = tuple(definition for definition in metrics.DEFINITIONS.values() if definition.kind is not Kind.HISTOGRAM)


class State(Collector):
    """Everything but the requests, at the moment of the scrape."""

    def __init__(self, here: Services) -> None:
        self._here = here
        self._registry_rows: Rows = {}
        self._projects: frozenset[str] = frozenset()
        self._read_at = float("-inf")
        self._guard = threading.Lock()

    def describe(self) -> list[Metric]:
        """Nothing: `collect` needs Redis and must not run when this is registered."""
        return []

    def collect(self) -> Iterator[Metric]:
        """One family after another, those without a value too, so that a board finds every name.

        What cannot be read is left out; whether Redis answers is in `al_backend_redis_up`.
        """
        rows: Rows = {metrics.INFO: [((__version__,), 1.0)]}
        try:
            rows |= self._read_registry_sometimes()
        except BackendError as error:
            logger.warning("Metrics without versions: %s", error)
        try:
            rows |= _queues(self._here.queues)
            rows |= _trainings(self._here.queues)
            rows |= _looks(self._here.queues, self._projects)
            counted = telemetry.read(self._here.queues.connection)
            rows[metrics.REDIS_UP] = [((), 1.0)]
        except (BackendError, redis.RedisError) as error:
            logger.debug("Metrics without queues: %s", error)
            counted, rows[metrics.REDIS_UP] = {}, [((), 0.0)]
        for definition in _COUNTED:
            if definition is not metrics.REQUESTS:
                yield self._family(definition, rows.get(definition, []), counted)

    def _family(self, definition: Definition, rows: Sequence[Row], counted: dict[str, list[Row]]) -> Metric:
        name, help_, labels = definition.name, definition.help, definition.labels
        if definition.kind is Kind.SUMMARY:
            summary = SummaryMetricFamily(name, help_, labels=labels)
            sums = dict(counted.get(f"{name}_sum", []))
            for values, count in counted.get(f"{name}_count", []):
                summary.add_metric(values, count_value=int(count), sum_value=sums.get(values, 0.0))
            return summary
        kind = CounterMetricFamily if definition.kind is Kind.COUNTER else GaugeMetricFamily
        family = kind(name, help_, labels=labels)
        for values, number in self._of_served([*rows, *counted.get(name, [])], definition):
            family.add_metric(values, number)
        return family

    def _of_served(self, rows: Iterable[Row], definition: Definition) -> Iterator[Row]:
        """Without the numbers of projects that are no longer served; counters stay, rates need them."""
        by_project = definition.kind is Kind.GAUGE and "project" in definition.labels
        for values, number in rows:
            if not by_project or values[definition.labels.index("project")] in self._projects:
                yield values, number

    def _read_registry_sometimes(self) -> Rows:
        """Read at most twice a minute: on an object store every manifest is a request."""
        with self._guard:
            if time.monotonic() - self._read_at > _REGISTRY_SECONDS:
                registry = self._here.registry
                projects = registry.projects()
                self._registry_rows = _versions(registry, projects)
                self._projects = frozenset(map(str, projects))
                self._read_at = time.monotonic()
            return self._registry_rows


def _queues(queues: Queues) -> Rows:
    living = liveness.workers(queues.connection)
    rows: Rows = {metrics.QUEUE_DEPTH: [], metrics.QUEUE_OLDEST: [], metrics.WORKERS: []}
    for name in QueueName:
        queue, labels = queues.queue(name), (name.value,)
        rows[metrics.QUEUE_DEPTH].append((labels, float(queue.count)))
        rows[metrics.QUEUE_OLDEST].append((labels, _waited(queues, queue.get_job_ids(0, 1))))
        rows[metrics.WORKERS].append((labels, float(sum(name.value in worker["queues"] for worker in living))))
    return rows


def _waited(queues: Queues, job_ids: Sequence[str]) -> float:
    """Seconds since the first of the jobs was enqueued; 0 without one."""
    for job_id in job_ids:
        try:
            job = Job.fetch(job_id, connection=queues.connection, serializer=queues.serializer)
        except NoSuchJobError:  # expired, or taken in this moment
            continue
        if job.enqueued_at is not None:
            return max(0.0, time.time() - job.enqueued_at.timestamp())
    return 0.0


def _trainings(queues: Queues) -> Rows:
    """How far running trainings are, as they report it for `/jobs`."""
    rows: Rows = {}
    ids = queues.queue(QueueName.TRAIN).started_job_registry.get_job_ids(cleanup=False)
    for job in Job.fetch_many(ids, connection=queues.connection, serializer=queues.serializer):
        progress = None if job is None else job.meta.get("progress")
        if job is None or not progress or not liveness.in_flight(queues, QueueName.TRAIN, job.id):
            continue
        for definition, key in (
            (metrics.TRAINING_STEP, "iteration"),
            (metrics.TRAINING_STEPS, "iterations"),
            (metrics.TRAINING_LOSS, "loss"),
            (metrics.TRAINING_LEFT, "eta_seconds"),
        ):
            if progress.get("phase") == "train" and isinstance(progress.get(key), int | float):
                rows.setdefault(definition, []).append(((str(job.meta.get("project")),), float(progress[key])))
    return rows


def _looks(queues: Queues, projects: Iterable[str]) -> Rows:
    failing: list[tuple[tuple[str, ...], float]] = [
        ((project,), float(client.last_error(queues, int(project)) is not None)) for project in sorted(projects)
    ]
    return {metrics.LOOK_FAILING: failing}


def _versions(registry: Registry, projects: Sequence[int]) -> Rows:
    rows: Rows = {}

    def add(definition: Definition, value: object, *labels: str) -> None:
        if isinstance(value, int | float) and not isinstance(value, bool):
            rows.setdefault(definition, []).append((labels, float(value)))

    for project in projects:
        label = str(project)
        found = registry.versions(project)
        add(metrics.VERSIONS, len(found), label)
        pointer = registry.active(project)
        for version in found:
            if pointer and version.name == pointer.version:
                add(metrics.ACTIVE_MAP50, (version.metrics or {}).get("map50"), label, version.name)
        if found:
            newest = found[-1]
            add(metrics.LABELLED_IMAGES, newest.train_images + newest.validation_images, label)
            add(metrics.NEWEST_MAP50, (newest.metrics or {}).get("map50"), label, newest.name)
        ranking = current_ranking(registry, project).ranking
        if ranking is not None:
            finished = [index for index in registry.finished_shards(project, ranking.id) if index < ranking.shards]
            add(metrics.RANKING_SHARDS, ranking.shards, label)
            add(metrics.RANKING_SHARDS_FINISHED, len(finished), label)
        speed = registry.read_document(project, THROUGHPUT) or {}
        add(metrics.IMAGES_PER_SECOND, speed.get("images_per_second"), label)
        published = registry.read_document(project, PUBLISHED) or {}
        add(metrics.PUBLISHED_TASKS, published.get("tasks"), label, str(published.get("model_version")))
        add(metrics.RANK_DURATION, published.get("rank_seconds"), label)
        add(metrics.PUBLISH_DURATION, published.get("publish_seconds"), label)
        if isinstance(published.get("published_at"), str):
            add(metrics.PUBLISHED_AT, _unix(published["published_at"]), label)
    return rows


def _unix(moment: str) -> float | None:
    try:
        return datetime.fromisoformat(moment).timestamp()
    except ValueError:
        return None
