"""What has to be true again once everything is quiet, each as sentences about what is not."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from datetime import timedelta
from pathlib import Path

import psutil

from al_backend.cycle import missing_labels, pending_labels
from al_backend.jobs.client import overview
from al_backend.jobs.documents import PUBLISHED
from al_backend.jobs.observe import trained_on
from al_backend.jobs.queues import QueueName
from al_backend.labelstudio.codec import choose_annotation, label_digest
from al_backend.status import project_status
from model.data.reef import SPECIES
from model.detectors.factory import load
from tests.chaos.stage import Stage

_SLOW_AND_HARMLESS = {"reconcile", "retire", "tidy"}


def unsettled(stage: Stage) -> list[str]:
    """What is still to be done, or is wrong; [] once the backend has caught up."""
    return [*_labels(stage), *_queue(stage), *_jobs(stage)]


def _labels(stage: Stage) -> list[str]:
    """Every label was used by the active version, or is counted as pending."""
    versions = stage.registry.versions(stage.project)
    pointer = stage.registry.active(stage.project)
    if not versions or pointer is None:
        return [f"{len(versions)} versions, active is {pointer}"]
    newest = versions[-1]
    if pointer.version != newest.name:
        return [f"the active version is {pointer.version}, the newest is {newest.name}"]
    labels = {
        task.id: label_digest(chosen)
        for task in stage.client.labelled_tasks(stage.project)
        if (chosen := choose_annotation(task.annotations)) is not None
    }
    trained = trained_on(versions)
    found = []
    used = {task for task, digest in labels.items() if newest.labels.get(str(task)) == digest}
    seen = newest.train_images + newest.validation_images
    if seen != len(newest.labels):
        found.append(f"{newest.name} claims {len(newest.labels)} labels and has used {seen}: {newest.problems[:3]}")
    status = project_status(stage.settings, stage.registry, stage.client, stage.backend.queues, stage.project)
    # A training that was killed again and again is left alone until there are new labels, and that has to be said.
    given_up = any("trainings of the same labels" in note for note in status["notes"])
    if missing_labels(labels, trained, stage.settings.learning) == 0 and not given_up:
        found.append(f"{pending_labels(labels, trained)} pending labels and no training")
    gone = len(set(newest.labels) - {str(task) for task in labels})
    if status["labels"]["new"] != len(labels) - len(used) + gone:
        found.append(f"{len(labels)} labels, {len(used)} used, {gone} gone, but {status['labels']['new']} pending")
    if status["unreadable"]:
        found.append(f"{len(status['unreadable'])} images count as unreadable: {status['unreadable'][0]}")
    return found


def _queue(stage: Stage) -> list[str]:
    """One prediction of the active version per open task, and Label Studio serves the ranking's order."""
    client, registry, project = stage.client, stage.registry, stage.project
    document, pointer = registry.read_document(project, PUBLISHED), registry.active(project)
    if document is None or pointer is None or document["version"] != pointer.version:
        return [f"published is {document and document['ranking']}, active is {pointer and pointer.version}"]
    name = document["model_version"]
    open_tasks = {task.id for task in client.open_tasks(project)}
    rows = [row for row in client.predictions(project) if row.model_version == name]
    count = Counter(row.task for row in rows)
    found = [f"task {task} has {count[task]} predictions" for task in sorted(open_tasks) if count[task] != 1]
    order = registry.read_order(project, document["ranking"])
    if order is None:
        return [*found, f"no order of {document['ranking']}"]
    score = dict(zip(order["task_id"].to_list(), order["order_score"].to_list(), strict=True))
    for row in rows:
        if row.task in open_tasks and row.score != score.setdefault(row.task, row.score or 0.0):
            found.append(f"task {row.task} has the score {row.score}, the ranking says {score[row.task]}")
    expected = sorted((task for task in open_tasks if task in score), key=lambda task: score[task])
    shown = [task for task, _ in client.queue(project, stage.tab, 1000)]
    if shown != expected:
        found.append(f"the tab shows {shown}, the ranking says {expected}")
    now = client.project(project)
    if (now.model_version, now.sampling) != (name, "Uncertainty sampling"):
        found.append(f"the project has {now.model_version!r} and {now.sampling!r}, published is {name}")
    return found


