"""How long a ranking takes once everything is measured, from ten thousand images to a million.

HUALE with the diversity step, from the measurements in the registry's shards to the finished order; once more for a
pool of near-duplicates alone, in bursts of ten, of which the step has to find the first ones. Each size runs in a
process of its own, so that its largest memory can be told.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from typing import Any

import numpy as np
import polars as pl

from al_backend.registry import Ranking, Registry
from benchmarks._report import Goal, Options, Outcome, main
from model.acquisition.strategy import RankingContext, StrategyConfig, create_strategy, with_candidates

SIZES = (10_000, 100_000, 1_000_000)
QUICK_SIZES = (10_000, 100_000)
BUDGET = 1_000
LABELLED = 2_000
CLASSES = 8
PROJECT, RANKING = 1, "r1"
GOAL_SECONDS, GOAL_GB = 60.0, 4.0
SHARD = 512
"""The largest that the backend makes."""
BURST = 10
KINDS = np.random.default_rng(1).normal(size=(300, 64))


def measure(options: Options) -> Outcome:
    """One process per size."""
    outcome = Outcome(
        notes=[
            f"HUALE with the diversity step, budget {BUDGET}, {LABELLED} labelled images, {CLASSES} classes, "
            "embeddings of 64 numbers. Seconds of reading, of choosing candidates and of ranking; memory of the "
            "process."
        ]
    )
    sizes = QUICK_SIZES if options.quick else SIZES
    for size, burst in (*((size, 1) for size in sizes), (sizes[-1], BURST)):
        command = [sys.executable, "-m", "benchmarks.ranking_scale", "--one", str(size), str(burst)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        outcome.results.append(json.loads(answer.stdout.splitlines()[-1]))
    seconds, memory = (max(row[name] for row in outcome.results) for name in ("seconds", "memory_gb"))
    outcome.goals = [
        Goal(f"seconds for {sizes[-1]:,} images", seconds, f"< {GOAL_SECONDS:.0f}", seconds < GOAL_SECONDS),
        Goal("gigabytes of memory", memory, f"< {GOAL_GB:.0f}", memory < GOAL_GB),
    ]
    return outcome


def one(size: int, burst: int) -> dict[str, Any]:
    """Rank a drawn pool of one size; with `burst` above 1, that many neighbours are near-duplicates."""
    context = RankingContext(tuple(f"class {n}" for n in range(CLASSES)), (100,) * CLASSES, seed=0, budget=BUDGET)
    strategy = create_strategy(StrategyConfig("huale", diversity=True))
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="al-benchmark-") as name:
        registry = _stored(name, generator, size, burst)
        labelled = _drawn(generator, size, LABELLED).hstack(_closer(generator, LABELLED))
        started = time.perf_counter()
        table = registry.read_shards(PROJECT, RANKING)
        read = time.perf_counter()
        candidates = strategy.candidates(table, context)
        chosen = time.perf_counter()
        closer = pl.DataFrame({"task_id": candidates}).hstack(_closer(generator, len(candidates)))
        closer_seen = time.perf_counter()
        ranked = strategy.rank(with_candidates(table, closer), context, labelled).table
        ended = time.perf_counter()
    if ranked.height != size or ranked["task_id"].n_unique() != size:
        raise RuntimeError(f"the ranking has {ranked.height} rows, expected {size}")
    return {
        "images": size,
        "in bursts of": burst,
        "seconds": round(ended - started - (closer_seen - chosen), 2),
        "read": round(read - started, 2),
        "candidates": round(chosen - read, 2),
        "rank": round(ended - closer_seen, 2),
        "memory_gb": round(_peak_bytes() / 1e9, 2),
    }


def _stored(folder: str, generator: np.random.Generator, size: int, burst: int) -> Registry:
    """A registry with one ranking, all of whose shards are measured."""
    registry = Registry(folder)
    registry.register_project(PROJECT, label_config="<View/>", overrides={})
    now, shards = datetime.now(timezone.utc), -(-size // SHARD)
    ranking = Ranking(
        id=RANKING,
        project=PROJECT,
        version="v1",
        model_version="v1",
        strategy={"name": "huale", "diversity": True},
        context={},
        created_at=now,
        tasks=size,
        shard_size=SHARD,
        shards=shards,
    )
    tasks = pl.DataFrame({"task_id": np.arange(size), "shard": np.arange(size) // SHARD})
    registry.create_ranking(ranking, tasks)
    for shard in range(shards):
        start = shard * SHARD
        registry.write_shard(PROJECT, RANKING, shard, _drawn(generator, start, min(SHARD, size - start), burst))
    return registry


def _peak_bytes() -> int:
    """The largest memory that this process had resident so far; also of drawing the pool, which needs less."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _drawn(generator: np.random.Generator, start: int, count: int, burst: int = 1) -> pl.DataFrame:
    """First-phase measurements of images that form a few hundred kinds, a tenth of them without detections.

    Those of a burst look almost the same, and the detector doubts them alike.
    """
    of = np.arange(count) // burst
    bursts = int(of[-1]) + 1
    points = KINDS[generator.integers(0, len(KINDS), bursts)] + generator.normal(size=(bursts, 64)) / 2
    points = points[of] + generator.normal(size=(count, 64)) * (0.02 if burst > 1 else 0.0)
    points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    boxes = generator.poisson(2.3, count).astype(np.float64)
    shares = generator.dirichlet(np.full(CLASSES, 0.3), count).astype(np.float32)
    shares = np.concatenate([shares, np.zeros((count, 1), np.float32)], axis=1)
    shares[boxes == 0] = np.eye(CLASSES + 1, dtype=np.float32)[-1]
    doubt = generator.uniform(0, np.log(CLASSES + 1), bursts)[of] + generator.uniform(0, 1e-3, count)
    entropy = np.where(boxes > 0, doubt, 0.0)
    return pl.DataFrame(
        {
            "task_id": np.arange(start, start + count),
            "entropy": entropy,
            "boxes": boxes,
            "embedding": pl.Series(points, dtype=pl.Array(pl.Float32, 64)),
            "class_shares": pl.Series(shares, dtype=pl.Array(pl.Float32, CLASSES + 1)),
        }
    )


def _closer(generator: np.random.Generator, count: int) -> pl.DataFrame:
    """Second-phase measurements."""
    names = ("semantic_affinity", "category_diversity", "overlap_ratio", "localization_confidence")
    return pl.DataFrame({name: generator.uniform(size=count) for name in names})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(one(int(sys.argv[2]), int(sys.argv[3]))))
    else:
        raise SystemExit(main("ranking_scale", "How long does the ranking of a measured pool take?", measure))
