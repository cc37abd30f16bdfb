"""What every job needs, made once per process."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import cached_property, lru_cache
from typing import Any

from rq import get_current_job

from al_backend.errors import BackendError
from al_backend.inference import Inference
from al_backend.jobs.clock import by_clock_of, now
from al_backend.jobs.failures import keeping_failure
from al_backend.jobs.liveness import running_job
from al_backend.jobs.locks import exclusive
from al_backend.jobs.pace import Pace
from al_backend.jobs.queues import Queues, connect
from al_backend.jobs.ranking_memory import RankingMemory
from al_backend.jobs.shared_settings import adopt
from al_backend.jobs.tries import Tries, counting_try, tries_begun
from al_backend.labelstudio.client import LabelStudio
from al_backend.labelstudio.images import ImageSource
from al_backend.labelstudio.labeling_config import LabelingConfig, parse_labeling_config
from al_backend.masking import remember_secrets
from al_backend.registry import ProjectRecord, Registry, open_registry
from al_backend.settings import LearningSettings, Settings, load_settings

INTERLUDE: ContextVar[Callable[[], None] | None] = ContextVar("interlude", default=None)
"""What a long job calls between two batches, so that a person who waits is answered at once; of the worker's thread."""


class Context:
    """Settings, registry, queues and Label Studio of one process; each is opened when it is first used."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @cached_property
    def registry(self) -> Registry:
        """The registry at `MODEL_DIR`."""
        return open_registry(self.settings)

    @cached_property
    def queues(self) -> Queues:
        """The queues on Redis."""
        return connect(self.settings)

    @cached_property
    def label_studio(self) -> LabelStudio:
        """The Label Studio that holds the projects."""
        return LabelStudio.from_settings(self.settings, pace=Pace(lambda: self.queues.connection))

    @cached_property
    def images(self) -> ImageSource:
        """Downloads and caches the images of tasks."""
        return ImageSource(self.label_studio, self.settings, self.settings.data_dir / "images")

    @cached_property
    def inference(self) -> Inference:
        """Warm detectors of this process."""
        return Inference(self.settings, self.registry, self.images)

    @cached_property
    def rankings(self) -> RankingMemory:
        """The last rankings of this process."""
        return RankingMemory()

    def project(self, project_id: int) -> ProjectRecord:
        """The registered project.

        Raises:
            BackendError: it was never connected.
        """
        record = self.registry.project(project_id)
        if record is None:
            raise BackendError(f"Project {project_id} is not connected; run `al-backend connect {project_id}`.")
        return record

    def learning(self, project_id: int) -> LearningSettings:
        """The learning settings of a project, its overrides applied."""
        return self.settings.learning.overridden(self.project(project_id).overrides)

    def labeling_config(self, project_id: int) -> LabelingConfig:
        """The parsed labelling config of a project, as last seen."""
        return parse_labeling_config(self.project(project_id).label_config)

    @contextmanager
    def writing(self, project_id: int) -> Iterator[None]:
        """Only one process at a time writes predictions of a project into Label Studio."""
        with exclusive(self.queues.connection, f"al:lock:write:{project_id}", patience=600):
            yield


@lru_cache(maxsize=1)
def context() -> Context:
    """The context of this process, from its environment and from what the main process shares.

    Raises:
        ConfigError: it was given no key of Label Studio, and nobody shares one; asked again, it looks again.
    """
    settings = adopt(load_settings())
    remember_secrets(settings)
    return Context(settings)


@contextmanager
def job_running() -> Iterator[Context]:
    """Marks the current RQ job as alive while the block runs, and counts how often it was tried in vain."""
    job = get_current_job()
    here = context()
    if job is None:
        yield here
        return
    connection = here.queues.connection
    project, kind = job.meta.get("project"), job.meta.get("kind")
    with running_job(connection, job.id), by_clock_of(connection):
        if kind == "train":
            job.meta["began_at"] = now().isoformat()  # RQ's own stamp is of this machine's clock
            job.save_meta()
        if project is None or kind is None or kind == "reconcile":  # a look keeps its failures itself
            yield here
            return
        ranking, shard = job.meta.get("ranking"), job.meta.get("shard")
        what = f"The {kind} job" if shard is None else f"Shard {shard} of {ranking}"
        with (
            counting_try(connection, int(project), job.id, what, ranking),
            keeping_failure(connection, int(project), str(kind)),
        ):
            yield here


def tries_so_far() -> Tries:
    """Tries of the current RQ job, this one among them; none outside a job."""
    job = get_current_job()
    project = None if job is None else job.meta.get("project")
    if job is None or project is None:
        return Tries("")
    return tries_begun(context().queues.connection, int(project), job.id)


def report_progress(**values: Any) -> None:
    """Store how far the current RQ job is, where `/jobs` and the command line look for it."""
    job = get_current_job()
    if job is not None:
        job.meta["progress"] = values
        job.save_meta()


def decided_at() -> datetime | None:
    """When the current RQ job was decided on; None outside a job."""
    job = get_current_job()
    decided = None if job is None else job.meta.get("decided_at")
    return None if decided is None else datetime.fromisoformat(decided)


def job_name(kind: str, project_id: int, *parts: object) -> str:
    """Identity of a piece of work as an RQ job id, which takes letters, digits, `_` and `-` only."""
    return "-".join([kind, str(project_id), *(re.sub(r"[^A-Za-z0-9_-]", "_", str(part)) for part in parts)])
