"""The queue before the first training: a version that nothing was trained for, and the order that it gives."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rq.job import Job
from rq.utils import import_attribute

from al_backend import cycle
from al_backend.inference import Inference
from al_backend.jobs import training
from al_backend.jobs.cold_start import cold_start
from al_backend.jobs.context import Context
from al_backend.jobs.live import predict
from al_backend.jobs.observe import Observation, read_state
from al_backend.jobs.perform import perform
from al_backend.jobs.queues import QueueName, Queues
from al_backend.jobs.ranking import order
from al_backend.jobs.strategies import shortfall, strategy_of
from al_backend.labelstudio.client import Task
from al_backend.labelstudio.labeling_config import parse_labeling_config
from al_backend.registry import Ranking, Version, VersionNotFound
from al_backend.retention import plan
from al_backend.settings import load_settings
from model.data.dataset import DetectionDataset
from model.data.reef import write_reef
from model.detectors.factory import create
from model.detectors.weights import WEIGHTS_NAME
from model.detectors.yolo_network import build, network_description
from tests.al_backend.sample_version import sample_version

pytestmark = pytest.mark.redis

PROJECT = 7
CONFIG = """<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image" {}>
<Label value="cod"/><Label value="Heringe" predicted_values="herring"/></RectangleLabels></View>"""


@pytest.fixture(scope="module")
def reef(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    return write_reef(tmp_path_factory.mktemp("reef"), 12, seed=3, size=(64, 64))


class Files:
    """Images by their path."""

    def fetch_many(self, items: Iterable[tuple[int, str]]) -> dict[int, Path]:
        return {task: Path(value) for task, value in items}


@pytest.fixture
def here(queues: Queues, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    made = Context(
        load_settings(
            model_dir=str(tmp_path / "registry"),
            data_dir=tmp_path / "data",
            device="cpu",
            image_size=64,
            budget=4,
            measure_threshold=0.0,
        )
    )
    label_studio = SimpleNamespace(labelled_tasks=lambda project_id: [])
    vars(made).update(queues=queues, label_studio=label_studio, images=Files())
    vars(made).update(inference=Inference(made.settings, made.registry, Files()))  # type: ignore[arg-type]
    monkeypatch.setattr("al_backend.jobs.context.context", lambda: made)
    monkeypatch.setattr("al_backend.jobs.live.context", lambda: made)
    made.registry.register_project(PROJECT, label_config=CONFIG.format(""), overrides={})
    return made


def ranked(here: Context, reef: DetectionDataset) -> Ranking:
    """Look and work until there is an order to publish; returns its ranking."""
    config = parse_labeling_config(here.project(PROJECT).label_config)
    tasks = [Task(id=number, data={"image": str(image.path)}) for number, image in enumerate(reef.images, start=1)]
    settings = here.learning(PROJECT)
    for _ in range(20):
        moment = training.now()
        pool = tuple(task.id for task in tasks)
        snapshot = cycle.Snapshot(config.labels, {}, pool, "", frozenset(), {}, frozenset(), (), moment)
        actions = cycle.decide(snapshot, read_state(here, PROJECT), settings)
        for action in actions:
            if isinstance(action, cycle.Publish):
                return here.registry.ranking(PROJECT, action.ranking)
            perform(here, PROJECT, action, Observation(snapshot, tasks, config), settings, moment)
        waiting = [job for name in QueueName for job in here.queues.queue(name).get_job_ids()]
        for job_id in waiting:
            job = Job.fetch(job_id, connection=here.queues.connection, serializer=here.queues.serializer)
            if job.func_name != "al_backend.jobs.reconcile.reconcile":
                import_attribute(str(job.func_name))(*job.args)
            job.delete()
    pytest.fail("there is nothing to publish after twenty looks")


def give_base(here: Context, classes: tuple[str, ...]) -> None:
    """A base checkpoint of the operator's that knows `classes`."""
    folder = here.registry.base_folder
    assert folder is not None
    create("yolov5n", classes, image_size=64, device="cpu").save(folder / "made")
    (folder / "made" / WEIGHTS_NAME).replace(folder / "yolov5n.safetensors")


def test_typical_images_come_first_and_nothing_is_pre_annotated(here: Context, reef: DetectionDataset) -> None:
    ranking = ranked(here, reef)
    strategy, _ = strategy_of(ranking)
    assert (strategy.name, here.learning(PROJECT).strategy) == ("typical", "uncertainty")
    table = order(here, ranking)
    assert sorted(table["task_id"]) == list(range(1, 13))
    assert set(table["regions"]) == {"[]"}
    assert table["informativeness"].is_sorted(descending=True)
    assert table["informativeness"].n_unique() > 6, "images are told apart"
    sentence = shortfall(ranking)
    assert sentence is not None
    assert "most typical images first, without pre-annotations" in sentence


def test_a_base_checkpoint_that_knows_labels_pre_annotates_them(here: Context, reef: DetectionDataset) -> None:
    give_base(here, ("herring", "submarine"))
    here.registry.register_project(PROJECT, label_config=CONFIG.format('model_score_threshold="0"'), overrides={})
    ranking = ranked(here, reef)
    version = here.registry.version(PROJECT, ranking.version)
    assert (version.classes, version.knows) == (("herring",), ("herring",))
    assert ranking.strategy["name"] == "uncertainty"
    regions = [region for row in order(here, ranking)["regions"] for region in json.loads(row)]
    assert {label for region in regions for label in region["value"]["rectanglelabels"]} == {"Heringe"}
    assert "pre-annotates what it knows, ordered by uncertainty" in str(shortfall(ranking))


