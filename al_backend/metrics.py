"""Every metric of `/metrics`, defined once: name, kind, labels, and the sentence that explains it.

The web server answers the scrape, but most of what counts happens in workers, on any machine. So workers add up in
Redis (`jobs.telemetry`), and the scrape reads it there; a flushed Redis looks like a restart, which rates allow for.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

PREFIX = "al_backend_"


class Kind(str, Enum):
    """Prometheus' kinds of metrics, as its text format spells them."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    SUMMARY = "summary"


@dataclass(frozen=True, slots=True)
class Definition:
    """One metric.

    Attributes:
        name: without the endings that Prometheus adds.
        kind: what can be done with it.
        help: one sentence, shown by Prometheus and the documentation.
        labels: by which it is split.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()

    @property
    def samples(self) -> tuple[str, ...]:
        """The names that queries use."""
        endings = {
            Kind.COUNTER: ("_total",),
            Kind.GAUGE: ("",),
            Kind.HISTOGRAM: ("_bucket", "_count", "_sum"),
            Kind.SUMMARY: ("_count", "_sum"),
        }
        return tuple(self.name + ending for ending in endings[self.kind])


DEFINITIONS: dict[str, Definition] = {}
"""By name, in the order in which they are documented."""


def _define(name: str, kind: Kind, help_: str, *labels: str) -> Definition:
    definition = Definition(PREFIX + name, kind, help_, labels)
    DEFINITIONS[definition.name] = definition
    return definition


# The web server

INFO = _define("info", Kind.GAUGE, "1; the release of this backend as a label.", "release")
REQUESTS = _define("requests", Kind.COUNTER, "Requests answered.", "route", "method", "status")
REQUEST_SECONDS = _define("request_seconds", Kind.HISTOGRAM, "Time to answer a request.", "route")

# Queues and workers

REDIS_UP = _define("redis_up", Kind.GAUGE, "1 when Redis answers, else 0.")
QUEUE_DEPTH = _define("queue_depth", Kind.GAUGE, "Jobs that wait in a queue.", "queue")
QUEUE_OLDEST = _define("queue_oldest_seconds", Kind.GAUGE, "How long the first job of a queue has waited.", "queue")
WORKERS = _define("workers", Kind.GAUGE, "Living worker processes that take a queue.", "queue")
JOBS = _define("jobs", Kind.COUNTER, "Jobs that ended, by outcome: finished or failed.", "kind", "outcome")
JOB_SECONDS = _define("job_seconds", Kind.SUMMARY, "Time that finished jobs took.", "kind")
FAILURES = _define("job_failures", Kind.COUNTER, "Jobs that failed, by the kind of error.", "kind", "reason")

# Looking at projects

LAST_LOOK = _define(
    "last_reconcile_timestamp_seconds", Kind.GAUGE, "When a project was last looked at, Unix time.", "project"
)
LOOK_FAILING = _define("reconcile_failing", Kind.GAUGE, "1 when the last look at a project failed, else 0.", "project")
LABELLED = _define("labelled_tasks", Kind.GAUGE, "Labelled tasks of a project at the last look.", "project")
NEW_LABELS = _define(
    "new_labels", Kind.GAUGE, "Labels that the newest version has not seen in their present form.", "project"
)
POOL = _define("pool_tasks", Kind.GAUGE, "Tasks that wait for labels at the last look.", "project")
UNSCORED = _define(
    "unscored_tasks", Kind.GAUGE, "Waiting tasks without a prediction of the published order.", "project"
)

# Training

TRAININGS = _define(
    "trainings", Kind.COUNTER, "Trainings by outcome: promoted, refused, failed or cancelled.", "project", "outcome"
)
TRAINING_STEP = _define("training_iteration", Kind.GAUGE, "Steps that a running training has done.", "project")
TRAINING_STEPS = _define("training_iterations", Kind.GAUGE, "Steps that a running training will do.", "project")
TRAINING_LOSS = _define("training_loss", Kind.GAUGE, "Mean loss over the last steps of a running training.", "project")
TRAINING_LEFT = _define("training_left_seconds", Kind.GAUGE, "Expected time to a running training's end.", "project")
VERSIONS = _define("versions", Kind.GAUGE, "Trained versions of a project.", "project")
LABELLED_IMAGES = _define(
    "labelled_images", Kind.GAUGE, "Labelled images that the newest version was made from.", "project"
)
ACTIVE_MAP50 = _define(
    "active_map50", Kind.GAUGE, "mAP50 of the active version on its held-out images.", "project", "version"
)
NEWEST_MAP50 = _define(
    "newest_map50",
    Kind.GAUGE,
    "mAP50 of the newest version, promoted or refused, on its held-out images.",
    "project",
    "version",
)

# Ranking and publishing

IMAGES_SCORED = _define("images_scored", Kind.COUNTER, "Images that were measured for a ranking.", "project")
SCORING_SECONDS = _define("scoring_seconds", Kind.COUNTER, "Time that measuring them took.", "project")
IMAGES_PER_SECOND = _define(
    "images_per_second", Kind.GAUGE, "Smoothed speed at which one worker measures images.", "project"
)
RANKINGS = _define("rankings", Kind.COUNTER, "Rankings that were published.", "project")
RANKING_SHARDS = _define("ranking_shards", Kind.GAUGE, "Shards of the newest ranking.", "project")
RANKING_SHARDS_FINISHED = _define(
    "ranking_shards_finished", Kind.GAUGE, "Shards of the newest ranking that are measured.", "project"
)
PREDICTIONS_WRITTEN = _define(
    "predictions_written", Kind.COUNTER, "Predictions that Label Studio took from us.", "project"
)
PREDICTIONS_DROPPED = _define(
    "predictions_dropped", Kind.COUNTER, "Predictions that Label Studio dropped without a word.", "project"
)
PREDICTIONS_DELETED = _define(
    "predictions_deleted", Kind.COUNTER, "Old predictions that were deleted in Label Studio.", "project"
)
PUBLISHED_TASKS = _define(
    "published_tasks", Kind.GAUGE, "Open tasks in the published order.", "project", "model_version"
)
PUBLISHED_AT = _define(
    "published_timestamp_seconds", Kind.GAUGE, "When the served order was published, Unix time.", "project"
)
RANK_DURATION = _define(
    "rank_duration_seconds", Kind.GAUGE, "From the listing of the pool to the published order's ranks.", "project"
)
PUBLISH_DURATION = _define(
    "publish_duration_seconds", Kind.GAUGE, "Time that writing the published order took.", "project"
)
