"""Checks of what decides which task comes next: sampling, model version, predictions, the queue's tab."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from al_backend.cycle import UNTRAINED, version_of
from al_backend.doctor.finding import Finding, error, fine, warning
from al_backend.doctor.subject import Subject
from al_backend.errors import LabelStudioError
from al_backend.jobs.documents import published_model_version
from al_backend.labelstudio.client import QUEUE_TAB, UNCERTAINTY_SAMPLING, LabelStudio, Project
from al_backend.labelstudio.records import PredictionRow

_MOST_FOREIGN = 2_000  # predictions of each other model; some seconds of Label Studio's time


def sampling(subject: Subject, project: Project) -> Iterator[Finding]:
    """Whether the label stream follows scores at all."""
    if project.sampling != UNCERTAINTY_SAMPLING:
        yield error(
            "sampling",
            f'The project samples by "{project.sampling}"; expected "{UNCERTAINTY_SAMPLING}", or the label stream '
            "ignores our order.",
            subject.connect_again,
        )
    else:
        yield fine("sampling", f'The project samples by "{UNCERTAINTY_SAMPLING}".')


def model_version(subject: Subject, project: Project) -> Iterator[Finding]:
    """Whether the project shows what was published last, and whether that is still there."""
    check = "model version"
    if subject.registry is None:
        return
    published = published_model_version(subject.registry, subject.project_id)
    if published is None:
        yield warning(
            check,
            "No order is published yet, so tasks come at random.",
            "Wait: running workers make one by themselves, before the first label, too; `al-backend status` says more.",
        )
        return
    if subject.label_studio.model_versions(subject.project_id).get(published, 0) == 0 and project.task_number:
        yield error(
            check,
            f'"{published}" was published, but no prediction carries it any more: somebody deleted them in Label '
            "Studio, and tasks come at random.",
            f"Running workers write them again by themselves; `al-backend rank {subject.project_id}` does at once.",
        )
    elif project.model_version != published:
        yield error(
            check,
            f'The project shows "{project.model_version}"; expected "{published}", which was published last.'
            + ("" if project.model_version else " Without one, tasks come at random or unscored ones first."),
            f"Run `al-backend doctor {subject.project_id} --fix`, or choose that version in Settings, Annotation.",
        )
    else:
        yield fine(check, f'The project shows "{published}", which was published last.')


@dataclass(frozen=True, slots=True)
class BadPredictions:
    """Predictions that bend the order.

    Attributes:
        duplicates: ids that a newer one of the same task and model version supersedes.
        scoreless: ids without a finite score in [0, 1].
    """

    duplicates: tuple[int, ...]
    scoreless: tuple[int, ...]


def bad_predictions(rows: list[PredictionRow], model_version: str) -> BadPredictions:
    """Of one model version, what must not be there."""
    own = [row for row in sorted(rows, key=lambda row: -row.id) if row.model_version == model_version]
    scoreless = {row.id for row in own if row.score is None or not math.isfinite(row.score) or not 0 <= row.score <= 1}
    seen: set[int] = set()
    duplicates: list[int] = []
    for row in own:
        if row.id in scoreless:
            continue
        if row.task in seen:
            duplicates.append(row.id)
        seen.add(row.task)
    return BadPredictions(tuple(sorted(duplicates)), tuple(sorted(scoreless)))


def find_bad_predictions(
    client: LabelStudio, project: Project, published: str, stored: int, tasks: int
) -> BadPredictions:
    """What must not be there of the published model version, read page by page.

    In a healthy project of any size that is next to nothing: predictions come with all their boxes, so only those are
    read of which Label Studio's own numbers say that something is wrong.

    Args:
        client: of Label Studio.
        project: which model version it shows decides what Label Studio can be asked.
        published: the model version.
        stored: how many predictions of it there are.
        tasks: on how many tasks.
    """
    found: list[BadPredictions] = []
    if project.model_version != published:
        pages = client.predictions_of(project.id, published)
    else:
        several = client.predictions_of(project.id, published, several=True) if stored > tasks else iter(())
        pages = chain(client.misscored_predictions(project.id, published), several)
    for rows in pages:
        found.append(bad_predictions(rows, published))
    return BadPredictions(
        tuple(sorted({row for page in found for row in page.duplicates})),
        tuple(sorted({row for page in found for row in page.scoreless})),
    )


def predictions(subject: Subject, project: Project) -> Iterator[Finding]:
    """Whether every open task has exactly one prediction of the published order, with a score."""
    check = "predictions"
    client = subject.label_studio
    published = None if subject.registry is None else published_model_version(subject.registry, subject.project_id)
    stored = {name: count for name, count in client.model_versions(subject.project_id).items() if count > 0}
    foreign = sorted(name for name in stored if not _ours(name, subject))
    try:
        _list_some(client, subject.project_id, foreign)
        placed = client.tasks_with_version(subject.project_id, published) if published in stored else set[int]()
        bad = BadPredictions((), ())
        if published is not None and placed:
            bad = find_bad_predictions(client, project, published, stored[published], len(placed))
    except LabelStudioError as found:
        if found.status != 500:
            raise
        yield error(
            check,
            "Label Studio cannot list the project's predictions: one of them has an infinite score, which some model "
            f"connection answered and Label Studio stores, but cannot show. ({found})",
            "Delete that model's predictions: Data Manager, select all, Actions, Delete predictions. Then run "
            f"`al-backend rank {subject.project_id}`.",
        )
        return
    if published is None:
        return
    if bad.scoreless:
        yield error(
            check,
            f"{len(bad.scoreless)} predictions of {published} have no score between 0 and 1; Label Studio serves those "
            "without any score first.",
            f"Run `al-backend doctor {subject.project_id} --fix`: it deletes them, and their tasks are scored again.",
        )
    if bad.duplicates:
        yield warning(
            check,
            f"{len(bad.duplicates)} tasks have a second prediction of {published}: the label stream then goes by the "
            "lower score, the Data Manager by the mean.",
            f"Running workers delete the older ones by themselves; `al-backend doctor {subject.project_id} --fix` "
            "does at once.",
        )
    waiting = client.open_task_ids(subject.project_id) - placed
    if waiting and placed:
        yield warning(
            check,
            f"{len(waiting)} open tasks have no place in the published order yet; Label Studio serves them last.",
            "Running workers place new tasks at the next look; if this stays, see the checks of workers above.",
        )
    if not (bad.scoreless or bad.duplicates or (waiting and placed)):
        others = f" Predictions of others are left alone: {', '.join(foreign)}." if foreign else ""
        yield fine(check, f"Every open task has one prediction of {published}.{others}")


def _list_some(client: LabelStudio, project_id: int, versions: list[str]) -> None:
    """Have Label Studio list predictions of others, which it cannot with an infinite score among them.

    Raises:
        LabelStudioError: 500, when it cannot.
    """
    for version in versions:
        read = 0
        for page in client.predictions_of(project_id, version):
            read += len(page)
            if read >= _MOST_FOREIGN:
                break


def _ours(model_version: str, subject: Subject) -> bool:
    if subject.registry is None:
        return True
    names = {version.name for version in subject.registry.all_versions(subject.project_id)}
    return model_version == UNTRAINED or version_of(model_version) in names


def queue_tab(subject: Subject) -> Iterator[Finding]:
    """Whether the Data Manager shows the queue in our order."""
    check = "queue tab"
    tabs = subject.label_studio.queue_tabs(subject.project_id)
    fix = f"Run `al-backend doctor {subject.project_id} --fix`."
    if not tabs:
        yield warning(
            check,
            f'The Data Manager has no tab "{QUEUE_TAB}": nobody sees the order there, or can label by it.',
            subject.connect_again,
        )
    elif not subject.label_studio.is_queue_order(tabs[0]):
        yield warning(
            check,
            f'The tab "{QUEUE_TAB}" is sorted or filtered in another way than by ascending prediction score of open '
            "tasks, so it shows no queue.",
            f"{fix} To keep what it shows now, give it another name first.",
        )
    else:
        yield fine(check, f'The tab "{QUEUE_TAB}" shows the order.')


def surprises(project: Project) -> Iterator[Finding]:
    """Project settings that make Label Studio call this backend when nobody expects it."""
    if project.raw.get("evaluate_predictions_automatically"):
        yield warning(
            "automatic evaluation",
            "The project asks for predictions whenever the Data Manager lists tasks, and every page waits for them. "
            "Our predictions are there already.",
            'Switch "evaluate_predictions_automatically" off: PATCH /api/projects/ID/.',
        )
    wanted = int(project.raw.get("min_annotations_to_start_training") or 0)
    if wanted:
        yield warning(
            "start training",
            f"Label Studio starts a training by itself every {wanted} annotations, inside an annotator's submit, and "
            "besides AL_TRAIN_EVERY.",
            "Set min_annotations_to_start_training to 0: PATCH /api/projects/ID/.",
        )
