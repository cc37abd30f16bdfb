"""The cold start: a queue with an order before anything was trained."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

from al_backend.base_checkpoint import may_be_pickled
from al_backend.jobs.client import look_later
from al_backend.jobs.context import Context, job_running
from al_backend.jobs.documents import now
from al_backend.registry import GateVerdict, Version
from model.detectors.base_files import base_file

logger = logging.getLogger(__name__)

_MADE_FROM = "made_from"


def cold_start(project_id: int) -> str:
    """Job: make the base checkpoint the project's version 0, and active, unless something is trained by now.

    What of the labels the checkpoint knows by name it pre-annotates. See `strategies.substitutes` for the order.

    Returns:
        The version's name; "" where there is a trained one by now.
    """
    with job_running() as here:
        if here.registry.versions(project_id):
            return ""
        # Not in the system's folder for temporary files: there a killed job's weights would stay for good.
        folder = here.settings.data_dir / "trainings" / f"{project_id}-cold-start"
        shutil.rmtree(folder, ignore_errors=True)
        try:
            version = _make(here, project_id, folder)
            here.registry.add_version(version, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if here.registry.versions(project_id):
            return ""  # trained meanwhile
        here.registry.promote(project_id, version.name, reason=version.gate.reason)
        look_later(here.queues, project_id, "the cold start is ready")
        logger.info("Project %d: %s is active. %s", project_id, version.name, version.gate.reason)
        return version.name


def is_stale(here: Context, version: Version) -> bool:
    """Whether a version that nothing was trained for would be another one if it were made now."""
    return not version.is_trained and version.training.get(_MADE_FROM) != _made_from(here, version.project)


def _made_from(here: Context, project_id: int) -> dict[str, Any]:
    """What version 0 depends on, as plain JSON values."""
    settings, config = here.learning(project_id), here.labeling_config(project_id)
    file = base_file(settings.detector, here.registry.base_folder)
    return {
        "detector": settings.detector,
        "image_size": settings.image_size,
        "labels": list(config.labels),
        "predicted_values": {label: list(values) for label, values in config.predicted_values.items()},
        "base": None if file is None else [file.name, file.stat().st_size],
    }


def _make(here: Context, project_id: int, folder: Path) -> Version:
    """Write the detector to `folder`; returns the record of it."""
    from model.detectors.factory import create, find_base  # brings torch

    settings, config = here.learning(project_id), here.labeling_config(project_id)
    made_from = _made_from(here, project_id)
    base = find_base(settings.detector, here.registry.base_folder)
    options: dict[str, Any] = {
        "base": base,
        "device": here.settings.device,
        "allow_pickle": may_be_pickled(settings.detector),
    }
    known = () if base is None else create(settings.detector, None, **options).classes
    usable = tuple(label for label in known if config.label_of(label) is not None)
    # Without a class a detector looks at nothing; those of the project only stand in until they are learnt.
    detector = create(
        settings.detector,
        usable or config.labels,
        image_size=settings.image_size,
        seed=settings.seed,
        **options,
    )
    detector.save(folder)
    digest = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
    created_at = now()
    return Version(
        name=here.registry.cold_start_name(settings.detector, digest),
        number=0,
        project=project_id,
        detector=settings.detector,
        classes=detector.classes,
        created_at=created_at,
        snapshot_at=created_at,
        labels={},
        label_counts={},
        train_images=0,
        validation_images=0,
        boxes=0,
        training={_MADE_FROM: made_from},
        settings=settings.model_dump(),
        gate=GateVerdict(promoted=True, reason=_reason(base, usable)),
        knows=usable,
    )


def _reason(base: Path | None, known: tuple[str, ...]) -> str:
    if base is None:
        return "Nothing is trained yet, and there is no base checkpoint: even what images look like is a rough guess."
    if known:
        return f"Nothing is trained yet; the base checkpoint knows {', '.join(known)}."
    return "Nothing is trained yet, and the base checkpoint knows none of the labels."
