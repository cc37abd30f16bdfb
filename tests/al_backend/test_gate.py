"""The promotion gate."""

from __future__ import annotations

import math
from functools import partial

import pytest

from al_backend.gate import CLASS_INSTANCES
from al_backend.gate import judge as judge_with
from model.training.evaluation import ClassMetrics, Evaluation


def evaluation(**classes: tuple[float | None, int]) -> Evaluation:
    """Of (AP50, boxes) per class."""
    known = [value for value, _ in classes.values() if value is not None]
    return Evaluation(
        map50=sum(known) / len(known) if known else None,
        map50_95=None,
        images=10,
        boxes=sum(boxes for _, boxes in classes.values()),
        per_class={name: ClassMetrics(value, value, boxes) for name, (value, boxes) in classes.items()},
    )


DROP = 0.01
judge = partial(judge_with, drop=DROP)


def test_the_first_version_passes() -> None:
    verdict = judge(evaluation(cod=(0.0, 5)), None, None)
    assert verdict.promoted
    assert verdict.baseline is None


def test_a_better_version_passes_and_says_against_what() -> None:
    old = evaluation(cod=(0.5, 40))
    verdict = judge(evaluation(cod=(0.6, 40)), old, "yolov5n-v1-aaaaaa")
    assert verdict.promoted
    assert verdict.reason == "mAP50 0.600 against 0.500 of yolov5n-v1-aaaaaa on 10 held-out images."
    assert verdict.baseline == {"version": "yolov5n-v1-aaaaaa", **old.as_dict()}


@pytest.mark.parametrize(("boxes", "worse", "promoted"), [(100, -0.001, True), (100, 0.001, False), (4, 0.1, False)])
def test_a_drop_is_tolerated_up_to_a_point_and_chance(boxes: int, worse: float, promoted: bool) -> None:
    tolerance = DROP + 0.5 / math.sqrt(boxes)
    verdict = judge(evaluation(cod=(0.9 - tolerance - worse, boxes)), evaluation(cod=(0.9, boxes)), "v1")
    assert verdict.promoted is promoted
    assert ("a drop of more than" in verdict.reason) is not promoted


def test_a_small_validation_set_refuses_only_what_is_plainly_broken() -> None:
    assert judge(evaluation(cod=(0.5, 4)), evaluation(cod=(0.7, 4)), "v1").promoted
    assert not judge(evaluation(cod=(0.5, 400)), evaluation(cod=(0.7, 400)), "v1").promoted


def test_one_class_that_collapses_refuses_even_when_the_mean_stays() -> None:
    old = evaluation(cod=(0.5, 200), eel=(0.7, CLASS_INSTANCES))
    fall = 5 * DROP + 0.5 / math.sqrt(CLASS_INSTANCES)
    new = evaluation(cod=(0.8, 200), eel=(0.7 - fall - 0.01, CLASS_INSTANCES))
    verdict = judge(new, old, "v1")
    assert not verdict.promoted
    assert "AP50 of 'eel' fell from 0.700" in verdict.reason
    assert judge(evaluation(cod=(0.8, 200), eel=(0.7 - fall + 0.01, CLASS_INSTANCES)), old, "v1").promoted


def test_a_class_with_few_boxes_is_not_judged_alone() -> None:
    old = evaluation(cod=(0.5, 200), eel=(0.7, CLASS_INSTANCES - 1))
    assert judge(evaluation(cod=(0.8, 200), eel=(0.4, CLASS_INSTANCES - 1)), old, "v1").promoted


def test_only_classes_that_both_know_are_compared() -> None:
    old = evaluation(cod=(0.6, 50), gone=(0.9, 50), unseen=(None, 0))
    new = evaluation(cod=(0.6, 50), added=(0.0, 50), unseen=(0.0, 50))
    verdict = judge(new, old, "v1")
    assert verdict.promoted
    assert "mAP50 0.600 against 0.600" in verdict.reason


def test_nothing_to_compare_promotes_and_says_so() -> None:
    verdict = judge(evaluation(added=(0.0, 9)), evaluation(cod=(0.9, 50)), "v1")
    assert verdict.promoted
    assert "nothing to compare" in verdict.reason
    assert verdict.baseline is not None


def test_whoever_tolerates_any_drop_gets_every_version() -> None:
    old = evaluation(cod=(0.9, 400), eel=(0.9, 400))
    assert judge_with(evaluation(cod=(0.0, 400), eel=(0.0, 400)), old, "v1", drop=1.0).promoted


def test_without_all_held_out_images_nothing_is_compared_and_nothing_promoted() -> None:
    verdict = judge(evaluation(cod=(0.9, 40)), evaluation(cod=(0.5, 40)), "v1", gone=3)
    assert not verdict.promoted
    assert "The files of 3 held-out images vanished during the training" in verdict.reason
    assert judge(evaluation(cod=(0.9, 40)), None, None, gone=3).promoted, "the first has nobody to be worse than"
