"""How long a ranking takes once everything is measured, from ten thousand images to a million.

HUALE with the diversity step, from the measurements as the registry stores them (Parquet) to the finished order. Each
size runs in a process of its own, so that its largest memory can be told.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks._report import Goal, Options, Outcome, main
from model.acquisition.strategy import RankingContext, StrategyConfig, create_strategy, with_candidates

SIZES = (10_000, 100_000, 1_000_000)
QUICK_SIZES = (10_000, 100_000)
BUDGET = 1_000
LABELLED = 2_000
CLASSES = 8
GOAL_SECONDS, GOAL_GB = 60.0, 4.0
CHUNK = 100_000


def measure(options: Options) -> Outcome:
    """One process per size."""
    outcome = Outcome(
        notes=[
            f"HUALE with the diversity step, budget {BUDGET}, {LABELLED} labelled images, {CLASSES} classes, "
            "embeddings of 64 numbers. Seconds of reading, of choosing candidates and of ranking; memory of the "
            "process."
        ]
    )
    for size in QUICK_SIZES if options.quick else SIZES:
        command = [sys.executable, "-m", "benchmarks.ranking_scale", "--one", str(size)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        outcome.results.append(json.loads(answer.stdout.splitlines()[-1]))
    last = outcome.results[-1]
    if last["images"] == SIZES[-1]:
        outcome.goals = [
            Goal(
                "seconds for a million images", last["seconds"], f"< {GOAL_SECONDS:.0f}", last["seconds"] < GOAL_SECONDS
            ),
            Goal("gigabytes of memory", last["memory_gb"], f"< {GOAL_GB:.0f}", last["memory_gb"] < GOAL_GB),
        ]
    return outcome


def one(size: int) -> dict[str, Any]:
    """Rank a drawn pool of one size."""
    context = RankingContext(tuple(f"class {n}" for n in range(CLASSES)), (100,) * CLASSES, seed=0, budget=BUDGET)
    strategy = create_strategy(StrategyConfig("huale", diversity=True))
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="al-benchmark-") as name:
        folder = Path(name)
        for start in range(0, size, CHUNK):
            _drawn(generator, start, min(CHUNK, size - start)).write_parquet(folder / f"{start:09d}.parquet")
        labelled = _drawn(generator, size, LABELLED).hstack(_closer(generator, LABELLED))
        started = time.perf_counter()
        table = pl.concat([pl.read_parquet(path) for path in sorted(folder.glob("*.parquet"))])
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
        "seconds": round(ended - started - (closer_seen - chosen), 2),
        "read": round(read - started, 2),
        "candidates": round(chosen - read, 2),
        "rank": round(ended - closer_seen, 2),
        "memory_gb": round(_peak_bytes() / 1e9, 2),
    }


def _peak_bytes() -> int:
    """The largest memory that this process had resident so far; also of drawing the pool, which needs less."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _drawn(generator: np.random.Generator, start: int, count: int) -> pl.DataFrame:
    """First-phase measurements of images that form a few hundred kinds, a tenth of them without detections."""
    kinds = np.random.default_rng(1).normal(size=(300, 64)).astype(np.float32)
    points = kinds[generator.integers(0, len(kinds), count)] + generator.normal(size=(count, 64)).astype(np.float32) / 2
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    boxes = generator.poisson(2.3, count).astype(np.float64)
    shares = generator.dirichlet(np.full(CLASSES, 0.3), count).astype(np.float32)
    shares = np.concatenate([shares, np.zeros((count, 1), np.float32)], axis=1)
    shares[boxes == 0] = np.eye(CLASSES + 1, dtype=np.float32)[-1]
    entropy = np.where(boxes > 0, generator.uniform(0, np.log(CLASSES + 1), count), 0.0)
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
        print(json.dumps(one(int(sys.argv[2]))))
    else:
        raise SystemExit(main("ranking_scale", "How long does the ranking of a measured pool take?", measure))
