"""One query: what a strategy gets to see, and what it does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from model.acquisition.base import Columns, Fitted, Measurement, Ranked, RankingContext, sorted_by_informativeness
from model.detections import Detections
from model.detectors.base import Image, View
from model.simulation.data import SimulationData
from model.simulation.selection import Chosen, choose
from model.training.config import TrainingConfig
from tests.model.simulation.fake_experiment import CLASSES, Fake, Fakes, sample

LABELLED = [0, 1, 2, 4, 7]
"""Three red ones, a green and a blue one."""


class Recorder:
    """Wants both views of the candidates, takes the first three tasks for those, and the highest ids first."""

    name = "recorder"
    views = (View.ORIGINAL,)
    candidate_views = (View.HFLIP,)
    uses_labelled = True
    needs_novelty = False

    def __init__(self) -> None:
        self.contexts: list[RankingContext] = []
        self.measured: list[int] = []
        self.closer: list[int] = []
        self.labelled: pl.DataFrame | None = None
        self.table = pl.DataFrame()

    def columns(self, context: RankingContext) -> Columns:
        return {"boxes": pl.Float64()}

    def candidate_columns(self, context: RankingContext) -> Columns:
        return {"flipped": pl.Float64()}

    def measure(self, task_id: int, detections: Mapping[View, Detections], context: RankingContext) -> Measurement:
        self.contexts.append(context)
        self.measured.append(task_id)
        return {"boxes": float(len(detections[View.ORIGINAL]))}

    def measure_candidate(
        self, task_id: int, detections: Mapping[View, Detections], context: RankingContext
    ) -> Measurement:
        self.closer.append(task_id)
        return {"flipped": float(len(detections[View.HFLIP]))}

    def candidates(self, measurements: pl.DataFrame, context: RankingContext) -> list[int]:
        return sorted(measurements["task_id"].to_list())[:3]

    def rank(self, measurements: pl.DataFrame, context: RankingContext, labelled: pl.DataFrame | None = None) -> Ranked:
        self.table, self.labelled = measurements, labelled
        return Ranked(sorted_by_informativeness(measurements, measurements["task_id"].cast(pl.Float64)), {})

    def informativeness(self, measurements: pl.DataFrame, context: RankingContext, fitted: Fitted) -> pl.Series:
        return measurements["task_id"].cast(pl.Float64)


class Counting(Fake):
    """Remembers which views it was asked for, and of how many images."""

    def __init__(self) -> None:
        super().__init__(Fakes(), CLASSES)
        self.asked: list[tuple[tuple[View, ...], int]] = []
        self.watch: Callable[[], None] = lambda: None

    def predict(
        self, images: Sequence[Image], views: Sequence[View] = (View.ORIGINAL,), *, min_score: float = 0.05
    ) -> list[Mapping[View, Detections]]:
        self.asked.append((tuple(views), len(images)))
        self.watch()
        return super().predict(images, views, min_score=min_score)


@pytest.fixture(name="data", scope="module")
def data_fixture(tmp_path_factory: pytest.TempPathFactory) -> SimulationData:
    return sample(tmp_path_factory.mktemp("images"), 12)


def query(data: SimulationData, strategy: Recorder, labelled: Sequence[int] = LABELLED) -> tuple[Chosen, Counting]:
    detector = Counting()
    keys = [data.pool.images[task].key for task in labelled]
    detector.fit(data.pool.subset(keys), None, TrainingConfig())
    chosen = choose(strategy, detector, data.pool, labelled, budget=2, seed=5, min_score=0.05)
    return chosen, detector


def test_both_phases_and_the_labelled_side(data: SimulationData) -> None:
    strategy = Recorder()
    chosen, detector = query(data, strategy)
    assert chosen == Chosen((11, 10), (11.0, 10.0))
    pool = [task for task in range(12) if task not in LABELLED]
    assert strategy.measured == [*LABELLED, *pool]
    assert strategy.closer == [*LABELLED, *pool[:3]]
    assert strategy.table["task_id"].to_list() == pool
    assert strategy.table["flipped"].is_null().to_list() == [False] * 3 + [True] * 4
    assert strategy.labelled is not None
    assert strategy.labelled["task_id"].to_list() == LABELLED
    assert strategy.labelled["flipped"].null_count() == 0
    # The pool in the original, a few closer, and the labelled in everything at once.
    both = (View.ORIGINAL, View.HFLIP)
    assert detector.asked == [(both, 5), ((View.ORIGINAL,), 7), ((View.HFLIP,), 3)]


def test_what_is_known_of_the_labels(data: SimulationData) -> None:
    strategy = Recorder()
    query(data, strategy)
    before, context = dict.fromkeys(strategy.contexts)
    assert before == replace(context, class_quality=()), "of the labelled images, which it is known from"
    assert (context.classes, context.label_counts, context.budget, context.seed) == (CLASSES, (3, 1, 1), 2, 5)
    # Shown three times red is well placed; once is too little, as the boxes miss by half their side.
    assert context.class_quality == (1.0, 0.0, 0.0)


def test_a_class_without_a_label_is_unknown(data: SimulationData) -> None:
    strategy = Recorder()
    query(data, strategy, [0, 1, 3])
    assert strategy.contexts[-1].label_counts == (3, 0, 0)
    assert strategy.contexts[-1].class_quality == (1.0, 0.0, 0.0)


def test_labelled_images_are_measured_while_they_are_read(tmp_path: Path) -> None:
    """Detections of thousands of images, with embeddings and in several views, do not fit into memory."""
    data, strategy = sample(tmp_path, 40), Recorder()
    detector, measured = Counting(), []
    detector.watch = lambda: measured.append(len(strategy.closer))
    detector.fit(data.pool, None, TrainingConfig())
    choose(strategy, detector, data.pool, range(36), budget=2, seed=5, min_score=0.05)
    assert detector.asked[:3] == [((View.ORIGINAL, View.HFLIP), count) for count in (16, 16, 4)]
    assert measured[:3] == [0, 16, 32]


def test_an_unreadable_labelled_image_is_told_and_left_out(tmp_path: Path) -> None:
    data = sample(tmp_path, 12)
    data.pool.images[0].path.write_bytes(b"")
    strategy = Recorder()
    chosen, _ = query(data, strategy)
    assert strategy.labelled is not None
    assert strategy.labelled["task_id"].to_list() == LABELLED[1:]
    assert len(chosen.unreadable) == 1
    assert "pool/0" in chosen.unreadable[0]