def test_it_is_no_trained_version(here: Context, reef: DetectionDataset, tmp_path: Path) -> None:
    name = cold_start(PROJECT)
    assert name.startswith("yolov5n-v0-")
    assert here.registry.versions(PROJECT) == []
    assert [version.name for version in here.registry.all_versions(PROJECT)] == [name]
    state = read_state(here, PROJECT)
    assert (state.active, state.trained_on, state.versions) == (name, None, (name,))
    assert here.registry.next_version_name(PROJECT, "yolov5n", "abcdef")[1] == 1
    assert training._active_version(here, PROJECT) is None, "the gate has nothing to compare the first version with"

    first = trained_version(here, tmp_path)
    pointer = here.registry.promote(PROJECT, first.name, reason="gate")
    assert (pointer.previous, pointer.history) == (None, ()), "nobody rolls back to before the first training"


def trained_version(here: Context, tmp_path: Path) -> Version:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "weights.bin").write_bytes(b"w")
    first = sample_version("yolov5n-v1-abcdef", PROJECT, training.now())
    here.registry.add_version(first, tmp_path / "files")
    return first


def test_after_a_training_it_is_neither_made_nor_promoted(here: Context, tmp_path: Path) -> None:
    name = cold_start(PROJECT)
    first = trained_version(here, tmp_path)
    here.registry.promote(PROJECT, first.name, reason="gate")
    assert cold_start(PROJECT) == ""
    with pytest.raises(VersionNotFound, match=f"before the first training. It has: {first.name}"):
        here.registry.promote(PROJECT, name, reason="by hand")
    assert here.registry.active(PROJECT).version == first.name  # type: ignore[union-attr]


def test_one_that_ends_after_a_killed_training_does_not_hide_its_version(here: Context, tmp_path: Path) -> None:
    first = sample_version("yolov5n-v1-abcdef", PROJECT, training.now())
    cold_start(PROJECT)  # its promotion is younger than the version, which nobody has promoted yet
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "weights.bin").write_bytes(b"w")
    here.registry.add_version(first, tmp_path / "files")
    assert read_state(here, PROJECT).unpromoted == first.name


def test_other_weights_or_labels_make_it_anew(here: Context) -> None:
    name = cold_start(PROJECT)
    assert not read_state(here, PROJECT).stale_start
    give_base(here, ("herring", "submarine"))
    assert read_state(here, PROJECT).stale_start
    better = cold_start(PROJECT)
    assert better != name
    assert here.registry.version(PROJECT, better).knows == ("herring",)
    state = read_state(here, PROJECT)
    assert (state.active, state.stale_start, state.unpromoted) == (better, False, None)
    here.registry.register_project(PROJECT, label_config=CONFIG.format("").replace("cod", "eel"), overrides={})
    assert read_state(here, PROJECT).stale_start


def test_its_weights_go_once_nothing_needs_them(here: Context, tmp_path: Path) -> None:
    name = cold_start(PROJECT)
    first = trained_version(here, tmp_path)
    here.registry.promote(PROJECT, first.name, reason="gate")
    for _ in range(2):
        here.registry.retain(PROJECT, [first.name], grace=timedelta())
    assert here.registry.version(PROJECT, name).removed_at is not None
    everything = here.registry.all_versions(PROJECT)
    assert not plan(everything, [], here.registry.active(PROJECT), None, last=1, now=training.now()).due


def test_one_that_is_killed_before_it_is_active_is_done_again(here: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(type(here.registry), "promote", killed)
        with pytest.raises(KeyboardInterrupt):
            cold_start(PROJECT)
    assert here.registry.active(PROJECT) is None
    (half,) = here.registry.all_versions(PROJECT)
    assert read_state(here, PROJECT).unpromoted == half.name, "the next look makes it active"
    assert cold_start(PROJECT) == half.name
    assert [version.name for version in here.registry.all_versions(PROJECT)] == [half.name]


@pytest.mark.parametrize("detector", ["yolov5n", "ssdlite320_mobilenet_v3_large"])
def test_whoever_opens_a_task_before_the_first_order_gets_an_empty_answer(
    here: Context, reef: DetectionDataset, detector: str
) -> None:
    here.registry.register_project(PROJECT, label_config=CONFIG.format(""), overrides={"detector": detector})
    name = cold_start(PROJECT)
    (answer,) = predict(PROJECT, [{"id": 1, "data": {"image": str(reef.images[0].path)}}])
    assert answer == {"result": [], "score": 0.5, "model_version": name}


def test_a_pickled_file_that_the_operator_names_is_opened(here: Context, tmp_path: Path) -> None:
    """`AL_DETECTOR` alone may name a file, so naming it is the permission; the loader is the restricted one."""
    network = build(network_description("yolov5n"), 2, seed=1)
    network.names = {0: "cod", 1: "eel"}
    file = tmp_path / "mine.pt"
    torch.save({"model": network}, file)
    here.settings = here.settings.model_copy(update={"detector": str(file)})
    known = here.registry.version(PROJECT, cold_start(PROJECT))
    assert known.detector == str(file)
    assert known.knows == ("cod",)
    assert "knows cod" in known.gate.reason
    start = training._starting_point(here, PROJECT, here.learning(PROJECT), ("eel", "cod"), None, False)
    assert (start.classes, start.architecture) == (("eel", "cod"), str(file))
    assert start.pretrained  # type: ignore[attr-defined]
    rows = [branch[-1].weight[0] for branch in start._network.model[-1].cv3]  # type: ignore[attr-defined]
    for row, branch in zip(rows, network.model[-1].cv3, strict=True):
        torch.testing.assert_close(row, branch[-1].weight[1])
