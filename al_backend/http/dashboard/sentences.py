"""The state of a project in words: what it does now, and what comes next and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from al_backend.cycle import MAX_ATTEMPTS
from al_backend.http.dashboard.facts import ProjectFacts
from al_backend.http.dashboard.live import Live, Work


@dataclass(frozen=True, slots=True)
class State:
    """A word for a table, and the level that gives it its colour and sign."""

    word: str
    level: str
    """`ok`, `busy`, `warning`, `error` or `quiet`."""


def training_state(facts: ProjectFacts, live: Live) -> State:
    """The state of training, for a table."""
    if live.trouble:
        return State("unknown", "warning")
    work = next((item for item in live.of(facts.id) if item.kind == "train"), None)
    if work is not None:
        if not work.running:
            return State("training waits", "busy")
        return State("training" if work.done is None else f"{work.phase or 'training'} {100 * work.done:.0f} %", "busy")
    if facts.attempt is not None and facts.attempt.error is not None:
        return State("last training failed", "error")
    others = live.of(facts.id)
    if others:
        return State(others[0].title.lower(), "busy")
    missing = None if facts.observed is None else facts.observed.missing_labels
    if missing:
        return State(f"{missing:,} labels to go", "quiet")
    return State("idle", "quiet")


def doctor_state(facts: ProjectFacts) -> State:
    """The doctor's verdict, for a table."""
    if not facts.doctor:
        return State("not examined", "quiet")
    if facts.doctor.get("error"):
        return State("could not look", "warning")
    levels = [finding["level"] for finding in facts.doctor["findings"]]
    errors, warnings = levels.count("error"), levels.count("warning")
    if errors:
        return State(f"{errors} error{'s' if errors > 1 else ''}", "error")
    if warnings:
        return State(f"{warnings} warning{'s' if warnings > 1 else ''}", "warning")
    return State("healthy", "ok")


def troubles(facts: ProjectFacts, live: Live) -> list[str]:
    """What keeps the cycle from running as it should, a sentence each with what to do."""
    found = []
    if live.trouble:
        found.append(live.trouble)
    elif live.idle_queues:
        queues = ", ".join(live.idle_queues)
        found.append(f"No worker takes the queues {queues}; start `al-backend worker` or `al-backend up`.")
    if facts.config_error:
        found.append(facts.config_error)
    error = live.errors.get(facts.id)
    if error is not None:
        found.append(f"The last look at the project failed: {error}")
    if facts.attempt is not None and facts.attempt.error is not None:
        again = "label more images or press Train now" if facts.attempt.count >= MAX_ATTEMPTS else "it is tried again"
        found.append(f"The last training failed ({facts.attempt.error}); {again}.")
    if facts.pointer is not None and facts.active is None and not facts.cold_start:
        found.append(f"The files of the active version {facts.pointer.version} are gone; promote another one.")
    newest = facts.versions[-1] if facts.versions else None
    if newest is not None and not newest.promoted and newest is not facts.active:
        found.append(f"The newest version {newest.name} was refused: {newest.verdict}")
    return found


def next_step(facts: ProjectFacts, live: Live) -> str:
    """What comes next and why."""
    works: Sequence[Work] = live.of(facts.id)
    kinds = {work.kind for work in works}
    if live.trouble:
        return "Nothing can be started while Redis does not answer. Labels are not lost: the next look finds them."
    if "train" in kinds:
        return "A training is on its way. When its version passes the gate, the pool is ranked by it."
    if kinds & {"score", "choose"}:
        return "The pool is being measured. Then the order is made and published to Label Studio."
    if "publish" in kinds:
        return "The new order is being written to Label Studio, most informative images first."
    if facts.observed is None:
        return "Nobody has looked at the project yet. The first look comes within a minute when a worker lives."
    missing, learning = facts.observed.missing_labels, facts.learning
    if missing and not facts.versions:
        first = (
            f"{missing:,} more labelled images start the first training "
            f"({facts.observed.labels:,} of {learning.min_labels:,})."
        )
        return f"{facts.cold_start} {first}".lstrip()
    if missing:
        return (
            f"{missing:,} more new or changed labels start the next training, "
            f"which comes every {learning.train_every:,}."
        )
    if facts.observed.new_labels:
        return "Enough new labels are there: the next look starts a training."
    return "All labels are learnt. New ones start the next training."


def notices(code: str) -> str:
    """What an action says when it is done; "" for none that is known."""
    return {
        "train": "A training is asked for. It shows here as soon as a worker takes it.",
        "rank": "A ranking is asked for. Label Studio keeps the present order until the new one is published.",
        "promote": "The active version has changed. The pool is ranked by it next.",
        "rollback": "The version that was active before is active again. The pool is ranked by it next.",
        "moved": "The active version has changed. Label Studio gets it when Redis and the workers run again.",
        "examine": "The doctor is looking. It takes some seconds.",
        "cancel": "It is cancelled; a training that runs stops after its step.",
        "nothing": "There was nothing to cancel: no training and no ranking is in work.",
    }.get(code, "")


def examined_at(facts: ProjectFacts) -> datetime | None:
    """When the doctor looked last."""
    at: Any = facts.doctor.get("at")
    return datetime.fromisoformat(at) if at else None
