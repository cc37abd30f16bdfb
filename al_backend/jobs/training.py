"""The training job: labels from Label Studio in, a whole version in the registry out, promoted if the gate allows."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from functools import partial

from al_backend import logs, metrics
from al_backend.base_checkpoint import may_be_pickled
from al_backend.child_process import die_with_parent
from al_backend.cycle import Snapshot
from al_backend.errors import RegistryError
from al_backend.gate import judge
from al_backend.jobs import telemetry
from al_backend.jobs.autoencoder import train_autoencoder
from al_backend.jobs.cancel import TrainingWatch
from al_backend.jobs.client import look_later
from al_backend.jobs.context import Context, decided_at, job_name, job_running, report_progress
from al_backend.jobs.dataset import ProjectLabels, label_digests, read_labels
from al_backend.jobs.documents import fail_attempt, now, start_attempt, withdraw_attempt
from al_backend.jobs.kept_images import gone, keeping_images
from al_backend.jobs.liveness import in_flight
from al_backend.jobs.log_tail import keeping_log
from al_backend.jobs.queues import QueueName
from al_backend.jobs.room import require_room
from al_backend.labelstudio.labeling_config import parse_labeling_config
from al_backend.registry import Version
from al_backend.settings import LearningSettings
from model.data.dataset import DetectionDataset, LabelledImage
from model.detectors.base import Detector
from model.detectors.factory import create, find_base, load, resolve_device
from model.detectors.several_devices import fit_on
from model.errors import NotEnoughLabels, TrainingCancelled
from model.training.config import Progress, TrainingConfig
from model.training.evaluation import Evaluation, detect_all, evaluate, score
from model.training.intervals import quality_intervals
from model.training.loss_config import LossConfig

logger = logging.getLogger(__name__)

_NICENESS = 10
_TELL_EVERY = 10.0
"""Seconds between two lines about the progress in the log."""


def train(project_id: int, from_scratch: bool) -> str:
    """Job: train on all labels, evaluate, register, and promote through the gate.

    Killed at any moment it leaves no version; the next reconcile starts it again. Cancelled by a person it leaves none
    either; a later training on the same labels goes on where this one was. One that fails is tried again later.

    Returns:
        The new version's name; "" when it was cancelled.
    """
    die_with_parent()
    with job_running() as here:
        if resolve_device(here.settings.training_devices[0]) == "cpu":
            os.nice(_NICENESS)  # the web server and the inference worker share these cores
        try:
            with logs.bound(), keeping_log(here.queues.connection):
                name = _train(here, project_id, from_scratch)
        except TrainingCancelled as error:
            logger.info("%s", error)
            _count(here, project_id, "cancelled")
            name = ""
        except Exception:
            _count(here, project_id, "failed")
            raise
        look_later(here.queues, project_id, "a training ended")
        return name


def _count(here: Context, project_id: int, outcome: str) -> None:
    telemetry.add(here.queues.connection, metrics.TRAININGS, project=project_id, outcome=outcome)


def _train(here: Context, project_id: int, from_scratch: bool) -> str:
    settings = here.learning(project_id)
    started_at = now()
    here.registry.cleanup(project_id)  # what killed trainings have left half-written
    watch = TrainingWatch(here.registry, project_id, decided_at() or started_at)
    watch.check()
    require_room(here.registry, project_id, here.settings.data_dir, _active_version(here, project_id))
    report_progress(phase="labels", iteration=0, iterations=1)
    config = parse_labeling_config(here.label_studio.project(project_id).label_config)
    tasks = sorted(here.label_studio.labelled_tasks(project_id), key=lambda task: task.id)

    def reading(done: int, total: int) -> None:
        watch.check()
        report_progress(phase="images", iteration=done, iterations=total)

    classes, digests = config.labels, label_digests(tasks)
    digest = Snapshot(classes, digests, (), "", frozenset(), {}, frozenset(), (), started_at).digest
    # Before anything that may take long or need memory: a training that dies of it has to count.
    attempt = start_attempt(here.registry, project_id, digest)
    try:
        with keeping_images(here.settings.data_dir, project_id, partial(_is_in_work, here)) as kept:
            labels = read_labels(
                tasks,
                config,
                here.images,
                validation_share=settings.validation_share,
                seed=settings.seed,
                kept=kept,
                on_progress=reading,
            )
            if not labels.train.num_boxes:
                raise NotEnoughLabels(
                    f"{len(labels.train)} labelled images without a single box of {', '.join(config.labels)}; "
                    "label some objects first."
                )
            return _fit_and_register(here, project_id, settings, labels, digest, started_at, from_scratch, watch)
    except TrainingCancelled:
        withdraw_attempt(here.registry, project_id, attempt)
        raise
    except Exception as error:
        try:
            fail_attempt(here.registry, project_id, attempt, f"{type(error).__name__}: {error}")
        except RegistryError as unwritable:  # the error itself matters more, and Redis keeps it, too
            logger.error("Project %d: why the training failed cannot be kept: %s", project_id, unwritable)
        raise


def _fit_and_register(
    here: Context,
    project_id: int,
    settings: LearningSettings,
    labels: ProjectLabels,
    digest: str,
    started_at: datetime,
    from_scratch: bool,
    watch: TrainingWatch,
) -> str:
    registry = here.registry
    name, number = registry.next_version_name(project_id, settings.detector, digest)
    logs.bind(version=name)
    logger.info("Project %d: training on %d images", project_id, len(labels.train))
    parent = _active_version(here, project_id)
    state = here.settings.data_dir / "trainings" / str(project_id)
    detector = _starting_point(here, project_id, settings, labels.train.classes, parent, from_scratch)
    detector, report = fit_on(
        here.settings.training_devices,
        detector,
        labels.train,
        labels.validation if len(labels.validation) else None,
        TrainingConfig(
            # A minimum: with fewer steps than one pass takes, some labels would not be seen at all.
            iterations=max(settings.iterations, -(-len(labels.train) // settings.batch_size)),
            batch_size=settings.batch_size,
            seed=settings.seed,
            losses=LossConfig.huale() if settings.losses == "huale" else LossConfig(),
            checkpoint=state,
        ),
        _reporter(watch),
    )
    made = train_autoencoder(settings, labels, resolve_device(here.settings.training_devices[0]), _reporter(watch))
    report_progress(phase="evaluate", iteration=0, iterations=1)
    candidate, intervals = _evaluate_candidate(detector, labels.validation)
    baseline = None if parent is None else _evaluate_version(here, project_id, parent, labels.validation)
    verdict = judge(
        candidate,
        baseline,
        None if parent is None else parent.name,
        drop=settings.gate_drop,
        gone=len(gone(labels.validation)),
    )
    counts = labels.train.class_counts()
    version = Version(
        name=name,
        number=number,
        project=project_id,
        detector=settings.detector,
        classes=labels.train.classes,
        created_at=now(),
        snapshot_at=started_at,
        parent=None if parent is None else parent.name,
        labels={str(task): value for task, value in labels.used.items()},
        label_counts={label: int(count) for label, count in zip(labels.train.classes, counts, strict=True)},
        train_images=len(labels.train),
        validation_images=len(labels.validation),
        boxes=labels.train.num_boxes,
        metrics={**candidate.as_dict(), "intervals": intervals},
        training=report.as_dict(),
        settings=settings.model_dump(),
        gate=verdict,
        problems=(*labels.train.problems, *labels.validation.problems, *report.skipped),
        autoencoder=None if made is None else made[1].as_dict(),
    )
    # Not in the system's folder for temporary files: there a killed training's weights would stay for good.
    folder = state.with_name(f"{project_id}-version")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    detector.save(folder)
    if made is not None:
        made[0].save(folder, made[1].as_dict())
    watch.check(always=True)  # the last moment in which it can be stopped
    registry.add_version(version, folder)
    for leftover in (folder, state, state.with_name(f"{project_id}-cold-start")):
        shutil.rmtree(leftover, ignore_errors=True)  # a leftover harms nobody: it fits no other training
    if verdict.promoted:
        registry.promote(project_id, name, reason=verdict.reason)
    _count(here, project_id, "promoted" if verdict.promoted else "refused")
    logger.info(
        "Project %d: %s %s. %s", project_id, name, "promoted" if verdict.promoted else "refused", verdict.reason
    )
    return name


def _is_in_work(here: Context, project_id: int) -> bool:
    return in_flight(here.queues, QueueName.TRAIN, job_name("train", project_id))


def _active_version(here: Context, project_id: int) -> Version | None:
    """What the new version is compared with and may start from; None before the first training."""
    version = here.registry.active_version(project_id)
    return version if version is not None and version.is_trained else None


def _starting_point(
    here: Context,
    project_id: int,
    settings: LearningSettings,
    classes: tuple[str, ...],
    parent: Version | None,
    from_scratch: bool,
) -> Detector:
    """The parent version for fine-tuning, else the base checkpoint: also when the architecture was changed."""
    if parent is not None and not from_scratch and parent.detector == settings.detector:
        folder = here.registry.fetch_version(project_id, parent.name)
        detector = load(folder, device=here.settings.training_devices[0])
        detector.image_size = settings.image_size
        return detector
    return create(
        settings.detector,
        classes,
        image_size=settings.image_size,
        device=here.settings.training_devices[0],
        base=find_base(settings.detector, here.registry.base_folder),
        seed=settings.seed,
        allow_pickle=may_be_pickled(settings.detector),
    )


def _evaluate_candidate(
    detector: Detector, validation: DetectionDataset
) -> tuple[Evaluation, dict[str, tuple[float, float]] | None]:
    """Quality on the held-out images, and how far chance goes in it."""
    images, found, skipped = detect_all(detector, validation)
    measured = score(images, found, validation.classes, detector.classes, skipped=skipped)
    return measured, quality_intervals(images, found, validation.classes, detector.classes)


def _evaluate_version(here: Context, project_id: int, version: Version, validation: DetectionDataset) -> Evaluation:
    """A former version on today's held-out images, in terms of the classes that it knows."""
    detector = load(here.registry.fetch_version(project_id, version.name), device=here.settings.training_devices[0])
    return evaluate(detector, with_classes(validation, version.classes))


