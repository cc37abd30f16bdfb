"""AL-VAE's sum by hand, what it does where a part is missing, and late images."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from model.acquisition.detection_loss import expected_detection_loss
from model.acquisition.strategy import RankingContext, StrategyConfig, create_strategy, measurement_table
from model.detections import Detections
from model.detectors.base import View

CONTEXT = RankingContext(("cod",), (3,), seed=0)


def table(rows: dict[int, tuple[float, float, int]]) -> pl.DataFrame:
    """Of each task the novelty, the detection loss and the number of boxes."""
    columns = create_strategy(StrategyConfig("al_vae")).columns(CONTEXT)
    return measurement_table(
        {task: {"novelty": n, "detection_loss": d, "boxes": b} for task, (n, d, b) in rows.items()}, columns
    )


def values(rows: dict[int, tuple[float, float, int]], **settings: float | str) -> dict[int, float]:
    ranked = create_strategy(StrategyConfig("al_vae", **settings)).rank(table(rows), CONTEXT)  # type: ignore[arg-type]
    return dict(ranked.table.select("task_id", "informativeness").iter_rows())


POOL = {1: (0.01, 2.0, 3), 2: (0.03, 1.0, 2), 3: (0.05, 0.5, 1), 4: (0.0, 0.0, 0)}


def test_golden_numbers() -> None:
    # Percentiles of three values (interpolated): novelty from 0.0104 to 0.0496, loss from 0.51 to 1.98.
    novelty = [0.0, (0.03 - 0.0104) / 0.0392, (0.05 - 0.0104) / 0.0392]
    loss = [(2.0 - 0.51) / 1.47, (1.0 - 0.51) / 1.47, 0.0]
    for alpha, beta in ((0.5, 0.5), (0.9, 0.1), (1.0, 0.0), (0.0, 2.0)):
        expected = {task: alpha * novelty[task - 1] + beta * loss[task - 1] for task in (1, 2, 3)} | {4: -1.0}
        found = values(POOL, vae_alpha=alpha, vae_beta=beta)
        assert found == {task: pytest.approx(value) for task, value in expected.items()}
        assert list(found) == sorted(expected, key=lambda task: (-expected[task], task))
    assert list(values(POOL)) == [1, 3, 2, 4]
    assert next(iter(values(POOL, empty_policy="first"))) == 4


def test_what_is_constant_says_nothing() -> None:
    assert list(values({1: (0.2, 1.0, 1), 2: (0.2, 3.0, 1), 3: (0.2, 2.0, 1)})) == [2, 3, 1]
    assert list(values({1: (0.1, 1.0, 1), 2: (0.3, 1.0, 1)})) == [2, 1]
    assert values({7: (0.2, 1.0, 1)}) == {7: 0.0}
    assert values({7: (0.0, 0.0, 0)}) == {7: -1.0}


def test_a_late_image_is_judged_by_the_ranges_of_the_ranking() -> None:
    strategy = create_strategy(StrategyConfig("al_vae"))
    fitted = strategy.rank(table(POOL), CONTEXT).fitted
    assert fitted == {"low": pytest.approx([0.0104, 0.51]), "high": pytest.approx([0.0496, 1.98])}
    late = table({8: (0.03, 1.0, 1), 9: (0.0888, 0.1, 1), 10: (0.0, 0.0, 0)})
    # Twice as novel as the pool's most novel, and below its least loss: 0.5 * 2 + 0.
    assert strategy.informativeness(late, CONTEXT, fitted).to_list() == pytest.approx(
        [0.5 * 0.5 + 0.5 * 0.49 / 1.47, 1.0, -1.0]
    )


def view(boxes: int, novelty: float | None) -> Detections:
    probs = np.tile(np.array([[0.6, 0.4]], np.float32), (boxes, 1))
    square = np.tile(np.array([[10, 10, 30, 30]], np.float32), (boxes, 1))
    label = np.zeros(boxes, np.int64)
    return Detections(square, probs[:, 0], label, probs, height=100, width=100, novelty=novelty)


def test_measurements() -> None:
    strategy = create_strategy(StrategyConfig("al_vae"))
    assert strategy.needs_novelty
    assert strategy.views == (View.ORIGINAL, View.HFLIP)
    views = {View.ORIGINAL: view(1, 0.25), View.HFLIP: view(0, None)}
    loss = expected_detection_loss(views[View.ORIGINAL], views[View.HFLIP]).total
    assert loss > 0
    assert strategy.measure(3, views, CONTEXT) == {"novelty": 0.25, "detection_loss": loss, "boxes": 1.0}
    # Nothing is found, in whichever number of classes.
    nothing = {View.ORIGINAL: Detections.empty(9, 9, 80), View.HFLIP: Detections.empty(9, 9, 1)}
    nothing[View.ORIGINAL] = replace(nothing[View.ORIGINAL], novelty=0.5)
    assert strategy.measure(3, nothing, CONTEXT) == {"novelty": 0.5, "detection_loss": 0.0, "boxes": 0.0}


def test_without_an_autoencoder() -> None:
    views = {View.ORIGINAL: view(1, None), View.HFLIP: view(1, None)}
    with pytest.raises(ValueError, match=r"task 3: the detections carry no novelty.* train a version with this"):
        create_strategy(StrategyConfig("al_vae")).measure(3, views, CONTEXT)
    broken = views | {View.ORIGINAL: view(1, math.nan)}
    with pytest.raises(ValueError, match="task 3: the novelty is nan; the autoencoder's weights are damaged"):
        create_strategy(StrategyConfig("al_vae", diversity=False)).measure(3, broken, CONTEXT)
    alone = create_strategy(StrategyConfig("al_vae", vae_alpha=0.0))
    assert not alone.needs_novelty
    assert alone.measure(3, views, CONTEXT)["novelty"] == 0.0


def test_who_needs_an_autoencoder() -> None:
    for diversity in (False, True):
        assert create_strategy(StrategyConfig("al_vae", diversity=diversity)).needs_novelty
        assert not create_strategy(StrategyConfig("huale", diversity=diversity)).needs_novelty
        assert not create_strategy(StrategyConfig("core_set", diversity=diversity)).needs_novelty


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"vae_alpha": 0, "vae_beta": 0}, "both 0"),
        ({"vae_alpha": -0.1}, "vae_alpha is -0.1"),
        ({"vae_beta": math.nan}, "vae_beta is nan"),
        ({"vae_regions": "boxes"}, "expected one of: objects, image"),
        ({"vae_iterations": 0}, "vae_iterations is 0"),
    ],
)
def test_settings_that_make_no_sense(wrong: dict[str, float | str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StrategyConfig("al_vae", **wrong)  # type: ignore[arg-type]
