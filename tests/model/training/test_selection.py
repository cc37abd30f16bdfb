from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from model.data.dataset import DetectionDataset
from model.detectors import factory
from model.detectors.yolo import YoloDetector
from model.errors import TrainingCancelled
from model.training.config import Progress, TrainingConfig, TrainingReport
from model.training.evaluation import evaluate
from model.training.loop import train
from model.training.sampling import BatchSampler
from model.training.targets import Target

Squares = Callable[..., DetectionDataset]
CONFIG = TrainingConfig(iterations=20, batch_size=8, workers=0, mixed_precision=False)


class Counter:
    """A tiny network that learns how many boxes an image has."""

    fast_factor = 1.0
    blocks: Sequence[nn.Module] = ()
    fast_parameters: Sequence[nn.Parameter] = ()

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module: nn.Module = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.Dropout(), nn.Conv2d(4, 1, 1))

    def loss(self, images: Tensor, targets: Sequence[Target]) -> Tensor:
        counts = torch.tensor([float(len(t.label)) for t in targets])
        return ((self.module(images).mean(dim=(1, 2, 3)) - counts) ** 2).mean()


class Script:
    """Judges as it is told, and remembers what it saw."""

    identity = "script"

    def __init__(self, *qualities: float | None) -> None:
        self.qualities = list(qualities)
        self.seen: list[Tensor] = []

    def __call__(self, module: nn.Module, on_progress: Callable[[Progress], None] | None) -> float | None:
        assert not module.training
        torch.rand(7)  # a judge that draws random numbers must not change the training
        self.seen.append(weights(module))
        return self.qualities[len(self.seen) - 1]


def weights(module: nn.Module) -> Tensor:
    return torch.cat([v.detach().flatten().clone() for v in module.state_dict().values()])


def run(
    data: DetectionDataset,
    config: TrainingConfig,
    judge: Script | None,
    on_progress: Callable[[Progress], None] | None = None,
) -> tuple[nn.Module, TrainingReport]:
    sampler = BatchSampler(data, 64, seed=config.seed)
    device = torch.device("cpu")
    return train(Counter(), sampler, config, learning_rate=0.02, device=device, on_progress=on_progress, judge=judge)


def test_nobody_looks_by_default(squares: Squares) -> None:
    judge = Script()
    _, report = run(squares(), CONFIG, judge)
    assert judge.seen == []
    assert (report.kept_iteration, report.evaluations) == (None, ())


def test_the_best_is_kept(squares: Squares) -> None:
    judge = Script(0.1, 0.5, 0.5, 0.2)
    averaged, report = run(squares(), replace(CONFIG, evaluate_every=6), judge)
    assert report.evaluations == ((6, 0.1), (12, 0.5), (18, 0.5), (20, 0.2))
    assert (report.kept_iteration, report.iterations) == (12, 20)
    assert torch.equal(weights(averaged), judge.seen[1])
    assert report.as_dict()["evaluations"] == [[6, 0.1], [12, 0.5], [18, 0.5], [20, 0.2]]


def test_looking_does_not_change_the_training(squares: Squares) -> None:
    averaged, _ = run(squares(), CONFIG, None)
    watched, _ = run(squares(), replace(CONFIG, evaluate_every=3), Script(*[0.1] * 6, 0.9))
    assert torch.equal(weights(averaged), weights(watched))


class Hungry(Script):
    def __call__(self, module: nn.Module, on_progress: Callable[[Progress], None] | None) -> float | None:
        super().__call__(module, on_progress)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_lack_of_memory_in_a_look_is_not_taken_for_that_of_a_step(squares: Squares) -> None:
    """Of several processes only one looks: were it to go on with a smaller batch, the others would wait for ever."""
    judge = Hungry(0.1, 0.2)
    seen: list[Progress] = []
    with pytest.raises(torch.OutOfMemoryError):
        run(squares(), replace(CONFIG, evaluate_every=6), judge, seen.append)
    assert len(judge.seen) == 1
    assert len(seen) == 5


