"""What a reconcile decides on: the facts of Label Studio, of the registry and of the queues at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import polars as pl

from al_backend import cycle
from al_backend.errors import LabelStudioError, ProjectGone
from al_backend.jobs.cold_start import is_stale
from al_backend.jobs.context import Context, job_name
from al_backend.jobs.current import cancelled_training, current_ranking, owed_ranking
from al_backend.jobs.documents import (
    TRAIN_REQUEST,
    now,
    published_model_version,
    read_attempt,
    requested_at,
)
from al_backend.jobs.liveness import any_in_flight, in_flight, which_in_flight
from al_backend.jobs.pool_memory import PoolMemory, superseded
from al_backend.jobs.queues import QueueName
from al_backend.jobs.sizes import RETIRE_SLICE, WINDOW
from al_backend.jobs.strategies import looks_closer, strategy_of
from al_backend.jobs.tries import put_off
from al_backend.labelstudio.client import LabelStudio, Project, Task
from al_backend.labelstudio.codec import choose_annotation, label_digest
from al_backend.labelstudio.labeling_config import LabelingConfig, parse_labeling_config
from al_backend.registry import ActivePointer, Phase, Ranking, Version
from al_backend.retention import plan


class LabelMemory:
    """Digests of a project's labels; a task is read again only when Label Studio's mark of it has changed."""

    def __init__(self) -> None:
        self._known: dict[int, dict[int, tuple[str, str]]] = {}

    def digests(self, label_studio: LabelStudio, project_id: int) -> dict[int, str]:
        """Digest of the chosen annotation of every labelled task, as of now."""
        marks = label_studio.label_marks(project_id)
        known = self._known.get(project_id, {})
        fresh = {task: known[task] for task, mark in marks.items() if task in known and known[task][0] == mark}
        changed = [task for task in marks if task not in fresh]
        for task in label_studio.labelled_tasks(project_id, changed) if changed else ():
            chosen = choose_annotation(task.annotations)
            if chosen is not None:
                fresh[task.id] = (marks[task.id], label_digest(chosen))
        self._known[project_id] = fresh
        return {task: digest for task, (_, digest) in fresh.items()}


@dataclass(frozen=True, slots=True)
class Observation:
    """A project's pool, labelling config and title beside the snapshot that was made of them."""

    snapshot: cycle.Snapshot
    pool: list[Task]
    config: LabelingConfig
    title: str = ""


def observe(here: Context, memory: LabelMemory, pools: PoolMemory, project_id: int) -> Observation:
    """Read a project in Label Studio; a changed labelling config is kept in the registry.

    Raises:
        LabelConfigError: the labelling config cannot be served.
        LabelStudioError: Label Studio does not answer.
        ProjectGone: it has no such project.
    """
    record = here.project(project_id)
    client = here.label_studio
    project = _project(client, project_id)
    if project.label_config != record.label_config:
        here.registry.register_project(project_id, label_config=project.label_config, overrides=record.overrides)
    config = parse_labeling_config(project.label_config)
    taken_at = now()
    labels = memory.digests(client, project_id)
    pool = pools.pool(client, project_id, config)
    published = published_model_version(here.registry, project_id)
    # Label Studio lists the project's current model version even when no prediction has it.
    stored = {name: count for name, count in client.model_versions(project_id).items() if count > 0}
    scored = pools.scored(client, project_id, published, stored, pool) if published in stored else set()
    count = stored.get(published or "", 0)
    model_version = project.model_version or ""
    snapshot = cycle.Snapshot(
        classes=config.labels,
        labels=labels,
        pool=tuple(task.id for task in pool),
        model_version=model_version,
        titles=_titles(client, project_id) if model_version != (published or "") else frozenset(),
        stored=stored,
        scored=frozenset(scored),
        duplicates=tuple(superseded(client, project_id, published or "", count, RETIRE_SLICE))
        if count > len(scored)
        else (),
        taken_at=taken_at,
    )
    return Observation(snapshot, pool, config, project.title)


def _project(client: LabelStudio, project_id: int) -> Project:
    try:
        return client.project(project_id)
    except LabelStudioError as error:
        if error.status != 404:
            raise
        client.whoami()  # a wrong address answers 404 to everything, and is another trouble
        raise ProjectGone(
            f"Label Studio has no project {project_id} that this backend's key may see: it was deleted, or its members "
            f"changed. It is looked for once an hour; `al-backend disconnect {project_id}` takes it out.",
            status=404,
        ) from error


def _titles(client: LabelStudio, project_id: int) -> frozenset[str]:
    """Titles of the project's model connections; asked for only when needed, because Label Studio then calls us."""
    return frozenset(str(backend.get("title")) for backend in client.ml_backends(project_id))


def trained_on(versions: list[Version]) -> cycle.TrainedOn | None:
    """What the newest version has seen; None before the first training."""
    if not versions:
        return None
    newest = max(versions, key=lambda version: version.number)
    return cycle.TrainedOn(newest.name, newest.labels, newest.snapshot_at)


