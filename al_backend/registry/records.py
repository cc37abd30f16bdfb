"""What the registry stores, as values: each is written once as JSON and read back equal."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict

UtcDatetime = Annotated[AwareDatetime, AfterValidator(lambda moment: moment.astimezone(timezone.utc))]


def utc_now() -> datetime:
    """The present moment, aware, in UTC."""
    return datetime.now(timezone.utc)


class _Record(BaseModel):
    # Unknown fields are dropped, so that a release that adds one can be rolled back without touching the files.
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class GateVerdict(_Record):
    """Whether a version was good enough to replace the active one.

    Attributes:
        promoted: whether the gate let it pass.
        reason: one sentence for people.
        baseline: the metrics that it was compared with; None when there was nothing to compare.
    """

    promoted: bool
    reason: str
    baseline: dict[str, Any] | None = None


class Version(_Record):
    """An immutable detector; its name is the `model_version` in Label Studio.

    Attributes:
        name: unique within the project, a plain file name.
        number: counts from 1 within the project; 0 for the cold start.
        project: Label Studio's project id.
        detector: architecture name.
        classes: ordered label names of the detector.
        created_at: when the training ended.
        snapshot_at: when the labels were read that it was trained on.
        parent: version whose weights it started from; None for the base checkpoint.
        labels: task id as text -> digest of the annotation that was used.
        label_counts: class name -> true boxes in training.
        train_images: images trained on.
        validation_images: images held out.
        boxes: true boxes trained on.
        metrics: of the held-out images; None when there were none.
        training: the training report.
        settings: the learning settings that applied.
        gate: the verdict about promotion.
        problems: what had to be left out, one sentence each.
        autoencoder: report of its training, whose result lies beside the detector; None where the strategy needs none.
        leaving_since: since when nothing needs its weights any more; they go after a while. None while something does.
        removed_at: when its weights were removed. The record stays, because the learning curve needs it, without
            `labels`.
        labelled: number of `labels` where these were taken out.
        knows: of a version for the cold start, which nothing was trained for: the labels that its base checkpoint knows
            by name. None for a trained version.
    """

    name: str
    number: int
    project: int
    detector: str
    classes: tuple[str, ...]
    created_at: UtcDatetime
    snapshot_at: UtcDatetime
    parent: str | None = None
    labels: dict[str, str]
    label_counts: dict[str, int]
    train_images: int
    validation_images: int
    boxes: int
    metrics: dict[str, Any] | None = None
    training: dict[str, Any]
    settings: dict[str, Any]
    gate: GateVerdict
    problems: tuple[str, ...] = ()
    autoencoder: dict[str, Any] | None = None
    leaving_since: UtcDatetime | None = None
    removed_at: UtcDatetime | None = None
    labelled: int | None = None
    knows: tuple[str, ...] | None = None

    @property
    def is_trained(self) -> bool:
        """False for the version that orders a project's queue before its first training; its number is 0."""
        return self.knows is None

    @property
    def images_labelled(self) -> int:
        """Labelled images that it has seen, held-out ones included."""
        return len(self.labels) if self.labelled is None else self.labelled


class ProjectRecord(_Record):
    """A project that this backend serves.

    Attributes:
        id: Label Studio's project id.
        label_config: the labelling config (XML) as last seen.
        overrides: learning settings from the "extra params" of the model connection.
        registered_at: when the project was first seen.
    """

    id: int
    label_config: str
    overrides: dict[str, Any]
    registered_at: UtcDatetime


class ActivePointer(_Record):
    """Which version Label Studio shows and which scores the pool.

    Attributes:
        version: the active one.
        previous: the one that a rollback would make active; always the last of `history`.
        history: versions that were active before this one, oldest first, at most 50.
        left: versions that were active and that no rollback goes to, at most 50: rolled back from, or the cold start's.
        changed_at: when the pointer moved.
        reason: why, one sentence for people.
    """

    version: str
    previous: str | None = None
    history: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    changed_at: UtcDatetime
    reason: str


class Ranking(_Record):
    """One order of the pool: what was asked for. The measurements and the order lie beside it as Parquet.

    Attributes:
        id: unique within the project, a plain file name.
        project: Label Studio's project id.
        version: the version that scores.
        model_version: the name under which Label Studio gets the predictions.
        strategy: the strategy's settings.
        context: classes, label counts and seed that the strategy is given.
        created_at: when the pool was listed.
        tasks: size of the pool.
        shard_size: tasks per shard; the last shard may be smaller.
        shards: number of shards.
    """

    id: str
    project: int
    version: str
    model_version: str
    strategy: dict[str, Any]
    context: dict[str, Any]
    created_at: UtcDatetime
    tasks: int
    shard_size: int
    shards: int
