"""Detections to regions and annotations to boxes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from al_backend.labelstudio.codec import choose_annotation, from_annotation, label_digest, to_regions
from al_backend.labelstudio.labeling_config import LabelingConfig
from model.detections import Detections

CLASSES = ("crab", "eel")
CONFIG = LabelingConfig("box", "image", "picture", CLASSES)


def detections(
    boxes: Sequence[tuple[float, ...]], labels: list[int], scores: list[float], size: tuple[int, int]
) -> Detections:
    n = len(scores)
    probs = np.full((n, len(CLASSES) + 1), 1 / (len(CLASSES) + 1), np.float32)
    return Detections(
        xyxy=np.array(boxes, np.float32).reshape(n, 4),
        score=np.array(scores, np.float32),
        label=np.array(labels, np.int64),
        probs=probs,
        height=size[0],
        width=size[1],
    )


def region(
    label: str | list[str] = "crab", *, image_width: int | None = 200, image_height: int | None = 100, **value: Any
) -> dict[str, Any]:
    box = {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0} | value
    labels = [label] if isinstance(label, str) else label
    return {
        "id": "r1",
        "from_name": "box",
        "to_name": "image",
        "type": "rectanglelabels",
        "original_width": image_width,
        "original_height": image_height,
        "image_rotation": 0,
        "value": box | {"rectanglelabels": labels},
    }


def test_of_boxes_around_one_object_the_most_confident_is_kept() -> None:
    # The most confident shares 80 of 120 pixels with the first (IoU 0.67) and 70 of 130 with the third (0.54).
    boxes = [(0, 0, 10, 10), (2, 0, 12, 10), (5, 0, 15, 10), (0, 0, 10, 10)]
    many = detections(boxes, [0, 0, 0, 1], [0.6, 0.9, 0.5, 0.4], (100, 100))

    def kept(overlap: float) -> list[float]:
        return [item["score"] for item in to_regions(many, CLASSES, CONFIG, threshold=0, overlap=overlap)]

    assert kept(1.0) == pytest.approx([0.9, 0.6, 0.5, 0.4])
    assert kept(0.5) == pytest.approx([0.9, 0.4])
    assert kept(0.55) == pytest.approx([0.9, 0.5, 0.4])
    assert kept(0.0) == pytest.approx([0.9, 0.4])
    assert len(to_regions(many, CLASSES, CONFIG, threshold=0)) == 4, "what people draw is never thinned out"


def test_a_region_as_label_studio_wants_it() -> None:
    found = to_regions(detections([(20, 10, 100, 60)], [1], [0.75], (100, 200)), CLASSES, CONFIG, threshold=0.5)
    assert len(found) == 1
    assert len(found[0].pop("id")) == 10
    assert found[0] == {
        "from_name": "box",
        "to_name": "image",
        "type": "rectanglelabels",
        "original_width": 200,
        "original_height": 100,
        "image_rotation": 0,
        "score": 0.75,
        "value": {"x": 10.0, "y": 10.0, "width": 40.0, "height": 50.0, "rotation": 0, "rectanglelabels": ["eel"]},
    }


def test_nothing_found_gives_no_regions() -> None:
    assert to_regions(Detections.empty(10, 10, 2), CLASSES, CONFIG, threshold=0.0) == []


def test_threshold_order_and_unmapped_classes() -> None:
    boxes = [(0, 0, 10, 10)] * 4
    config = LabelingConfig("box", "image", "picture", ("eel",))
    found = to_regions(detections(boxes, [1, 0, 1, 1], [0.5, 0.9, 0.8, 0.49], (20, 20)), CLASSES, config, threshold=0.5)
    assert [item["score"] for item in found] == [0.8, 0.5]
    assert {item["value"]["rectanglelabels"][0] for item in found} == {"eel"}


def test_predicted_values_map_foreign_classes() -> None:
    config = LabelingConfig("box", "image", "picture", ("fish",), {"fish": ("Eel",)})
    found = to_regions(detections([(0, 0, 5, 5)], [1], [0.9], (10, 10)), CLASSES, config, threshold=0)
    assert found[0]["value"]["rectanglelabels"] == ["fish"]


def test_boxes_are_clipped_and_unusable_ones_left_out() -> None:
    boxes = [(-5, -5, 300, 50), (210, 0, 250, 50), (5, 5, 5, 9), (float("nan"), 0, 9, 9), (0, 0, 9, 9)]
    scores = [0.9, 0.8, 0.7, 0.6, float("nan")]
    found = to_regions(detections(boxes, [0] * 5, scores, (100, 200)), CLASSES, CONFIG, threshold=0)
    assert [item["value"] for item in found] == [
        {"x": 0.0, "y": 0.0, "width": 100.0, "height": 50.0, "rotation": 0, "rectanglelabels": ["crab"]}
    ]
    json.dumps(found, allow_nan=False)


def test_ids_follow_the_content_and_stay_unique() -> None:
    twice = detections([(0, 0, 5, 5), (0, 0, 5, 5), (1, 1, 5, 5)], [0, 0, 0], [0.9, 0.8, 0.7], (10, 10))
    ids = [item["id"] for item in to_regions(twice, CLASSES, CONFIG, threshold=0)]
    assert len(set(ids)) == 3
    assert ids == [item["id"] for item in to_regions(twice, CLASSES, CONFIG, threshold=0)]


def test_too_few_class_names_are_refused() -> None:
    with pytest.raises(ValueError, match="1 class names for detections with 2 classes"):
        to_regions(Detections.empty(5, 5, 2), ["crab"], CONFIG, threshold=0)


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_what_is_written_can_be_read_back(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 6000)), data.draw(st.integers(1, 6000))
    share = st.floats(0, 1, width=32)
    boxes, labels = [], []
    for _ in range(data.draw(st.integers(0, 5))):
        x, y = sorted(data.draw(st.tuples(share, share))), sorted(data.draw(st.tuples(share, share)))
        if (x[1] - x[0]) > 1e-3 and (y[1] - y[0]) > 1e-3:
            boxes.append((x[0] * width, y[0] * height, x[1] * width, y[1] * height))
            labels.append(data.draw(st.integers(0, 1)))
    scores = [0.9 - 0.1 * index for index in range(len(boxes))]
    found = to_regions(detections(boxes, labels, scores, (height, width)), CLASSES, CONFIG, threshold=0)
    for item in found:
        value = item["value"]
        assert 0 <= value["x"] <= 100
        assert 0 <= value["y"] <= 100
        assert value["x"] + value["width"] <= 100 + 1e-9
        assert value["y"] + value["height"] <= 100 + 1e-9
    read, problems = from_annotation(found, CONFIG, None)
    assert problems == []
    assert [label for label, _ in read] == [CLASSES[label] for label in labels]
    tolerance = max(height, width) * 2e-6 + 1e-3
    for (_, box), expected in zip(read, boxes, strict=True):
        assert box == pytest.approx(expected, abs=tolerance)


def test_an_annotation_in_pixels() -> None:
    assert from_annotation([region()], CONFIG, None) == ([("crab", (20.0, 20.0, 80.0, 60.0))], [])


def test_the_real_size_wins_over_the_recorded_one() -> None:
    boxes, _ = from_annotation([region(image_width=1, image_height=1)], CONFIG, (100, 200))
    assert boxes == [("crab", (20.0, 20.0, 80.0, 60.0))]


def test_an_empty_annotation_is_a_negative() -> None:
    assert from_annotation([], CONFIG, None) == ([], [])


def test_several_labels_of_one_region() -> None:
    boxes, problems = from_annotation([region(["crab", "eel", "crab"])], CONFIG, None)
    assert [label for label, _ in boxes] == ["crab", "eel"]
    assert problems == []


def test_other_tags_are_none_of_ours() -> None:
    other = region() | {"from_name": "second"}
    choice = {"from_name": "box", "type": "choices", "value": {"choices": ["crab"]}}
    assert from_annotation([other, choice], CONFIG, None) == ([], [])


@pytest.mark.parametrize("angle", [0, 30, 90, 135, 180, 270, -45, 360])
def test_a_rotated_box_becomes_its_hull(angle: float) -> None:
    # Pixels: 40 x 20 about (100, 50) in an image of 200 x 100, where one percent is 2 px across and 1 px down.
    item = region(x=50, y=50, width=20, height=20, rotation=angle)
    ((_, box),), problems = from_annotation([item], CONFIG, None)
    assert problems == []
    turn = complex(math.cos(math.radians(angle)), math.sin(math.radians(angle)))
    corners = [complex(100, 50) + turn * corner for corner in (0, 40, 40 + 20j, 20j)]
    expected = [
        min(c.real for c in corners),
        min(c.imag for c in corners),
        max(c.real for c in corners),
        max(c.imag for c in corners),
    ]
    assert box == pytest.approx(expected, abs=1e-9)


def test_boxes_over_the_edge_are_clipped() -> None:
    boxes, _ = from_annotation([region(x=-10, y=90, width=120, height=20)], CONFIG, None)
    assert boxes == [("crab", (0.0, 90.0, 200.0, 100.0))]


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        (region("whale"), "Region r1 has the label 'whale', which the config lacks."),
        (region([]), "Region r1 has no label."),
        (region(image_width=None), "original_width None"),
        (region(image_height=0), "original_height 0"),
        (region(x=float("nan")), "expected finite"),
        (region(x="10"), "expected finite"),
        (region(x=120), "no area inside the image"),
        (region() | {"image_rotation": 90}, "turned by 90 degrees"),
        (region() | {"value": None}, "has no label"),
    ],
)
def test_unusable_regions_are_named(item: dict[str, Any], sentence: str) -> None:
    boxes, problems = from_annotation([item], CONFIG, None)
    assert boxes == []
    assert len(problems) == 1
    assert sentence in problems[0]


def test_an_unknown_label_beside_a_known_one_keeps_the_known_one() -> None:
    boxes, problems = from_annotation([region(["whale", "eel"])], CONFIG, None)
    assert [label for label, _ in boxes] == ["eel"]
    assert len(problems) == 1


def annotation(number: int, **fields: Any) -> dict[str, Any]:
    return {"id": number, "updated_at": f"2024-01-0{number}T00:00:00Z", "was_cancelled": False, "result": []} | fields


@pytest.mark.parametrize(
    ("annotations", "chosen"),
    [
        ([], None),
        ([annotation(1, was_cancelled=True)], None),
        ([annotation(1), annotation(2)], 2),
        ([annotation(2), annotation(1, updated_at="2024-01-09T00:00:00Z")], 1),
        ([annotation(1), annotation(2, was_cancelled=True)], 1),
        ([annotation(1, ground_truth=True), annotation(2)], 1),
        ([annotation(1, ground_truth=True), annotation(2, ground_truth=True)], 2),
        ([annotation(1, updated_at=None), annotation(2, updated_at=None)], 2),
    ],
)
def test_the_annotation_that_counts(annotations: list[dict[str, Any]], chosen: int | None) -> None:
    found = choose_annotation(annotations)
    assert (found and found["id"]) == chosen


def test_the_digest_sees_boxes_and_labels_only() -> None:
    one: dict[str, Any] = {"result": [region(), region("eel", x=50)]}
    same: dict[str, Any] = {
        "result": [region("eel", x=50.00000001) | {"id": "other", "score": 0.3}, region()],
        "lead_time": 3,
    }
    assert label_digest(one) == label_digest(same)
    assert len(label_digest(one)) == 40
    different: list[dict[str, Any]] = [
        {"result": [region()]},
        {"result": [region(), region("crab", x=50)]},
        {"result": [region(), region("eel", x=51)]},
        {"result": [region(), region("eel", x=50, rotation=5)]},
        {"result": []},
    ]
    assert len({label_digest(item) for item in [one, *different]}) == 6


def test_the_digest_of_an_annotation_without_a_result() -> None:
    assert label_digest({"result": None}) == label_digest({"result": []}) == label_digest({})