@pytest.mark.parametrize(("patience", "steps", "kept"), [(0, 20, 12), (1, 9, 6), (2, 18, 12), (3, 20, 12)])
def test_a_training_that_gets_no_better_ends(squares: Squares, patience: int, steps: int, kept: int) -> None:
    config = replace(CONFIG, evaluate_every=3, patience=patience)
    seen: list[Progress] = []
    _, report = run(squares(), config, Script(0.1, 0.3, 0.3, 0.31, 0.3, 0.31, 0.3), seen.append)
    assert report.iterations == seen[-1].iteration == steps
    assert report.kept_iteration == kept


def test_what_cannot_be_judged_is_not_kept(squares: Squares) -> None:
    config = replace(CONFIG, evaluate_every=10, patience=1)
    _, report = run(squares(), config, Script(None, None))
    assert (report.kept_iteration, report.iterations) == (None, 20)
    _, report = run(squares(), config, Script(None, 0.0))
    assert report.kept_iteration == 20


def test_nothing_to_judge_by_is_said(squares: Squares) -> None:
    _, report = run(squares(), replace(CONFIG, evaluate_every=10), None)
    assert report.notes == ("no validation image with a box, so the last weights were kept",)


@pytest.mark.parametrize("change", [{"evaluate_every": -1}, {"patience": -2}])
def test_settings_out_of_range(squares: Squares, change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"expected 0 or more"):
        run(squares(), replace(CONFIG, **change), None)  # type: ignore[arg-type]


def test_a_resumed_training_remembers_the_best(squares: Squares, tmp_path: Path) -> None:
    config = replace(CONFIG, evaluate_every=5, patience=2, checkpoint=tmp_path, checkpoint_every=4)

    def stop(progress: Progress) -> None:
        if progress.iteration == 13:
            raise TrainingCancelled("asked to stop")

    first = Script(0.5, 0.4)
    with pytest.raises(TrainingCancelled):
        run(squares(), config, first, stop)
    averaged, report = run(squares(), config, Script(0.3))
    assert report.evaluations == ((5, 0.5), (10, 0.4), (15, 0.3))
    assert (report.resumed_after, report.iterations, report.kept_iteration) == (12, 15, 5)
    assert torch.equal(weights(averaged), first.seen[0])
    again, report = run(squares(), config, Script())
    assert (report.resumed_after, report.kept_iteration) == (15, 5)
    assert torch.equal(weights(again), first.seen[0])


class TestYolo:
    def create(self) -> YoloDetector:
        detector = factory.create("yolov5n", (), image_size=64, device="cpu", base=factory.find_base("yolov5n", None))
        assert isinstance(detector, YoloDetector)
        return detector

    def test_the_best_on_the_validation_images_is_kept(self, squares: Squares) -> None:
        data, detector, phases = squares(10), self.create(), []
        config = replace(CONFIG, iterations=8, evaluate_every=4)
        report = detector.fit(data, data, config, lambda progress: phases.append(progress.phase))
        assert [step for step, _ in report.evaluations] == [4, 8]
        qualities = dict(report.evaluations)
        assert report.kept_iteration is not None
        assert qualities[report.kept_iteration] == max(q for q in qualities.values() if q is not None)
        assert evaluate(detector, data).map50 == pytest.approx(qualities[report.kept_iteration], abs=1e-6)
        assert phases == ["train"] * 3 + ["evaluate"] * 2 + ["train"] * 4 + ["evaluate"] * 2 + ["train"]

    def test_cancelling_works_while_it_looks(self, squares: Squares) -> None:
        detector = self.create()

        def stop(progress: Progress) -> None:
            if progress.phase == "evaluate":
                raise TrainingCancelled("asked to stop")

        with pytest.raises(TrainingCancelled):
            detector.fit(squares(10), squares(10), replace(CONFIG, evaluate_every=2), stop)
        assert detector.classes == ()

    @pytest.mark.parametrize("given", [True, False])
    def test_without_validation_boxes_the_last_are_kept(self, squares: Squares, given: bool) -> None:
        data = squares(10)
        validation = data.subset(["4", "9"]) if given else None
        report = self.create().fit(data, validation, replace(CONFIG, iterations=2, evaluate_every=1))
        assert report.kept_iteration is None
        assert report.notes == ("no validation image with a box, so the last weights were kept",)