def with_classes(dataset: DetectionDataset, classes: tuple[str, ...]) -> DetectionDataset:
    """The same images in terms of another class list; boxes of classes that it lacks are left out."""
    if classes == dataset.classes:
        return dataset
    position = {name: index for index, name in enumerate(classes)}
    images: list[LabelledImage] = []
    for image in dataset.images:
        names = [dataset.classes[label] for label in image.label]
        kept = [index for index, name in enumerate(names) if name in position]
        label = image.label[kept].copy()
        label[:] = [position[names[index]] for index in kept]
        images.append(replace(image, xyxy=image.xyxy[kept], label=label))
    return DetectionDataset(classes, images, dataset.problems)


def _reporter(watch: TrainingWatch) -> Callable[[Progress], None]:
    """Progress for `/jobs`, at most about once a second so that Redis does not slow the training."""
    last = told = float("-inf")

    def report(progress: Progress) -> None:
        nonlocal last, told
        watch.check()
        if time.monotonic() - last < 1.0 and progress.iteration < progress.iterations:
            return
        last = time.monotonic()
        if last - told >= _TELL_EVERY or progress.iteration >= progress.iterations:
            told = last
            loss = "" if progress.loss is None else f", loss {progress.loss:.4g}"
            logger.info("%s: %d of %d%s", progress.phase, progress.iteration, progress.iterations, loss)
        report_progress(
            phase=progress.phase,
            iteration=progress.iteration,
            iterations=progress.iterations,
            epoch=round(progress.epoch, 2),
            loss=progress.loss,
            eta_seconds=progress.eta_seconds,
        )

    return report