def read_state(here: Context, project_id: int) -> cycle.State:
    """What the registry and the queues say about a project."""
    registry, queues = here.registry, here.queues
    # The queues before the registry: a job that ends in between is then seen as running and its result as there. The
    # other way round it would be neither, and a training would be started for labels that have just been trained on.
    tidying = in_flight(queues, QueueName.PUBLISH, job_name("tidy", project_id))
    training = in_flight(queues, QueueName.TRAIN, job_name("train", project_id))
    publishing = in_flight(queues, QueueName.PUBLISH, job_name("publish", project_id))
    retiring = in_flight(queues, QueueName.PUBLISH, job_name("retire", project_id))
    starting = bool(which_in_flight(queues, QueueName.SCORE, [job_name("cold-start", project_id)]))
    scoring_new = any_in_flight(queues, QueueName.SCORE, job_name("score-new", project_id, ""))
    published = published_model_version(registry, project_id)
    everything = registry.all_versions(project_id)
    versions = [version for version in everything if version.is_trained]
    active = registry.active(project_id)
    train_request = registry.read_document(project_id, TRAIN_REQUEST)
    state = None
    current = current_ranking(registry, project_id)
    if current.ranking is not None:
        state = _ranking_state(here, project_id, current.ranking, published=current.ranking.id == published)
    rankings = registry.rankings(project_id)
    return cycle.State(
        active=active.version if active else None,
        trained_on=trained_on(versions),
        versions=tuple(version.name for version in everything),
        ranking=state,
        published=published,
        training=training,
        publishing=publishing,
        retiring=retiring,
        scoring_new=scoring_new,
        starting=starting,
        train_requested_at=requested_at(train_request),
        train_from_scratch=bool((train_request or {}).get("from_scratch")),
        ranking_owed=owed_ranking(registry, project_id, rankings) is not None,
        attempt=read_attempt(registry, project_id),
        train_cancelled=cancelled_training(registry, project_id),
        ranking_cancelled=current.cancelled is not None,
        stale_start=_stale_start(here, everything, active),
        unpromoted=_unpromoted(everything, active),
        untidy=plan(everything, rankings, active, published, last=here.settings.keep_versions, now=now()).due,
        tidying=tidying,
    )


def _unpromoted(versions: list[Version], active: ActivePointer | None) -> str | None:
    """The newest version, if the gate let it pass and it never became active: its training was killed before that."""
    newest = max(versions, key=lambda version: (version.number, version.created_at), default=None)
    if newest is None or not newest.gate.promoted:
        return None
    if active is not None and newest.name in (active.version, *active.history, *active.left):
        return None
    if active is not None and active.reason == f"rolled back from {newest.name}":
        return None  # by a release that did not keep what was left
    return newest.name


def _stale_start(here: Context, versions: list[Version], active: ActivePointer | None) -> bool:
    current = _active_of(versions, active)
    return current is not None and is_stale(here, current)


def _active_of(versions: list[Version], active: ActivePointer | None) -> Version | None:
    return next((version for version in versions if active is not None and version.name == active.version), None)


def _ranking_state(here: Context, project_id: int, current: Ranking, *, published: bool) -> cycle.RankingState:
    registry, queues = here.registry, here.queues
    # Again the queue first.
    choosing = in_flight(queues, QueueName.PUBLISH, job_name("choose", project_id, current.id))
    phase, kind = Phase.POOL, "score"
    unfinished = set(range(current.shards)) - registry.finished_shards(project_id, current.id)
    to_choose = False
    if not unfinished and not published and looks_closer(strategy_of(current)[0]):
        listed = registry.closer_tasks(project_id, current.id)
        if listed is None:
            to_choose = True
        else:
            phase, kind = Phase.CLOSER, "closer"
            unfinished = set(listed["shard"]) - registry.finished_shards(project_id, current.id, phase)
    tasks, drawn = _tasks(here, current), bool(current.strategy.get("pool_size"))
    # Those that are put off take no place in the window: the others go on meanwhile.
    later = put_off(queues.connection, project_id)
    every = ((job_name(kind, project_id, current.id, index), index) for index in sorted(unfinished))
    names = dict(islice(((name, index) for name, index in every if name not in later), WINDOW))
    waiting = which_in_flight(queues, QueueName.SCORE, list(names))
    return cycle.RankingState(
        id=current.id,
        missing=tuple(index for name, index in names.items() if name not in waiting),
        unfinished=len(unfinished),
        published=published,
        unranked=frozenset(tasks.filter(pl.col("shard") < 0)["task_id"].to_list()) if drawn else frozenset(),
        closer=phase is Phase.CLOSER,
        to_choose=to_choose,
        choosing=choosing,
        ranked=tasks.filter(pl.col("shard") >= 0).height if drawn else tasks.height,
        last_task=tasks.select(pl.col("task_id").max()).item() or 0,
    )


def _tasks(here: Context, current: Ranking) -> pl.DataFrame:
    registry, project = here.registry, current.project
    tasks = here.rankings.tasks(current, Phase.POOL, lambda: registry.ranking_tasks(project, current.id))
    return pl.DataFrame(schema={"task_id": pl.Int64, "shard": pl.Int64}) if tasks is None else tasks
