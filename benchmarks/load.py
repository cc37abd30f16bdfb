"""A hundred thousand tasks in one project, and twenty projects on one backend, while somebody labels.

Label Studio is simulated (`benchmarks/_label_studio`): it keeps the measured contract, not the speed. All else is the
product with its own processes: it lists, downloads, measures, orders and publishes. The detector is YOLOv5n at 64 px.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks._load_field import Latencies, LoadField, busiest
from benchmarks._report import Goal, Options, Outcome, main

TASKS, QUICK_TASKS = 100_000, 5_000
PROJECTS, PROJECT_TASKS = 20, 100
RATE = 500.0
IDLE_SECONDS = 20.0
LABELS_EVERY = 0.5
WINDOW = 10.0
GOAL_MEMORY_MB = 2_000.0
GOAL_WEBHOOK_MS, GOAL_PREDICT_MS = 200.0, 1_000.0
_DEADLINE = 3 * 3600.0


def measure(options: Options) -> Outcome:
    """The large project first, then the many."""
    with (
        tempfile.TemporaryDirectory(prefix="al-benchmark-") as name,
        LoadField(Path(name), publish_rate=RATE, reconcile_every=10.0, threads=16) as field,
    ):
        return run(field, QUICK_TASKS if options.quick else TASKS, PROJECTS, PROJECT_TASKS)


def run(field: LoadField, tasks: int, projects: int, each: int, idle_seconds: float = IDLE_SECONDS) -> Outcome:
    """One large project and many small ones behind it, with an annotator in the large one.

    Args:
        field: its backend is not started yet.
        tasks: of the large project.
        projects: small ones, which come a moment later.
        each: tasks of each of them.
        idle_seconds: for which the annotator works alone at first, for comparison.
    """
    outcome = Outcome()
    idle_project = field.add_project(50)
    field.start()
    field.rank([idle_project])
    field.wait("the first project published", lambda: field.published(idle_project), 300)
    with field.annotator(idle_project, LABELS_EVERY) as idle:
        time.sleep(idle_seconds)
    large = field.add_project(tasks)
    started = time.monotonic()
    ended: dict[int, float] = {}
    with field.annotator(large, LABELS_EVERY) as busy:
        field.rank([large])
        field.wait("the large project's ranking", lambda: field.registry.rankings(large), _DEADLINE)
        small = [field.add_project(each) for _ in range(projects)]
        field.rank(small)

        def all_published() -> bool:
            for project in (large, *small):
                if project not in ended and field.published(project):
                    ended[project] = time.monotonic() - started
            return len(ended) == projects + 1

        field.wait("everything published", all_published, _DEADLINE)
    time.sleep(1)
    document = field.published(large) or {}
    steps = {name: document.get(f"{name}_seconds") for name in ("rank", "publish")}
    durations = {
        "the large project published": (tasks, ended[large]),
        "of which measured and ordered": (tasks, steps["rank"]),
        "of which written": (tasks, steps["publish"]),
        f"the first of {projects} small projects published": (each, min(ended[project] for project in small)),
        f"the last of {projects} small projects published": (each, max(ended[project] for project in small)),
    }
    outcome.results += [
        {"what": what, "phase": "load", "count": count, "value": round(seconds or 0.0, 1), "unit": "s"}
        for what, (count, seconds) in durations.items()
    ]
    for phase, found in (("idle", idle), ("load", busy)):
        outcome.results += [found.row(phase, request) for request in sorted(found.seconds)]
    outcome.results += [
        {"what": f"largest memory: {process}", "phase": "all", "value": round(size), "unit": "MB"}
        for process, size in sorted(field.peaks.items())
    ]
    outcome.goals = _goals(field, [large, *small], busy)
    outcome.notes = [
        f"Seconds count from the first look at the large project; the small ones came once it was being measured. "
        f"Somebody labelled a task of the large project every {LABELS_EVERY} s and some. Label Studio is simulated: "
        "its own time is next to nothing here.",
        *[f"Failed: {failure}" for failure in (idle.failures + busy.failures)[:5]],
    ]
    return outcome


def _goals(field: LoadField, projects: list[int], busy: Latencies) -> list[Goal]:
    served = sum(field.order_is_served(project) for project in projects)
    items, _ = busiest(field.label_studio.writes(), "import", WINDOW)
    allowed = RATE * WINDOW + field.settings.publish_chunk
    memory = max(size for name, size in field.peaks.items() if name != "simulated Label Studio")
    webhook = busy.row("load", "/webhook")["p99"] or float("inf")
    predict = busy.row("load", "/predict of one task")["p99"] or float("inf")
    return [
        Goal("projects whose order is served exactly", served, f"{len(projects)}", served == len(projects)),
        Goal(f"predictions imported in {WINDOW:.0f} s at most", items, f"at most {allowed:.0f}", items <= allowed),
        Goal("largest process, MB", round(memory), f"< {GOAL_MEMORY_MB:.0f}", memory < GOAL_MEMORY_MB),
        Goal("requests that failed", len(busy.failures), "0", not busy.failures),
        Goal(
            "/webhook p99, ms", webhook, f"< {GOAL_WEBHOOK_MS:.0f}", webhook is not None and webhook < GOAL_WEBHOOK_MS
        ),
        Goal("/predict of one task p99, ms", predict, f"< {GOAL_PREDICT_MS:.0f}", predict < GOAL_PREDICT_MS),
    ]


if __name__ == "__main__":
    raise SystemExit(main("load", "Does a large project, do many projects and a person at work go together?", measure))
