"""How the documents that commands return look to a person: one function a document, no work beside the layout."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from al_backend.connect import ConnectReport
    from al_backend.disconnect import DisconnectReport
    from al_backend.doctor import Finding, Treatment
    from al_backend.jobs.cancel import CancelReport
    from al_backend.registry import ActivePointer, Version

_SHOWN_LINES = 10


def versions_document(versions: Iterable[Version], active: ActivePointer | None) -> list[dict[str, Any]]:
    """The versions in short, by number: label digests are counted, not listed."""
    return [
        version.model_dump(
            mode="json",
            include={
                "name",
                "number",
                "detector",
                "classes",
                "created_at",
                "parent",
                "train_images",
                "validation_images",
                "boxes",
                "metrics",
                "gate",
            },
        )
        | {
            "labels": version.images_labelled,
            "active": active is not None and active.version == version.name,
            "weights": _weights(version),
        }
        for version in versions
    ]


def versions_text(document: list[dict[str, Any]]) -> RenderableType:
    """A table of versions, the active one marked."""
    if not document:
        return "No version yet: the first one is trained when enough images are labelled, or by `al-backend train`."
    table = Table("", "version", "labels", "boxes", "mAP50", "mAP50-95", "gate", "weights", "trained at")
    for row in document:
        metrics = row["metrics"] or {}
        table.add_row(
            "*" if row["active"] else "",
            row["name"],
            str(row["labels"]),
            str(row["boxes"]),
            _share(metrics.get("map50")),
            _share(metrics.get("map50_95")),
            escape(("promoted: " if row["gate"]["promoted"] else "refused: ") + row["gate"]["reason"]),
            row["weights"],
            row["created_at"][:16].replace("T", " "),
        )
    return table


def _weights(version: Version) -> str:
    """Whether it can be promoted: kept, leaving (for some minutes more), or removed."""
    if version.removed_at is not None:
        return "removed"
    return "kept" if version.leaving_since is None else "leaving"


def status_text(document: dict[str, Any]) -> RenderableType:
    """A project at a glance, then what cannot be read, then what is wrong."""
    labels, active, ranking = document["labels"], document["active"], document["ranking"]
    project = document["project"]
    table = Table(show_header=False, title=f"Project {project['id']}: {escape(project['title'])}", title_justify="left")
    table.add_row("labelled images", f"{labels['images']} ({labels['new']} since the last training)")
    first = not document["versions"]
    table.add_row(
        "until the first training" if first else "until the next training", str(labels["missing_until_training"])
    )
    table.add_row("waiting for labels", str(document["pool"]))
    table.add_row("active version", "none yet" if active is None else _version_line(active))
    table.add_row("training", escape(_training_line(document["training"])))
    if ranking is not None:
        table.add_row(
            "ranking",
            f"{escape(str(ranking['strategy'].get('name', '')))}, {ranking['tasks']} images, "
            f"{ranking['finished_shards']} of {ranking['shards']} shards measured"
            + (", cancelled by hand" if ranking.get("cancelled") else ""),
        )
    published = document["published"] or {}
    table.add_row("published", escape(str(published.get("model_version", "nothing yet"))))
    table.add_row("workers", ", ".join(f"{name} {count}" for name, count in document["workers"].items()))
    for job in document["jobs"]:
        table.add_row("job", escape(_job_line(job)))
    parts: list[RenderableType] = [table]
    unreadable = document["unreadable"]
    if unreadable:
        parts.append(f"{len(unreadable)} images cannot be read:")
        parts += _first_of([f"task {row['task']}: {row['reason']}" for row in unreadable])
    if document["problems"]:
        parts.append("Left out of the last training:")
        parts += _first_of(document["problems"])
    parts += [f"! {escape(note)}" for note in document["notes"]]
    return Group(*parts)


def _first_of(lines: Sequence[str]) -> list[str]:
    more = ["  ... `--json` lists all"] if len(lines) > _SHOWN_LINES else []
    return [*(f"  {escape(line)}" for line in lines[:_SHOWN_LINES]), *more]


def training_text(document: dict[str, Any]) -> RenderableType:
    """What came out of a training."""
    if "version" not in document:
        return f"Asked for ({document['job']})."
    metrics = document["metrics"] or {}
    verdict = "is active now" if document["promoted"] else "was refused, the former version stays active"
    return escape(
        f"{document['version']} {verdict}. {document['reason']}\n"
        f"Trained on {document['train_images']} images; mAP50 {_share(metrics.get('map50'))} "
        f"on {document['validation_images']} held out."
    )


def ranking_text(document: dict[str, Any]) -> RenderableType:
    """What came out of a ranking."""
    if "ranking" not in document:
        return f"Asked for ({document['job']})."
    return escape(
        f"{document['tasks']} images ranked by {document['version']} ({document['strategy'].get('name', '')}) and "
        f"published as {document['model_version']}."
    )


def cancel_text(report: CancelReport) -> RenderableType:
    """What was stopped."""
    return escape(str(report))


def pointer_text(document: dict[str, Any]) -> RenderableType:
    """Which version is active now."""
    lines = [f"{document['version']} is active now."] if document.get("version") else []
    return escape("\n".join([*lines, *([document["note"]] if document["note"] else [])]))


def findings_text(findings: Sequence[Finding]) -> RenderableType:
    """What the doctor found, each failure with its remedy."""
    return escape("\n".join(map(str, findings)))


def treatment_text(treatment: Treatment) -> RenderableType:
    """What the doctor repaired, and what it leaves to a person."""
    return escape(str(treatment))


def connect_text(report: ConnectReport) -> RenderableType:
    """What is connected now, and what was changed."""
    return escape(str(report))


def disconnect_text(report: DisconnectReport) -> RenderableType:
    """What was taken out, and what stays."""
    return escape(str(report))


def _version_line(active: dict[str, Any]) -> str:
    return escape(
        f"{active['version']}, {active['labels']} labels, mAP50 {_share(active['map50'])} "
        f"on {active['validation_images']} images held out"
    )


def _training_line(training: dict[str, Any]) -> str:
    progress = training["progress"] or {}
    parts = [training["status"]]
    if progress:
        parts.append(f"{progress.get('phase', '')} {progress.get('iteration', 0)}/{progress.get('iterations', '?')}")
    if progress.get("eta_seconds"):
        parts.append(f"about {progress['eta_seconds']:.0f} s left")
    if training["error"]:
        parts.append(f"the last one failed: {training['error']}")
    return ", ".join(parts)


def _job_line(job: dict[str, Any]) -> str:
    progress = job["progress"] or {}
    count = f" {progress['iteration']}/{progress['iterations']}" if "iterations" in progress else ""
    return f"{job['kind']} {job['status']}{count}"


def _share(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"