def _jobs(stage: Stage) -> list[str]:
    """Nothing is in flight but looks and the slow removal of old predictions; nothing lies in a queue untaken."""
    queues = stage.backend.queues
    found = [
        f"{job['kind']} is {job['status']}" for job in overview(queues)["jobs"] if job["kind"] not in _SLOW_AND_HARMLESS
    ]
    for name in QueueName:
        depth = queues.queue(name).count
        if depth > 1:
            found.append(f"{depth} jobs wait in {name}")
    return found


def served_first(stage: Stage) -> list[str]:
    """Label Studio's own stream begins where the ranking begins, or with the task that the annotator has in hand.

    What somebody skipped is not served to them again.
    """
    first = stage.client.next_task(stage.project)
    tab = [task for task, _ in stage.client.queue(stage.project, stage.tab, 1000)]
    expected = next((task for task in tab if not _skipped(stage, task)), None)
    if first is None or first["id"] == expected or first["id"] == stage.annotator.in_hand:
        return []
    return [f"{first['id']} is served first, not {expected} ({first.get('queue')})"]


def _skipped(stage: Stage, task: int) -> bool:
    # The list of a task's annotations leaves these out.
    return bool(stage.client.request("GET", f"/api/tasks/{task}/")["cancelled_annotations"])


def damaged_versions(stage: Stage) -> list[str]:
    """The registry holds only whole versions: every file as its manifest says, the last ones load."""
    found = []
    versions = stage.registry.versions(stage.project)
    numbers = [version.number for version in versions]
    if len(set(numbers)) != len(numbers):
        found.append(f"version numbers {numbers}")
    versions = [version for version in versions if version.removed_at is None]
    for version in versions:
        folder = stage.registry.fetch_version(stage.project, version.name)
        manifest = json.loads((folder / "manifest.json").read_text())
        for name, stored in manifest["files"].items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != stored["sha256"]:
                found.append(f"{version.name}/{name} has other bytes than its manifest says")
    for version in versions[-3:]:
        if load(stage.registry.fetch_version(stage.project, version.name), device="cpu").classes != SPECIES:
            found.append(f"{version.name} has lost its classes")
    return found


def orphans(stage: Stage) -> list[str]:
    """Processes that no longer belong to the backend that runs."""
    if stage.backend.pid is None:
        ours: set[int] = set()
    else:
        root = psutil.Process(stage.backend.pid)
        ours = {root.pid, *(child.pid for child in root.children(recursive=True))}
    return [
        f"process {process.pid} is left: {' '.join(process.cmdline())[-80:]}"
        for process in stage.processes()
        if process.pid not in ours
    ]


def leftovers(stage: Stage, temporary: Path) -> list[str]:
    """Files that nobody will ever use, after what looks after them has had its turn.

    While the backend runs it leaves what is younger than an hour, because somebody may be writing it; now nobody is.
    """
    stage.registry.cleanup(stage.project, older_than=timedelta(0))
    model_dir = Path(stage.settings.model_dir)
    # PyTorch keeps one folder per user for what it compiles.
    found = [str(path) for path in temporary.iterdir() if not path.name.startswith("torchinductor_")]
    found += [str(path) for path in model_dir.rglob(".tmp-*")]
    for kind in ("versions", "rankings"):
        for folder in (model_dir / "projects" / str(stage.project) / kind).glob("*"):
            if folder.is_dir() and not (folder / "manifest.json").exists():
                found.append(f"half of {folder}")
    found += [str(path) for path in (stage.settings.data_dir / "trainings").glob("*")]
    return found
