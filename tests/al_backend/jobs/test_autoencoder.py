"""The autoencoder of a version: trained, stored, used to rank, and done without; with a real detector, small."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from al_backend.jobs import training
from al_backend.jobs.context import Context
from al_backend.jobs.dataset import ProjectLabels
from al_backend.jobs.queues import Queues
from al_backend.jobs.ranking import measure_live, order, score_shard
from al_backend.jobs.strategies import context_fields, shortfall, strategy_fields, strategy_of, substitutes
from al_backend.labelstudio.labeling_config import parse_labeling_config
from al_backend.registry import GateVerdict, Ranking, Version
from al_backend.registry.records import utc_now
from al_backend.settings import LearningSettings, load_settings
from model.acquisition.vae import load_vae
from model.data.dataset import DetectionDataset
from model.data.reef import write_reef
from model.detectors.base import View

pytestmark = pytest.mark.redis

PROJECT = 7
CONFIG = """<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image">
<Label value="cod"/><Label value="herring"/></RectangleLabels></View>"""
AL_VAE = {"strategy": "al_vae", "vae_iterations": 3, "iterations": 1, "batch_size": 4, "image_size": 64}


@pytest.fixture(scope="module")
def reef(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    folder = tmp_path_factory.mktemp("reef")
    return write_reef(folder, 12, seed=3, size=(64, 64), species=("cod", "herring"), empty_share=0.0)


class Files:
    """Images by their path."""

    def fetch_many(self, items: Iterable[tuple[int, str]]) -> dict[int, Path]:
        return {task: Path(value) for task, value in items}


@pytest.fixture
def here(queues: Queues, tmp_path: Path, reef: DetectionDataset, monkeypatch: pytest.MonkeyPatch) -> Context:
    made = training_context(queues, tmp_path, reef, monkeypatch, held_out=4)
    vars(made).update(images=Files())
    return made


def training_context(
    queues: Queues, folder: Path, labelled: DetectionDataset, monkeypatch: pytest.MonkeyPatch, *, held_out: int
) -> Context:
    """What the training jobs of this process get: one project with these labels, the last few of them held out."""
    made = Context(load_settings(model_dir=str(folder / "registry"), data_dir=folder / "data", device="cpu"))
    label_studio = SimpleNamespace(
        project=lambda project_id: SimpleNamespace(label_config=CONFIG), labelled_tasks=lambda project_id: []
    )
    vars(made).update(queues=queues, label_studio=label_studio, images=None)
    train, validation = labelled.images[:-held_out], labelled.images[-held_out:]
    labels = ProjectLabels(
        {1: "a"}, DetectionDataset(labelled.classes, train), DetectionDataset(labelled.classes, validation)
    )
    monkeypatch.setattr("al_backend.jobs.context.context", lambda: made)
    monkeypatch.setattr(training, "read_labels", lambda *_, **__: labels)
    # These are for a process of its own, which the one of this test is not.
    monkeypatch.setattr(training, "die_with_parent", lambda: None)
    monkeypatch.setattr(training.os, "nice", lambda _: 0)
    return made


def train(here: Context, overrides: dict[str, object]) -> Version:
    here.registry.register_project(PROJECT, label_config=CONFIG, overrides=overrides)
    name = training.train(PROJECT, True)
    here.registry.promote(PROJECT, name, reason="by hand")
    return here.registry.version(PROJECT, name)


def ranking_of(version: Version, settings: LearningSettings, tasks: int) -> Ranking:
    return Ranking(
        id=version.name,
        project=PROJECT,
        version=version.name,
        model_version=version.name,
        strategy=strategy_fields(settings, version.detector)
        | substitutes(settings, version, parse_labeling_config(CONFIG)),
        context=context_fields(version, settings),
        created_at=version.created_at,
        tasks=tasks,
        shard_size=max(1, tasks),
        shards=1,
    )


def start(here: Context, version: Version, settings: LearningSettings, images: list[Path]) -> Ranking:
    ranking = ranking_of(version, settings, len(images))
    columns = {"task_id": pl.Int64, "image": pl.String, "shard": pl.Int64}
    rows = [(task, str(path), 0) for task, path in enumerate(images)]
    here.registry.create_ranking(ranking, pl.DataFrame(rows, schema=columns, orient="row"))
    return ranking


def test_a_version_with_an_autoencoder(here: Context, reef: DetectionDataset) -> None:
    version = train(here, AL_VAE)
    report = version.autoencoder
    assert report is not None
    assert (report["images"], report["iterations"], report["config"]["regions"]) == (8, 3, "objects")
    assert report["train"]["pictures"] == sum(len(image.label) for image in reef.images[:8])
    assert report["held_out"]["reconstruction"] > 0
    folder = here.registry.fetch_version(PROJECT, version.name)
    vae = load_vae(folder)

    settings = here.learning(PROJECT).overridden({"measure_threshold": 0.0001, "vae_beta": 0})
    ranking = start(here, version, settings, [image.path for image in reef.images])
    assert shortfall(ranking) is None
    assert strategy_of(ranking)[0].needs_novelty
    assert score_shard(PROJECT, ranking.id, 0) == 12
    items = [(task, str(image.path)) for task, image in enumerate(reef.images)]
    found = list(here.inference.detect(PROJECT, version.name, items, min_score=0.0001))
    seen = [outcome.detections[View.ORIGINAL] for outcome in found if outcome.detections is not None]
    assert any(len(detections) for detections in seen)
    measured = here.registry.read_shards(PROJECT, ranking.id).sort("task_id")
    assert measured["novelty"].to_list() == pytest.approx([detections.novelty for detections in seen], rel=1e-3)
    best = order(here, ranking)["task_id"][0]
    values = measured["novelty"].to_list()
    assert values[best] == max(values) > 0
    assert vae.config.iterations == 3
    placed = measure_live(here, ranking, [(100, items[best][1])])
    assert 0 < placed["order_score"][0] < order(here, ranking)["order_score"][2]


def test_a_version_without_one_is_ranked_by_the_detection_loss(here: Context, reef: DetectionDataset) -> None:
    version = train(here, AL_VAE | {"strategy": "uncertainty"})
    assert version.autoencoder is None
    assert not (here.registry.fetch_version(PROJECT, version.name) / "vae.safetensors").exists()

    settings = here.learning(PROJECT).overridden({"strategy": "al_vae", "measure_threshold": 0.0001})
    ranking = start(here, version, settings, [image.path for image in reef.images[:4]])
    assert not strategy_of(ranking)[0].needs_novelty
    sentence = shortfall(ranking)
    assert sentence is not None
    assert "no autoencoder, so al_vae ranks by the detection loss alone" in sentence
    assert "`al-backend train 7`" in sentence
    score_shard(PROJECT, ranking.id, 0)
    measured = here.registry.read_shards(PROJECT, ranking.id)
    best = measured.sort(["detection_loss", "task_id"], descending=[True, False])["task_id"][0]
    assert order(here, ranking)["task_id"][0] == best


@pytest.mark.parametrize(
    ("overrides", "kept", "lacks"),
    [
        ({"strategy": "al_vae"}, (0.0, 0.5), True),
        ({"strategy": "al_vae", "vae_alpha": 1, "vae_beta": 0}, (0.0, 1.0), True),
        ({"strategy": "al_vae", "vae_alpha": 0}, (0.0, 0.5), False),
        ({"strategy": "huale"}, (0.5, 0.5), False),
    ],
)
def test_what_a_ranking_keeps_where_there_is_no_autoencoder(
    overrides: dict[str, object], kept: tuple[float, float], lacks: bool
) -> None:
    version = Version(
        name="v1",
        number=1,
        project=PROJECT,
        detector="yolov5n",
        classes=("cod",),
        created_at=utc_now(),
        snapshot_at=utc_now(),
        labels={},
        label_counts={},
        train_images=1,
        validation_images=0,
        boxes=1,
        training={},
        settings={},
        gate=GateVerdict(promoted=True, reason="the first"),
    )
    settings = LearningSettings().overridden(overrides)
    ranking = ranking_of(version, settings, 0)
    assert (ranking.strategy["vae_alpha"], ranking.strategy["vae_beta"]) == kept
    assert (shortfall(ranking) is not None) is lacks
    with_one = ranking_of(version.model_copy(update={"autoencoder": {"images": 1}}), settings, 0)
    assert with_one.strategy["vae_alpha"] == settings.vae_alpha
    assert shortfall(with_one) is None
