"""What a ranking does where the version cannot do what its strategy needs."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from al_backend.jobs.strategies import context_fields, shortfall, strategy_fields, substitutes
from al_backend.labelstudio.labeling_config import LabelingConfig, parse_labeling_config
from al_backend.registry import Ranking
from al_backend.settings import LearningSettings
from tests.al_backend.sample_version import sample_version

MOMENT = datetime(2026, 3, 1, tzinfo=timezone.utc)
TRAINED = sample_version("yolov5n-v3-aaaa", 7, MOMENT, classes=("cod", "eel"))


def config_of(*labels: str) -> LabelingConfig:
    made = "".join(f"<Label {label}/>" for label in labels)
    return parse_labeling_config(
        f'<View><Image name="i" value="$i"/><RectangleLabels name="l" toName="i">{made}</RectangleLabels></View>'
    )


def ranking_of(settings: LearningSettings, config: LabelingConfig) -> Ranking:
    return Ranking(
        id="r",
        project=7,
        version=TRAINED.name,
        model_version=TRAINED.name,
        strategy=strategy_fields(settings, TRAINED.detector) | substitutes(settings, TRAINED, config),
        context=context_fields(TRAINED, settings),
        created_at=MOMENT,
        tasks=3,
        shard_size=3,
        shards=1,
    )


@pytest.mark.parametrize(("strategy", "instead"), [("uncertainty", "typical"), ("core_set", "core_set")])
def test_a_trained_version_that_knows_none_of_the_labels_any_more(strategy: str, instead: str) -> None:
    made = ranking_of(LearningSettings(strategy=strategy), config_of('value="Car"', 'value="Bus"'))
    assert made.strategy["name"] == instead
    assert made.strategy["measure_threshold"] == 1.0
    assert shortfall(made) == (
        "yolov5n-v3-aaaa knows none of the labels that the config has now, so it orders the queue by "
        f"{instead}, without pre-annotations; the next training learns them."
    )


@pytest.mark.parametrize("label", ['value="eel"', 'value="Fish" predicted_values="cod"'])
def test_one_label_that_it_knows_is_enough(label: str) -> None:
    made = ranking_of(LearningSettings(strategy="uncertainty"), config_of('value="Car"', label))
    assert made.strategy["name"] == "uncertainty"
    assert shortfall(made) is None


@pytest.mark.parametrize(
    ("detector", "wanted", "threshold"),
    [
        ("yolov5n", None, 0.1),
        ("own.yaml", None, 0.1),
        ("fasterrcnn_mobilenet_v3_large_fpn", None, 0.1),
        ("ssd300_vgg16", None, 0.2),
        ("ssdlite320_mobilenet_v3_large", None, 0.2),
        ("ssdlite320_mobilenet_v3_large", 0.0, 0.0),
    ],
)
def test_what_strategies_see_depends_on_the_detector_that_found_it(
    detector: str, wanted: float | None, threshold: float
) -> None:
    kept = strategy_fields(LearningSettings(detector="yolov5s", measure_threshold=wanted), detector)
    assert kept["measure_threshold"] == threshold


def test_without_a_training_nothing_is_trained_yet() -> None:
    cold = TRAINED.model_copy(update={"number": 0, "knows": ()})
    assert substitutes(LearningSettings(), cold, config_of('value="cod"'))["name"] == "typical"
