"""A ranking's two phases, from the decision to the order, with real queues and a registry; networks are made up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from rq.job import Job
from rq.utils import import_attribute

from al_backend import cycle
from al_backend.inference import Outcome
from al_backend.jobs.candidates import MOST_LABELLED, choose
from al_backend.jobs.client import request_ranking
from al_backend.jobs.context import Context
from al_backend.jobs.documents import THROUGHPUT
from al_backend.jobs.observe import Observation, read_state
from al_backend.jobs.perform import perform
from al_backend.jobs.queues import QueueName, Queues
from al_backend.jobs.ranking import measure_live, order, score_new, score_shard
from al_backend.jobs.strategies import strategy_of
from al_backend.labelstudio.client import Task
from al_backend.labelstudio.labeling_config import parse_labeling_config
from al_backend.registry import GateVerdict, Phase, Ranking, Version
from al_backend.settings import LearningSettings, load_settings
from model.detections import Detections
from model.detectors.base import View

pytestmark = pytest.mark.redis

PROJECT = 7
CONFIG = """<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image">
<Label value="cod"/><Label value="eel"/></RectangleLabels></View>"""
NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
BROKEN = 5
POOL = range(1, 31)
LABELLED = (101, 102, 103)
TWO_PHASES: dict[str, dict[str, Any]] = {
    "huale": {"strategy": "huale"},
    "huale diverse": {"strategy": "huale", "diversity": True},
    "ppal": {"strategy": "ppal"},
    "core_set": {"strategy": "core_set"},
    "uncertainty diverse": {"strategy": "uncertainty", "diversity": True},
}


class MadeUpInference:
    """Detections that are a function of the task; one image cannot be read. Remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, tuple[View, ...]]] = []

    def detect(
        self,
        project_id: int,
        version: str,
        items: Sequence[tuple[int, str | None]],
        *,
        views: Sequence[View],
        min_score: float,
    ) -> Iterator[Outcome]:
        for task, _ in items:
            self.asked.append((task, tuple(views)))
            yield self.outcome(task, views)

    def outcome(self, task: int, views: Sequence[View]) -> Outcome:
        """What becomes of one image."""
        if task == BROKEN:
            return Outcome(task, None, "The image cannot be decoded.")
        return Outcome(task, {view: seen(task, view) for view in views})


def seen(task: int, view: View) -> Detections:
    generator = np.random.default_rng([task, view is View.HFLIP])
    count = task % 4
    probs = generator.dirichlet([0.5] * 3, size=count).astype(np.float32)
    corner = np.random.default_rng(task).uniform(0, 40, (count, 2))
    look = np.random.default_rng(task % 9).normal(size=100).astype(np.float32)
    return Detections(
        xyxy=np.concatenate([corner, corner + 40], axis=1).astype(np.float32),
        score=probs[:, :2].max(axis=1),
        label=probs[:, :2].argmax(axis=1),
        probs=probs,
        height=100,
        width=100,
        embedding=generator.normal(size=(count, 100)).astype(np.float32),
        image_embedding=look,
    )


class MadeUpLabelStudio:
    """Knows three labelled tasks, and takes predictions."""

    def __init__(self, labelled: Sequence[int] = LABELLED) -> None:
        self._labelled = labelled
        self.imported: list[Mapping[str, Any]] = []

    def labelled_tasks(self, project_id: int) -> list[SimpleNamespace]:
        return [SimpleNamespace(id=task, data={"image": f"/{task}.png"}) for task in self._labelled]

    def tasks_with_version(self, project_id: int, model_version: str, **_: Any) -> set[int]:
        return set()

    def import_predictions(self, project_id: int, items: Sequence[Mapping[str, Any]], **_: Any) -> SimpleNamespace:
        self.imported += items
        return SimpleNamespace(created=len(items), dropped=())


