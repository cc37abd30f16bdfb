"""How fast `/webhook` answers while a training has the processor, and whether anything is lost.

A real Label Studio, the whole backend, a training on the CPU. Meanwhile people label, and on top of their own events
500 more are posted, 20 at a time. Then every label has to be in the version that is trained next.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import httpx

from al_backend.connect import connect
from al_backend.demo.annotator import label_next
from al_backend.demo.backend import RunningBackend, local_settings
from al_backend.demo.run import find_label_studio
from al_backend.demo.sample import create_sample_project
from al_backend.demo.server import LabelStudioServer
from al_backend.errors import BackendError
from al_backend.jobs.client import overview, request_training
from al_backend.jobs.queues import QueueName, Queues
from al_backend.labelstudio.client import LabelStudio
from al_backend.registry import Registry
from benchmarks._report import Goal, Options, Outcome, main, percentile

POSTS = 500
CONCURRENCY = 20
LABELLED_MEANWHILE = 20
GOAL_MS = 200.0

Seen = TypeVar("Seen")


def measure(options: Options) -> Outcome:
    """One burst of events per round, each during a training."""
    rounds = 1 if options.quick else 3
    with tempfile.TemporaryDirectory(prefix="al-benchmark-") as name:
        folder = Path(name)
        program = options.label_studio or find_label_studio()
        with LabelStudioServer(program, folder / "ls", template_dir=Path(".build/label-studio")) as server:
            return _measure(server, folder, rounds)


def _measure(server: LabelStudioServer, folder: Path, rounds: int) -> Outcome:
    client = LabelStudio(server.url, server.token)
    settings = local_settings(
        server,
        folder,
        device="cpu",
        reconcile_every=5.0,
        min_labels=20,
        train_every=LABELLED_MEANWHILE,
        image_size=320,
        batch_size=16,
        iterations=60,
    )
    registry = Registry(settings.model_dir)
    sample = create_sample_project(client, folder / "scenes", images=160, labelled=40, held_out=0)
    outcome = Outcome(notes=["Each burst runs beside a training on the CPU and beside Label Studio's own events."])
    # Events are posted from a process of its own: the labelling people are threads of this one and hold up its clock.
    sender = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    with sender, RunningBackend(settings, folder / "backend.log") as backend:
        sender.submit(os.getpid).result()  # its imports are done before anything is measured
        connect(settings, client, registry, sample.project_id, queues=backend.queues)
        for number in range(1, rounds + 1):
            if number > 1:  # the labels so far are learnt: nothing trains on its own
                request_training(registry, backend.queues, sample.project_id)
            _until("a running training", lambda: _trains(backend.queues), backend)
            people = threading.Thread(target=label_next, args=(client, sample, LABELLED_MEANWHILE))
            people.start()
            burst = _burst(sender, f"{settings.own_url}/webhook", sample.project_id, backend.queues)
            during = _trains(backend.queues)
            people.join()
            _until("no more than one look waiting", lambda: _pending(backend.queues) <= 1, backend)
            truth = {str(task.id) for task in client.labelled_tasks(sample.project_id)}
            known = _until(
                "a version trained on every label",
                lambda truth=truth: next(  # type: ignore[misc]
                    (item for item in registry.versions(sample.project_id) if set(item.labels) == truth), None
                ),
                backend,
            )
            times = [seconds * 1000 for seconds, _, _ in burst.answers]
            outcome.results.append(
                {
                    "round": number,
                    "posts": len(burst.answers),
                    "not_2xx": sum(not 200 <= status < 300 for _, status, _ in burst.answers),
                    "enqueued": sum(enqueued for _, _, enqueued in burst.answers),
                    "most_pending": burst.most_pending,
                    "p50_ms": percentile(times, 50),
                    "p95_ms": percentile(times, 95),
                    "p99_ms": percentile(times, 99),
                    "max_ms": percentile(times, 100),
                    "posts_per_second": round(len(times) / burst.seconds, 1),
                    "training_all_along": during,
                    "labels": len(truth),
                    "labels_known": len(known.labels),
                }
            )
    client.close()
    _judge(outcome)
    return outcome


class _Burst:
    """`POSTS` events to a webhook, `CONCURRENCY` at a time; `answers` are (seconds, status, newly enqueued)."""

    def __init__(self, answers: list[tuple[float, int, bool]], seconds: float, most_pending: int) -> None:
        self.answers, self.seconds, self.most_pending = answers, seconds, most_pending


def _burst(sender: ProcessPoolExecutor, url: str, project_id: int, queues: Queues) -> _Burst:
    most_pending = 0
    sent = sender.submit(_send, url, project_id)
    while not sent.done():
        most_pending = max(most_pending, _pending(queues))
        time.sleep(0.005)
    answers, seconds = sent.result()
    return _Burst(answers, seconds, most_pending)


def _send(url: str, project_id: int) -> tuple[list[tuple[float, int, bool]], float]:
    numbers = itertools.count()
    limits = httpx.Limits(max_connections=CONCURRENCY, max_keepalive_connections=CONCURRENCY)
    with httpx.Client(timeout=60, limits=limits, trust_env=False) as http, ThreadPoolExecutor(CONCURRENCY) as pool:

        def post(_: int) -> tuple[float, int, bool]:
            body = {
                "action": "ANNOTATION_CREATED",
                "project": {"id": project_id, "title": "Reef"},
                "task": {"id": next(numbers)},
                "annotation": {"id": 1, "result": []},
            }
            started = time.perf_counter()
            answer = http.post(url, json=body)
            seconds = time.perf_counter() - started
            return seconds, answer.status_code, bool(answer.is_success and answer.json()["enqueued"])

        started = time.perf_counter()
        answers = list(pool.map(post, range(POSTS)))
        return answers, time.perf_counter() - started


def _judge(outcome: Outcome) -> None:
    rows = outcome.results
    worst = max(row["p99_ms"] for row in rows)
    refused = sum(row["not_2xx"] for row in rows)
    pending = max(row["most_pending"] for row in rows)
    lost = sum(row["labels"] - row["labels_known"] for row in rows)
    outcome.goals = [
        Goal("p99 of /webhook, worst round, ms", worst, f"< {GOAL_MS:.0f}", worst < GOAL_MS),
        Goal("answers that are not 2xx", refused, "0", refused == 0),
        Goal("looks at the project that wait at one time", pending, "at most 1", pending <= 1),
        Goal("labels that the next version does not know", lost, "0", lost == 0),
    ]


def _pending(queues: Queues) -> int:
    return int(queues.queue(QueueName.RECONCILE).count)


def _trains(queues: Queues) -> bool:
    jobs = [job for job in overview(queues)["jobs"] if job["kind"] == "train"]
    return any((job["progress"] or {}).get("phase") == "train" for job in jobs)


def _until(what: str, look: Callable[[], Seen | None], backend: RunningBackend, seconds: float = 900) -> Seen:
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        if time.monotonic() > deadline:
            raise BackendError(f"Not within {seconds:.0f} s: {what}. The backend's last lines:\n{backend.log_tail(30)}")
        time.sleep(0.2)
    return seen


if __name__ == "__main__":
    raise SystemExit(main("webhooks", "How fast does /webhook answer during a training, and is a label lost?", measure))
