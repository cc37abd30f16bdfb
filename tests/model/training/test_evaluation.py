from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from weakref import WeakSet

import numpy as np
import pytest

from model.data.dataset import DetectionDataset, LabelledImage
from model.detections import Detections
from model.detectors.base import View
from model.training.config import Progress
from model.training.evaluation import ClassMetrics, Evaluation, detect_all, evaluate, score


def truth(*boxes: tuple[float, float, float, float], label: Sequence[int] | None = None) -> LabelledImage:
    labels = np.array(label if label is not None else [0] * len(boxes), np.int64)
    return LabelledImage("x", Path("x.png"), np.array(boxes, np.float32).reshape(-1, 4), labels)


def found(*rows: tuple[float, float, float, float, float, int], classes: int = 2) -> Detections:
    table = np.array(rows, np.float32).reshape(-1, 6)
    probs = np.full((len(table), classes + 1), 1 / (classes + 1), np.float32)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64), probs, 100, 100)


def test_perfect_detections() -> None:
    result = score([truth((10, 10, 50, 50))], [found((10, 10, 50, 50, 0.9, 0))], ("a", "b"))
    assert result.map50 == pytest.approx(1)
    assert result.map50_95 == pytest.approx(1)
    assert result.per_class["b"] == ClassMetrics(None, None, 0)


def test_average_precision_by_hand() -> None:
    """Two true boxes; by falling score a hit, a miss, a hit: precision 1 up to recall 0.5, then 2/3.

    COCO reads 101 recall points: 51 of them (0 to 0.5) at 1, 50 at 2/3.
    """
    result = score(
        [truth((0, 0, 20, 20), (50, 50, 90, 90))],
        [found((0, 0, 20, 20, 0.9, 0), (20, 60, 40, 80, 0.8, 0), (50, 50, 90, 90, 0.7, 0))],
        ("a",),
    )
    assert result.map50 == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_the_overlap_decides_the_thresholds() -> None:
    """An IoU of 0.8 counts at 0.5, 0.55, ... 0.8 (7 of 10 thresholds); 0.79 is used to stay off the edge."""
    result = score([truth((0, 0, 100, 100))], [found((0, 0, 100, 79, 0.9, 0))], ("a",))
    assert result.map50 == pytest.approx(1)
    assert result.map50_95 == pytest.approx(0.6)


def test_mean_is_over_classes_that_have_boxes() -> None:
    result = score(
        [truth((0, 0, 20, 20), (50, 50, 90, 90), label=[0, 1])], [found((0, 0, 20, 20, 0.9, 0))], ("a", "b", "c")
    )
    assert result.per_class["a"].ap50 == pytest.approx(1)
    assert result.per_class["b"].ap50 == 0
    assert result.per_class["c"].ap50 is None
    assert result.map50 == pytest.approx(0.5)


def test_a_box_of_the_wrong_class_is_a_miss() -> None:
    result = score([truth((0, 0, 20, 20))], [found((0, 0, 20, 20, 0.9, 1))], ("a", "b"))
    assert result.map50 == 0


def test_classes_are_matched_by_name() -> None:
    boxes = [found((0, 0, 20, 20, 0.9, 1), (50, 50, 90, 90, 0.95, 0))]
    assert score([truth((0, 0, 20, 20))], boxes, ("a",), ("gone", "a")).map50 == pytest.approx(1)


def test_nothing_detected() -> None:
    result = score([truth((0, 0, 20, 20))], [found()], ("a",))
    assert (result.map50, result.map50_95, result.boxes) == (0, 0, 1)


@pytest.mark.parametrize("images", [[], [truth()]])
def test_nothing_to_find_is_undefined_not_nan(images: list[LabelledImage]) -> None:
    result = score(images, [found((0, 0, 9, 9, 0.9, 0)) for _ in images], ("a",))
    assert result.map50 is None
    assert result.map50_95 is None
    assert result.per_class == {"a": ClassMetrics(None, None, 0)}
    assert result.images == len(images)


def test_survives_json() -> None:
    result = score([truth((0, 0, 20, 20))], [found((0, 0, 20, 20, 0.9, 0))], ("a", "b"), skipped=("b.jpg: damaged",))
    assert Evaluation.from_dict(json.loads(json.dumps(result.as_dict()))) == result


class Oracle:
    """Says what it is told, image after image."""

    architecture, classes, image_size = "oracle", ("red", "blue"), 64

    def __init__(self, answers: list[Detections]) -> None:
        self.answers = answers
        self.batches: list[int] = []

    def predict(
        self, images: Sequence[object], views: Sequence[View] = (View.ORIGINAL,), *, min_score: float = 0.05
    ) -> list[Mapping[View, Detections]]:
        self.batches.append(len(images))
        return [{View.ORIGINAL: self.answers.pop(0)} for _ in images]


def test_evaluate_reads_in_batches_skips_and_is_silent(
    squares: Callable[..., DetectionDataset], capsys: pytest.CaptureFixture[str]
) -> None:
    data = squares(5)
    data.images[2].path.write_bytes(b"")
    answers = [
        found(*[(*box, 0.9, int(kind)) for box, kind in zip(image.xyxy, image.label, strict=True)])
        for index, image in enumerate(data.images)
        if index != 2
    ]
    oracle = Oracle(answers)
    steps: list[Progress] = []
    result = evaluate(oracle, data, batch_size=2, on_progress=steps.append)  # type: ignore[arg-type]
    assert result.map50 == pytest.approx(1)
    assert (result.images, result.boxes) == (4, 3)
    assert len(result.skipped) == 1
    assert oracle.batches == [2, 1, 1]
    assert [s.iteration for s in steps] == [2, 4, 5]
    assert {s.phase for s in steps} == {"evaluate"}
    assert capsys.readouterr() == ("", "")


class Wide(Oracle):
    """Finds one box in each image, with an embedding; counts how many of these are still in memory."""

    def __init__(self) -> None:
        super().__init__([])
        self.alive: WeakSet[Detections] = WeakSet()
        self.most = 0

    def predict(
        self, images: Sequence[object], views: Sequence[View] = (View.ORIGINAL,), *, min_score: float = 0.05
    ) -> list[Mapping[View, Detections]]:
        self.most = max(self.most, len(self.alive))
        row = np.arange(6, dtype=np.float32)[None]  # one array for all fields, as of a batch
        result = []
        for _ in images:
            result.append(
                Kept(row[:, :4], row[:, 4] / np.float32(5), np.zeros(1, np.int64), row[:, :3], 9, 9, embedding=row)
            )
            self.alive.add(result[-1])
        return [{View.ORIGINAL: detections} for detections in result]


class Kept(Detections):
    """Detections that can be watched: those with slots cannot."""


def test_only_the_boxes_are_kept_of_what_was_found(squares: Callable[..., DetectionDataset]) -> None:
    detector = Wide()
    images, boxes, _ = detect_all(detector, squares(8), batch_size=2)  # type: ignore[arg-type]
    assert detector.most <= 2, "of the batch before"
    assert len(images) == len(boxes) == 8
    assert [(item.xyxy.tolist(), item.score.tolist(), item.label.tolist()) for item in boxes[:1]] == [
        ([[0, 1, 2, 3]], [pytest.approx(0.8)], [0])
    ]
    for item in boxes:
        assert all(field.base is None for field in (item.xyxy, item.score, item.label)), "they keep others in memory"


def test_evaluate_an_empty_data_set() -> None:
    result = evaluate(Oracle([]), DetectionDataset(("red",), []))  # type: ignore[arg-type]
    assert result.map50 is None
    assert result.images == 0