@pytest.fixture
def here(queues: Queues, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    return made_up_context(queues, tmp_path, monkeypatch, MadeUpInference())


def made_up_context(
    queues: Queues, folder: Path, monkeypatch: pytest.MonkeyPatch, inference: MadeUpInference
) -> Context:
    """What every job of this process gets: one project with a version, real queues and a real registry."""
    made = Context(load_settings(model_dir=str(folder / "registry"), data_dir=folder / "data"))
    vars(made).update(queues=queues, inference=inference, label_studio=MadeUpLabelStudio())
    monkeypatch.setattr("al_backend.jobs.context.context", lambda: made)
    made.registry.register_project(PROJECT, label_config=CONFIG, overrides={})
    add_version(made, "v1", weights(folder))
    return made


def weights(folder: Path) -> Path:
    """Files of a version."""
    made = folder / "weights"
    made.mkdir(exist_ok=True)
    (made / "weights.bin").write_bytes(b"w")
    return made


def add_version(here: Context, name: str, folder: Path) -> None:
    version = Version(
        name=name,
        number=int(name[1:]),
        project=PROJECT,
        detector="yolov5n",
        classes=("cod", "eel"),
        created_at=NOON,
        snapshot_at=NOON,
        labels={},
        label_counts={"cod": 4},
        train_images=3,
        validation_images=1,
        boxes=4,
        metrics={"per_class": {"cod": {"ap50": 0.5}, "eel": {"ap50": None}}},
        training={},
        settings={},
        gate=GateVerdict(promoted=True, reason="the first"),
    )
    here.registry.add_version(version, folder)
    here.registry.promote(PROJECT, name, reason="gate")


def step(here: Context, settings: LearningSettings) -> list[cycle.Action]:
    """One look: what was decided is enqueued, except that nothing is published."""
    config = parse_labeling_config(CONFIG)
    snapshot = cycle.Snapshot(config.labels, {}, tuple(POOL), "", frozenset(), {}, frozenset(), (), NOON)
    tasks = [Task(id=task, data={"image": f"/{task}.png"}) for task in POOL]
    actions = cycle.decide(snapshot, read_state(here, PROJECT), settings)
    for action in actions:
        if not isinstance(action, cycle.Publish):
            perform(here, PROJECT, action, Observation(snapshot, tasks, config), settings, NOON)
    return actions


def run_jobs(here: Context, most: int = 1000) -> int:
    """Do what waits; a job beyond `most` vanishes, as if its worker had been killed and Redis emptied."""
    done = 0
    for name in (QueueName.SCORE, QueueName.PUBLISH):
        for job_id in here.queues.queue(name).get_job_ids():
            job = Job.fetch(job_id, connection=here.queues.connection, serializer=here.queues.serializer)
            if done < most:
                import_attribute(str(job.func_name))(*job.args)
                done += 1
            job.delete()
    return done


def settle(here: Context, settings: LearningSettings, most: int = 1000) -> tuple[Ranking, list[str]]:
    """Look and work until there is something to publish."""
    kinds: list[str] = []
    for _ in range(100):
        actions = step(here, settings)
        kinds += [type(action).__name__ for action in actions]
        if actions and isinstance(actions[-1], cycle.Publish):
            return here.registry.ranking(PROJECT, actions[-1].ranking), kinds
        run_jobs(here, most)
    raise AssertionError(f"never finished: {kinds}")


@pytest.mark.parametrize("name", TWO_PHASES)
def test_a_ranking_with_two_phases(here: Context, name: str) -> None:
    settings = LearningSettings(budget=3, **TWO_PHASES[name])
    ranking, kinds = settle(here, settings)
    assert kinds == ["StartRanking", "Choose", "ScoreShards", "Publish"]
    found = order(here, ranking)
    assert sorted(found["task_id"]) == list(POOL)
    assert found["task_id"][-1] == BROKEN
    assert found["order_score"].is_sorted()

    strategy, context = strategy_of(ranking)
    assert (context.budget, context.class_quality) == (3, (0.5, 0.0))
    listed = here.registry.closer_tasks(PROJECT, ranking.id)
    assert listed is not None
    labelled = listed.filter(pl.col("labelled"))["task_id"].to_list()
    assert labelled == (list(LABELLED) if strategy.uses_labelled else [])
    expected = min(29, 12) if strategy.candidate_views else 0
    assert listed.height - len(labelled) == expected
    # Two views of the few, one of all others: that is what the second phase is for.
    asked = here.inference.asked  # type: ignore[attr-defined]
    assert len(asked) == len(POOL) + listed.height
    assert all(views == (View.ORIGINAL,) for _, views in asked[: len(POOL)])
    if View.HFLIP in strategy.candidate_views:
        assert all(views == (View.ORIGINAL, View.HFLIP) for _, views in asked[len(POOL) :])
        first = found["task_id"][:12].to_list()
        assert set(first) == set(listed["task_id"].to_list()) - set(labelled) or settings.diversity


@pytest.mark.parametrize("name", ["huale diverse", "ppal"])
def test_killed_shards_of_both_phases_are_measured_again(here: Context, tmp_path: Path, name: str) -> None:
    settings = LearningSettings(budget=8, **TWO_PHASES[name])
    expected = order(here, settle(here, settings)[0])
    other = Context(load_settings(model_dir=str(tmp_path / "again"), data_dir=tmp_path / "data"))
    vars(here)["registry"] = other.registry
    other.registry.register_project(PROJECT, label_config=CONFIG, overrides={})
    add_version(here, "v1", tmp_path / "weights")
    ranking, kinds = settle(here, settings, most=1)
    # Two shards in each phase, of which one was lost at first.
    assert kinds == ["StartRanking", "ScoreShards", "Choose", "ScoreShards", "ScoreShards", "Publish"]
    assert order(here, ranking).equals(expected)


def test_one_phase_is_enough_for_the_others(here: Context) -> None:
    for strategy in ("uncertainty", "random", "cald", "typical", "al_vae"):
        here.registry.write_document(PROJECT, "rank_request", {"requested_at": datetime.now(timezone.utc).isoformat()})
        ranking, kinds = settle(here, LearningSettings(strategy=strategy))
        assert "Choose" not in kinds
        assert sorted(order(here, ranking)["task_id"]) == list(POOL)
        here.registry.delete_ranking(PROJECT, ranking.id)


def test_finished_work_is_not_done_twice_nor_for_an_old_version(here: Context, tmp_path: Path) -> None:
    ranking, _ = settle(here, LearningSettings(strategy="huale", budget=2))
    asked = here.inference.asked  # type: ignore[attr-defined]
    before = len(asked)
    assert choose(PROJECT, ranking.id) == 0
    assert score_shard(PROJECT, ranking.id, 0, True) == 0
    unfinished = here.registry
    add_version(here, "v2", tmp_path / "weights")
    created, _ = settle(here, LearningSettings(strategy="huale", budget=2))
    assert created.version == "v2"
    unfinished.promote(PROJECT, "v1", reason="by hand")
    unfinished.delete_ranking(PROJECT, created.id)
    again = created.model_copy(update={"id": "v2+r9"})
    unfinished.create_ranking(again, unfinished.ranking_tasks(PROJECT, ranking.id))
    measured = len(asked)
    assert choose(PROJECT, "v2+r9") == 0
    assert score_shard(PROJECT, "v2+r9", 0) == 0
    assert len(asked) == measured > before


def test_late_tasks_are_measured_by_both_phases_and_placed(here: Context) -> None:
    ranking, _ = settle(here, LearningSettings(strategy="huale", diversity=True, budget=3))
    found = order(here, ranking)
    here.registry.write_document(PROJECT, "published", {"ranking": ranking.id, "model_version": ranking.model_version})
    # One like a candidate has to come among or next to the candidates.
    best = int(found.filter(pl.col("informativeness") == pl.col("informativeness").max())["task_id"][0])
    frame = measure_live(here, ranking, [(best, "/a.png"), (1003, "/b.png"), (BROKEN, "/c.png")])
    scores = dict(frame.select("task_id", "order_score").iter_rows())
    assert scores[best] == found.filter(pl.col("task_id") == best)["order_score"][0]
    assert 0 < scores[1003] < 1
    assert scores[BROKEN] == found["order_score"][-1]
    assert score_new(PROJECT, ranking.id, [(1001, "/d.png"), (1002, "/e.png")]) == 2
    imported = here.label_studio.imported  # type: ignore[attr-defined]
    assert all(0 < item["score"] < 1 for item in imported)
    # The late ones lie beside the pool's, and can be read together with them.
    together = here.registry.read_shards(PROJECT, ranking.id)
    assert set(together["task_id"]) == {*POOL, 1001, 1002}
    assert here.registry.finished_shards(PROJECT, ranking.id, Phase.CLOSER) == {0}


def test_a_strategy_that_was_asked_for_once_does_not_come_back_with_the_next_version(here: Context) -> None:
    settings = LearningSettings(strategy="uncertainty")
    request_ranking(here.registry, here.queues, PROJECT, strategy="random")
    assert settle(here, settings)[0].strategy["name"] == "random"
    add_version(here, "v2", weights(here.settings.data_dir.parent))
    ranking, _ = settle(here, settings)
    assert (ranking.version, ranking.strategy["name"]) == ("v2", "uncertainty")
    # Asked for while the next version is trained, it is the next version that ranks so.
    request_ranking(here.registry, here.queues, PROJECT, strategy="random")
    add_version(here, "v3", weights(here.settings.data_dir.parent))
    ranking, _ = settle(here, settings)
    assert (ranking.version, ranking.strategy["name"]) == ("v3", "random")


def test_where_nothing_is_seen_there_is_nothing_to_look_at_closer(here: Context) -> None:
    """A young detector, or a pool without objects: the second phase is empty, and the ranking ends all the same."""

    class SeesNothing(MadeUpInference):
        def outcome(self, task: int, views: Sequence[View]) -> Outcome:
            return Outcome(task, {view: seen(4, view) for view in views})

    vars(here)["inference"] = SeesNothing()
    ranking, kinds = settle(here, LearningSettings(strategy="huale"))
    assert kinds == ["StartRanking", "Choose", "Publish"]
    listed = here.registry.closer_tasks(PROJECT, ranking.id)
    assert listed is not None
    assert listed.height == 0
    assert sorted(order(here, ranking)["task_id"]) == list(POOL)


def test_of_many_labelled_images_a_random_part_is_compared_with(here: Context) -> None:
    vars(here)["label_studio"] = MadeUpLabelStudio(range(5000, 5000 + MOST_LABELLED + 500))
    settings = LearningSettings(strategy="core_set", seed=3)
    step(here, settings)
    run_jobs(here)
    [action] = step(here, settings)
    assert isinstance(action, cycle.Choose)
    assert choose(PROJECT, action.ranking) == MOST_LABELLED
    listed = here.registry.closer_tasks(PROJECT, action.ranking)
    assert listed is not None
    assert listed["task_id"].is_sorted()
    assert max(listed["task_id"]) > 5000 + MOST_LABELLED
    size = here.registry.ranking(PROJECT, action.ranking).shard_size
    assert listed["shard"].n_unique() == -(-MOST_LABELLED // size)


def test_settings_that_no_strategy_takes_are_refused_before_anything_is_measured(here: Context) -> None:
    overrides = {"strategy": "huale", "AL_HUALE_WEIGHTS": [1, -1, 0, 0.5], "diversity": True}
    ranking, _ = settle(here, LearningSettings().overridden(overrides))
    assert ranking.strategy["huale_weights"] == [1.0, -1.0, 0.0, 0.5]
    here.registry.delete_ranking(PROJECT, ranking.id)
    with pytest.raises(ValueError, match="strategy is 'bald', expected one of: al_vae, cald"):
        step(here, LearningSettings().model_copy(update={"strategy": "bald"}))
    with pytest.raises(ValueError, match="not all 0"):
        step(here, LearningSettings(strategy="huale", huale_weights=(0, 0, 0, 0)))
    assert here.registry.rankings(PROJECT) == []


@pytest.mark.parametrize(
    ("speed", "images", "size"),
    [
        (None, 30, 16),
        (None, 8_001, 16),
        (None, 20_000, 40),
        (None, 100_000, 128),  # not thousands of shards
        (40.0, 100_000, 200),  # five seconds
        (40.0, 2_000, 84),  # less, so that several workers end together
        (40.0, 100, 16),
        (0.5, 100, 4),
        (1000.0, 100_000, 512),
    ],
)
def test_size_of_a_shard(here: Context, speed: float | None, images: int, size: int) -> None:
    if speed is not None:
        here.registry.write_document(PROJECT, THROUGHPUT, {"images_per_second": speed})
    config = parse_labeling_config(CONFIG)
    tasks = [Task(id=task, data={}) for task in range(1, images + 1)]
    snapshot = cycle.Snapshot(
        config.labels, {}, tuple(range(1, images + 1)), "", frozenset(), {}, frozenset(), (), NOON
    )
    perform(here, PROJECT, cycle.StartRanking("v1"), Observation(snapshot, tasks, config), LearningSettings(), NOON)
    (ranking,) = here.registry.rankings(PROJECT)
    assert (ranking.tasks, ranking.shard_size, ranking.shards) == (images, size, -(-images // size))
