"""Results made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from model.simulation.results import Curve, Full, Point, Results
from model.training.evaluation import ClassMetrics, Evaluation

CLASSES = ("cod", "<eel>")


def point(labels: int, boxes: int, map50: float) -> Point:
    per_class = {name: ClassMetrics(map50, map50 / 2, 10) for name in CLASSES}
    counts = {"cod": boxes - boxes // 4, "<eel>": boxes // 4}
    return Point(labels, boxes, counts, Evaluation(map50, map50 / 2, 20, 20, per_class), ("a", "b"), (0.5, None))


def curve(
    strategy: str, seed: int, values: Sequence[float], *, boxes: int = 2, losses: str = "library", complete: bool = True
) -> Curve:
    """100, 200, ... labels; `boxes` a label from the second point on, 200 at the first."""
    points = [point(100 * n, 200 + 100 * boxes * (n - 1), value) for n, value in enumerate(values, 1)]
    return Curve(strategy, losses, seed, tuple(points), complete)


def results(curves: Sequence[Curve], *, full: Mapping[int, float] | None = None, ended_early: bool = False) -> Results:
    """An experiment with these curves; `full` by seed."""
    return Results(
        data={
            "name": "fish & <chips>",
            "classes": list(CLASSES),
            "pool_images": 1000,
            "pool_boxes": 2000,
            "pool_class_counts": [1500, 500],
            "test_images": 20,
            "test_boxes": 20,
            "test_class_counts": [10, 10],
        },
        detector={"architecture": "yolov5n"},
        settings={
            "initial": 100,
            "budget": 100,
            "cycles": 3,
            "pool_size": 0,
            "training": {"iterations": 10},
            "strategies": {c.strategy: {} for c in curves},
            "losses": {c.losses: {} for c in curves},
            "seeds": sorted({c.seed for c in curves}),
            "full": False,
        },
        curves=tuple(curves),
        full=tuple(Full("library", seed, point(1000, 2000, value)) for seed, value in (full or {}).items()),
        ended_early=ended_early,
        made_at="2026-03-01T12:00:00+00:00",
        versions={"python": "3.11"},
        hardware={"processor": "abacus"},
    )


RANDOM = [0.1, 0.2, 0.3, 0.4]
BETTER = [0.1, 0.3, 0.4, 0.45]
CURVES = [curve(name, seed, values) for seed in (0, 1) for name, values in (("random", RANDOM), ("huale", BETTER))]
