"""The loop, with a detector that needs no training: what is labelled when, what is kept, what is refused."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from model.acquisition.strategy import strategy_names
from model.data.dataset import DetectionDataset
from model.errors import NotEnoughLabels
from model.simulation import cell as cell_module
from model.simulation.cell import Experiment
from model.simulation.data import SimulationData
from model.simulation.environment import versions
from model.simulation.output import write_report
from model.simulation.plan import Cell, Plan
from model.simulation.results import Curve, Results, collect
from model.simulation.runner import Outcome, SimulationProgress, run_experiment, units
from model.simulation.store import SimulationError, Store, write_json
from model.training.config import TrainingReport
from model.training.loss_config import LossConfig
from tests.model.simulation.fake_experiment import Fake, Fakes, draw, plan, sample


@pytest.fixture(name="data", scope="module")
def data_fixture(tmp_path_factory: pytest.TempPathFactory) -> SimulationData:
    return sample(tmp_path_factory.mktemp("images"))


def run(experiment: Experiment, **options: Any) -> tuple[Results, Outcome]:
    outcome = run_experiment(experiment, device="cpu", **{"parallel": 1, **options})
    return collect(experiment, outcome), outcome


def trainings(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def keys(curve: Curve) -> list[tuple[str, ...]]:
    return [point.labelled for point in curve.points]


class TestLoop:
    def test_labels_are_withheld_until_the_strategy_asks(self, data: SimulationData, tmp_path: Path) -> None:
        log = tmp_path / "log"
        results, outcome = run(Experiment(plan("uncertainty", full=False), data, Fakes(log=log), tmp_path / "out"))
        (curve,) = results.curves
        assert (curve.complete, results.complete, outcome.failures) == (True, True, [])
        assert [point.labels for point in curve.points] == [3, 6, 9, 12]
        # Every training saw exactly what was labelled by then, and nothing was labelled twice.
        seen: set[str] = set()
        for point, training in zip(curve.points, trainings(log), strict=True):
            assert not seen & set(point.labelled)
            seen |= set(point.labelled)
            assert set(training["keys"]) == seen
        truth = {image.key: image for image in data.pool.images}
        last = curve.points[-1]
        assert last.boxes == sum(len(truth[key].label) for key in seen) == sum(last.class_counts.values())
        assert list(last.class_counts) == ["red", "green", "blue"]

    def test_strategies_share_initial_sets_and_training_seeds(self, data: SimulationData, tmp_path: Path) -> None:
        log = tmp_path / "log"
        experiment = Experiment(
            plan("random", "uncertainty", seeds=2, full=False), data, Fakes(log=log), tmp_path / "o"
        )
        results, _ = run(experiment)
        random_0, uncertainty_0, random_1, uncertainty_1 = results.curves
        assert keys(random_0)[0] == keys(uncertainty_0)[0] != keys(random_1)[0] == keys(uncertainty_1)[0]
        assert random_0.points[0].metrics == uncertainty_0.points[0].metrics
        # The first training of a seed is shared: 2 seeds of 1 + 2 * 3.
        rows = trainings(log)
        assert len(rows) == 14
        seeds = [row["seed"] for row in rows[:7]]
        assert seeds[1:4] == seeds[4:7]
        assert len(set(seeds)) == 4
        assert not set(seeds) & {row["seed"] for row in rows[7:]}

    def test_more_labels_come_closer_to_full_supervision(self, data: SimulationData, tmp_path: Path) -> None:
        results, _ = run(Experiment(plan(), data, Fakes(), tmp_path))
        full = results.full[0].point
        assert full.labels == len(data.pool)
        assert full.quality > 0.9
        for curve in results.curves:
            assert curve.points[0].quality < curve.points[-1].quality <= full.quality
        assert [values is not None for values in results.curves[1].points[1].informativeness] == [True] * 3
        assert set(results.curves[1].points[0].informativeness) == {None}

    def test_the_same_again_gives_the_same(self, data: SimulationData, tmp_path: Path) -> None:
        first, _ = run(Experiment(plan(), data, Fakes(), tmp_path / "1"))
        second, _ = run(Experiment(plan(), data, Fakes(), tmp_path / "2"))
        assert list(map(keys, first.curves)) == list(map(keys, second.curves))

    @pytest.mark.parametrize("diversity", ["", "+diversity"])
    def test_every_strategy_goes_through(self, data: SimulationData, tmp_path: Path, diversity: str) -> None:
        names = [f"{name}{diversity}" for name in strategy_names()]
        results, outcome = run(Experiment(plan(*names, cycles=2, full=False), data, Fakes(), tmp_path))
        assert outcome.failures == []
        assert [[p.labels for p in curve.points] for curve in results.curves] == [[3, 6, 9]] * len(names)

    def test_losses_are_cells_of_their_own(self, data: SimulationData, tmp_path: Path) -> None:
        log = tmp_path / "log"
        losses = (("library", LossConfig()), ("huale", LossConfig.huale()))
        results, _ = run(Experiment(plan("random", losses=losses, cycles=1), data, Fakes(log=log), tmp_path / "out"))
        assert [(curve.losses, len(curve.points)) for curve in results.curves] == [("library", 2), ("huale", 2)]
        assert [row["eiou"] for row in trainings(log)] == [None, None, None, "safe", "safe", "safe"]
        assert [full.losses for full in results.full] == ["library", "huale"]

    def test_the_second_worker_need_not_wait_for_the_first(self, data: SimulationData, tmp_path: Path) -> None:
        """Curves of one seed share their first training, the one on everything is free."""
        work = units(Experiment(plan("random", "huale", seeds=2), data, Fakes(), tmp_path))
        assert [(unit.cell.strategy, unit.cell.seed) for unit in work] == [
            (strategy, seed) for seed in (0, 1) for strategy in ("random", "", "huale")
        ]

    def test_numbers_without_weights_go_on(self, data: SimulationData, tmp_path: Path) -> None:
        first, _ = run(Experiment(plan("random", full=False), data, Fakes(), tmp_path))
        shutil.rmtree(tmp_path / "starts" / "library-0" / "detector")
        both, outcome = run(Experiment(plan("random", "uncertainty", full=False), data, Fakes(), tmp_path))
        assert outcome.failures == []
        assert both.complete
        assert both.curves[0] == first.curves[0]
        assert keys(both.curves[1])[0] == keys(first.curves[0])[0]
        assert both.curves[1].points[0].metrics == first.curves[0].points[0].metrics

    def test_a_kill_while_the_first_weights_are_written(
        self, data: SimulationData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Half of them must not be taken for all of them, least of all beside numbers that are already there."""
        run(Experiment(plan("random", full=False), data, Fakes(), tmp_path))
        shutil.rmtree(tmp_path / "starts" / "library-0" / "detector")

        def half(fake: Fake, folder: Path) -> None:
            folder.mkdir()
            raise OSError("killed")

        both = Experiment(plan("random", "uncertainty", full=False), data, Fakes(), tmp_path)
        with monkeypatch.context() as patched:
            patched.setattr(Fake, "save", half)
            assert "killed" in run(both)[1].failures[0]
        results, outcome = run(both)
        assert outcome.failures == []
        assert results.complete

    def test_a_kill_between_the_first_weights_and_their_numbers(
        self, data: SimulationData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def killed(path: Path, document: Any) -> None:
            if path.name == "measured.json":
                raise OSError("killed")
            write_json(path, document)

        begun = Experiment(plan("random", full=False), data, Fakes(), tmp_path)
        with monkeypatch.context() as patched:
            patched.setattr(cell_module, "write_json", killed)
            assert "killed" in run(begun)[1].failures[0]
        results, outcome = run(begun)
        assert (outcome.failures, results.complete) == ([], True)

    def test_first_weights_whose_numbers_are_lost(self, data: SimulationData, tmp_path: Path) -> None:
        run(Experiment(plan("random", full=False), data, Fakes(), tmp_path))
        (tmp_path / "starts" / "library-0" / "measured.json").write_text("{")
        results, outcome = run(Experiment(plan("random", "uncertainty", full=False), data, Fakes(), tmp_path))
        assert (outcome.failures, results.complete) == ([], True)

    def test_every_training_says_where_it_was_made(self, data: SimulationData, tmp_path: Path) -> None:
        results, _ = run(Experiment(plan("random", cycles=1), data, Fakes(), tmp_path))
        [place] = results.made_on
        assert place["device"].startswith("cpu, ")
        assert place["torch"] == versions()["torch"]


class TestCtrlC:
    @pytest.mark.parametrize("swallowed", [False, True])
    def test_a_library_that_is_interrupted_may_say_something_else(
        self, data: SimulationData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swallowed: bool
    ) -> None:
        """What is interrupted in C raises a SystemError, or nothing at all: the experiment ends all the same."""
        learn = Fake.fit

        def interrupted(self: Fake, train: DetectionDataset, *arguments: Any) -> TrainingReport:
            if len(train) > 3:
                with suppress(KeyboardInterrupt):
                    signal.raise_signal(signal.SIGINT)
                if not swallowed:
                    raise SystemError("returned a result with an exception set")
            return learn(self, train, *arguments)

        monkeypatch.setattr(Fake, "fit", interrupted)
        # Whoever runs the tests in the background of a shell has Ctrl-C ignored.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            results, outcome = run(Experiment(plan("random"), data, Fakes(), tmp_path))
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        finally:
            signal.signal(signal.SIGINT, before)
        assert (outcome.ended_early, outcome.failures) == (True, [])
        assert [point.labels for point in results.curves[0].points] == [3]


class TestEdges:
    def test_a_pool_that_is_exhausted_ends_the_curve(self, data: SimulationData, tmp_path: Path) -> None:
        experiment = Experiment(plan(initial=4, budget=15, cycles=5), data, Fakes(), tmp_path)
        results, outcome = run(experiment)
        assert outcome.failures == []
        assert results.complete
        for curve in results.curves:
            assert [point.labels for point in curve.points] == [4, 19, 24]
        told: list[SimulationProgress] = []
        run(experiment, on_progress=told.append)
        assert told == []

    def test_a_budget_larger_than_the_pool_takes_the_rest(self, data: SimulationData, tmp_path: Path) -> None:
        results, _ = run(Experiment(plan("huale", budget=1000, cycles=1), data, Fakes(), tmp_path))
        assert [point.labels for point in results.curves[0].points] == [3, 24]

    def test_an_initial_set_as_large_as_the_pool_is_refused(self, data: SimulationData, tmp_path: Path) -> None:
        with pytest.raises(NotEnoughLabels, match="nothing is left to choose"):
            run(Experiment(plan(initial=24), data, Fakes(), tmp_path))

    def test_the_initial_set_grows_until_there_is_a_box(self, tmp_path: Path) -> None:
        pool = draw(tmp_path / "pool", [None] * 11 + [0])
        data = SimulationData("sparse", pool, draw(tmp_path / "test", [0, None]))
        with_box = next(seed for seed in range(50) if 3 < len(data.initial(2, seed)) < 12)
        drawn = data.initial(2, with_box)
        assert drawn[-1] == 11
        assert drawn[:-1] == data.initial(len(drawn), with_box)[:-1]
        experiment = Experiment(
            replace(plan(initial=2, budget=1, cycles=1), seeds=(with_box,)), data, Fakes(), tmp_path
        )
        results, outcome = run(experiment)
        assert outcome.failures == []
        assert results.curves[0].points[0].labels == len(drawn)

    def test_a_class_that_nobody_has_is_no_obstacle(self, tmp_path: Path) -> None:
        data = SimulationData("no blue", draw(tmp_path / "pool", [0, 1] * 5), draw(tmp_path / "test", [0, 1]))
        results, _ = run(Experiment(plan("ppal", "uncertainty"), data, Fakes(), tmp_path / "out"))
        assert results.complete
        last = results.curves[0].points[-1]
        assert last.class_counts["blue"] == 0
        assert last.metrics.per_class["blue"].ap50 is None
        assert last.quality > 0

    def test_an_image_that_cannot_be_read_is_chosen_last(self, tmp_path: Path) -> None:
        data = sample(tmp_path, 12)
        experiment = Experiment(plan("uncertainty", budget=8, cycles=1, full=False), data, Fakes(), tmp_path / "out")
        broken = next(i for i in range(12) if i not in data.initial(3, 0))
        data.pool.images[broken].path.write_bytes(b"no picture")
        results, _ = run(experiment)
        point = results.curves[0].points[1]
        # Nine are left, eight are wanted: the broken one is the ninth.
        assert data.pool.images[broken].key not in point.labelled
        results, _ = run(replace(experiment, plan=plan("uncertainty", budget=9, cycles=1), folder=tmp_path / "out2"))
        point = results.curves[0].points[1]
        assert point.labelled[-1] == data.pool.images[broken].key
        assert point.informativeness[-1] is None

    def test_held_out_images_that_cannot_be_read_are_told(self, tmp_path: Path) -> None:
        data = sample(tmp_path, 12)
        for image in data.test.images:
            image.path.write_bytes(b"")
        _, outcome = run(Experiment(plan("random"), data, Fakes(), tmp_path / "out"))
        assert "held-out" in outcome.failures[0]

    def test_a_subset_of_a_large_pool(self, data: SimulationData, tmp_path: Path) -> None:
        results, _ = run(Experiment(plan("uncertainty", pool_size=4, budget=6, cycles=1), data, Fakes(), tmp_path))
        assert [point.labels for point in results.curves[0].points] == [3, 7]


class TestGoingOn:
    def test_what_is_finished_is_not_done_again(self, data: SimulationData, tmp_path: Path) -> None:
        log = tmp_path / "log"
        experiment = Experiment(plan(), data, Fakes(log=log), tmp_path / "out")
        before, _ = run(experiment)
        done = len(trainings(log))
        (tmp_path / "out" / "cells" / "uncertainty-library-0" / "cycle-002.json").unlink()
        after, _ = run(experiment)
        # Without its third cycle the fourth does not count either.
        assert len(trainings(log)) == done + 2
        assert list(map(keys, after.curves)) == list(map(keys, before.curves))
        assert after.curves[1].points[-1].metrics == before.curves[1].points[-1].metrics

    def test_a_damaged_file_is_made_again(self, data: SimulationData, tmp_path: Path) -> None:
        experiment = Experiment(plan("random"), data, Fakes(), tmp_path)
        before, _ = run(experiment)
        (tmp_path / "cells" / "random-library-0" / "cycle-001.json").write_text("{")
        assert not collect(experiment).complete
        after, _ = run(experiment)
        assert list(map(keys, after.curves)) == list(map(keys, before.curves))

    def test_more_than_a_thousand_cycles_are_found_again(self, tmp_path: Path) -> None:
        store, cell = Store(tmp_path), Cell("random", "library", 0)
        for number in range(1002):
            store.write_cycle(cell, {"cycle": number})
        assert [document["cycle"] for document in store.cycles(cell)] == list(range(1002))

    def test_seeds_and_strategies_may_join(self, data: SimulationData, tmp_path: Path) -> None:
        log = tmp_path / "log"
        source, folder = Fakes(log=log), tmp_path / "out"
        run(Experiment(plan("random", full=False), data, source, folder))
        results, _ = run(Experiment(plan("random", "huale", seeds=2, full=False), data, source, folder))
        # 4 before; then 3 more for seed 0, whose first training is there, and 1 + 3 + 3 for seed 1.
        assert len(trainings(log)) == 4 + 3 + 7
        assert results.complete
        # A smaller experiment reports on its own curves alone, unless the others are asked for.
        smaller = Experiment(plan("huale", full=False), data, source, folder)
        results, outcome = run(smaller)
        assert [curve.strategy for curve in results.curves] == ["huale"]
        (folder / "cells" / "random-library-1" / "cycle-003.json").unlink()
        every = collect(smaller, outcome, others=True)
        assert sorted((curve.strategy, curve.seed) for curve in every.curves) == [
            ("huale", 0),
            ("huale", 1),
            ("random", 0),
        ]
        assert every.complete
        assert (list(every.settings["strategies"]), every.settings["seeds"]) == (["random", "huale"], [0, 1])

    def test_references_of_other_curves_stay_in_the_report(self, data: SimulationData, tmp_path: Path) -> None:
        run(Experiment(plan("random", seeds=2), data, Fakes(), tmp_path))
        more = Experiment(plan("huale", full=False), data, Fakes(), tmp_path)
        results, outcome = run(more)
        assert (len(results.full), results.missing_full) == (0, 0)
        every = collect(more, outcome, others=True)
        assert [full.seed for full in every.full] == [0, 1]
        assert every.complete
        missing = collect(Experiment(plan("huale", seeds=3), data, Fakes(), tmp_path))
        assert (len(missing.full), missing.missing_full) == (2, 1)

    def test_where_nothing_was_finished_another_experiment_may_begin(
        self, data: SimulationData, tmp_path: Path
    ) -> None:
        class Missing(Fakes):
            def create(self, classes: Sequence[str], *, seed: int, device: str) -> Fake:
                raise ValueError("no such file")

        _, outcome = run(Experiment(plan("random"), data, Missing(), tmp_path))
        assert len(outcome.failures) == 2
        assert run(Experiment(plan("random", budget=4), data, Fakes(), tmp_path))[0].complete
        with pytest.raises(SimulationError, match="budget: 4 there, 3 here"):
            run(Experiment(plan("random"), data, Fakes(), tmp_path))

    @pytest.mark.parametrize(("name", "same"), [("squares/data.yaml", True), ("enhanced", False), ("squares2", False)])
    def test_other_pictures_with_the_same_boxes_are_refused(
        self, data: SimulationData, tmp_path: Path, name: str, same: bool
    ) -> None:
        """The digest does not see pixels, so the name counts, but not whether a file in the folder was named."""
        run(Experiment(plan("random"), data, Fakes(), tmp_path))
        renamed = Experiment(plan("random"), replace(data, name=name), Fakes(), tmp_path)
        if same:
            assert run(renamed)[0].data["name"] == name
            return
        with pytest.raises(SimulationError, match=rf"data\.name: squares there, {name} here"):
            run(renamed)

    @pytest.mark.parametrize(
        ("other", "named"),
        [
            (plan(budget=4), "budget: 3 there, 4 here"),
            (plan(initial=4), "initial: 3 there, 4 here"),
            (
                replace(plan(), training=replace(plan().training, iterations=7)),
                "training.iterations: 300 there, 7 here",
            ),
            (replace(plan(), losses=(("library", LossConfig.huale()),)), "losses.library.emphasis: False there"),
        ],
    )
    def test_other_settings_are_refused(self, data: SimulationData, tmp_path: Path, other: Plan, named: str) -> None:
        run(Experiment(plan("random", cycles=3), data, Fakes(), tmp_path))
        with pytest.raises(SimulationError, match=named):
            run(Experiment(other, data, Fakes(), tmp_path))

    def test_other_data_are_refused(self, data: SimulationData, tmp_path: Path) -> None:
        run(Experiment(plan("random"), data, Fakes(), tmp_path))
        fewer = replace(data, pool=replace(data.pool, images=data.pool.images[:-1]))
        with pytest.raises(SimulationError, match=r"data\.pool_images: 24 there, 23 here"):
            run(Experiment(plan("random"), fewer, Fakes(), tmp_path))

    def test_results_without_a_manifest_are_refused(self, data: SimulationData, tmp_path: Path) -> None:
        run(Experiment(plan("random"), data, Fakes(), tmp_path))
        (tmp_path / "manifest.json").write_text("")
        with pytest.raises(SimulationError, match=r"no manifest\.json"):
            run(Experiment(plan("random"), data, Fakes(), tmp_path))

    def test_two_at_once_are_refused(self, data: SimulationData, tmp_path: Path) -> None:
        experiment = Experiment(plan("random"), data, Fakes(), tmp_path)
        with experiment.store.alone(), pytest.raises(SimulationError, match="Another simulation"):
            run(experiment)
        assert run(experiment)[0].complete


class TestTrouble:
    def test_images_that_no_training_could_read_are_no_labels(self, tmp_path: Path) -> None:
        data = sample(tmp_path / "images")
        damaged = [image for index, image in enumerate(data.pool.images) if index % 3 == 0]

        class Skips(Fake):
            """As in a short training, an image is only noticed where it is drawn: here in every second training."""

            def fit(self, train: DetectionDataset, *rest: Any) -> TrainingReport:
                gone = [f"{image.key}: truncated: at 7" for image in train.images if image in damaged]
                report = super().fit(train, *rest)
                return replace(report, skipped=tuple(gone if len(train) % 2 else ()))

        class Source(Fakes):
            def create(self, classes: Sequence[str], *, seed: int, device: str) -> Fake:
                return Skips(self, classes)

            def load(self, folder: Path, *, device: str) -> Fake:
                return self.create(data.pool.classes, seed=0, device=device)

        experiment = Experiment(plan("random", "core_set", budget=4), data, Source(), tmp_path / "out")
        results, outcome = run(experiment)
        assert not outcome.failures
        told = {text for curve in results.curves for point in curve.points for text in point.training["skipped"]}
        unread = {text.split(":")[0] for text in told}
        assert unread
        sound = {image.key: len(image.label) for image in data.pool.images if image.key not in unread}
        for curve in results.curves:
            known: list[str] = []
            for point in curve.points:
                known += [key for key in point.labelled if key in sound]
                assert (point.labels, point.boxes) == (len(known), sum(sound[key] for key in known))
                assert sum(point.class_counts.values()) == point.boxes
        assert results.full[0].point.labels == len(sound)
        write_report(results, tmp_path / "report")

    def test_a_cell_that_fails_leaves_the_others_alone(self, data: SimulationData, tmp_path: Path) -> None:
        chosen, _ = run(Experiment(plan(full=False), data, Fakes(), tmp_path / "1"))
        random, uncertainty = chosen.curves
        only = next(k for k in keys(random)[1] if all(k not in step for step in keys(uncertainty)))
        results, outcome = run(Experiment(plan(full=False), data, Fakes(fail_on=only), tmp_path / "2"))
        assert len(outcome.failures) == 1
        assert f"random, seed 0, losses library: RuntimeError: {only} was shown" in outcome.failures[0]
        assert [len(curve.points) for curve in results.curves] == [1, 4]
        assert [curve.complete for curve in results.curves] == [False, True]
        assert not results.complete

    def test_ctrl_c_keeps_what_is_there(self, data: SimulationData, tmp_path: Path) -> None:
        def interrupt(progress: SimulationProgress) -> None:
            if progress.done >= 2:
                raise KeyboardInterrupt

        experiment = Experiment(plan("random", full=False), data, Fakes(seconds=0.7), tmp_path)
        results, outcome = run(experiment, on_progress=interrupt)
        assert outcome.ended_early
        assert results.ended_early
        assert [point.labels for point in results.curves[0].points] == [3, 6]
        results, outcome = run(Experiment(plan("random", full=False), data, Fakes(), tmp_path))
        assert results.complete
        assert not outcome.ended_early

    def test_progress_rises_to_the_end(self, data: SimulationData, tmp_path: Path) -> None:
        told: list[SimulationProgress] = []
        run(Experiment(plan(), data, Fakes(seconds=0.1), tmp_path), on_progress=told.append)
        assert told[-1].done == told[-1].total == 2 * 4 + 1
        assert all(earlier.done <= later.done for earlier, later in pairwise(told))
        assert told[-1].eta_seconds == 0
        assert any("uncertainty, seed 0" in phrase for progress in told for phrase in progress.running)


class TestProcesses:
    def test_side_by_side_gives_the_same_and_one_that_dies_takes_only_its_cell(
        self, data: SimulationData, tmp_path: Path
    ) -> None:
        settings = plan("random", "uncertainty", "huale", full=False)
        alone, _ = run(Experiment(settings, data, Fakes(), tmp_path / "1"))
        others = {key for curve in alone.curves[1:] for step in keys(curve) for key in step}
        fatal = next(key for step in keys(alone.curves[0])[1:] for key in step if key not in others)
        told: list[SimulationProgress] = []
        source = Fakes(die_on=fatal)
        both, outcome = run(Experiment(settings, data, source, tmp_path / "2"), parallel=2, on_progress=told.append)
        assert len(outcome.failures) == 1
        assert "random, seed 0, losses library: its process died (exit code 9)" in outcome.failures[0]
        assert list(map(keys, both.curves[1:])) == list(map(keys, alone.curves[1:]))
        assert not both.curves[0].complete
        # The curve that died is neither done nor still to do.
        assert told[-1].done == told[-1].total == 2 * 4
        assert told[-1].eta_seconds == 0
