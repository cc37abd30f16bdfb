from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from model.data.dataset import DetectionDataset
from model.detectors import factory
from model.detectors.torchvision_detector import TorchvisionDetector
from model.detectors.yolo import YoloDetector
from model.errors import TrainingCancelled
from model.training.checkpoint import STATE_NAME
from model.training.config import Progress, TrainingConfig, TrainingReport
from model.training.loop import train
from model.training.losses import LossConfig
from model.training.sampling import BatchSampler

Squares = Callable[..., DetectionDataset]
SCRIPT = Path(__file__).with_name("killed_training.py")
ROOT = Path(__file__).resolve().parents[3]
CONFIG = TrainingConfig(iterations=20, batch_size=8, workers=0, mixed_precision=False, checkpoint_every=4)


@pytest.fixture(name="training", scope="module")
def training_fixture() -> ModuleType:
    spec = importlib.util.spec_from_file_location("killed_training", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def weights(module: nn.Module) -> Tensor:
    return torch.cat([v.flatten().double() for v in module.state_dict().values()])


def stop_at(step: int) -> Callable[[Progress], None]:
    def stop(progress: Progress) -> None:
        if progress.iteration == step:
            raise TrainingCancelled("asked to stop")

    return stop


class TestKilledProcess:
    @pytest.mark.slow
    def test_goes_on_to_the_same_weights(self, training: ModuleType, squares: Squares, tmp_path: Path) -> None:
        images = squares(12).images[0].path.parent
        state, out = tmp_path / "state", tmp_path / "out.safetensors"

        def start(pause: float) -> subprocess.Popen[str]:
            command = [sys.executable, str(SCRIPT), str(images), str(state), str(out), str(pause)]
            environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())}
            return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

        killed = start(0.1)
        deadline = time.monotonic() + 120
        while not (state / STATE_NAME).exists():
            assert killed.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.5)  # some steps beyond the state, which are lost
        killed.send_signal(signal.SIGKILL)
        assert killed.wait(30) == -signal.SIGKILL
        assert not out.exists()

        resumed = start(0.0)
        report = json.loads(resumed.communicate(timeout=120)[0])
        assert 3 <= report["resumed_after"] < training.ITERATIONS
        assert report["iterations"] == training.ITERATIONS

        unbroken, unbroken_report = training.run(images, None)
        assert unbroken_report.resumed_after == 0
        for name, value in load_file(out).items():
            assert torch.equal(value, unbroken.state_dict()[name]), name
        assert (report["first_loss"], report["last_loss"]) == (
            unbroken_report.first_loss,
            unbroken_report.last_loss,
        )


class TestLoop:
    def run(
        self,
        training: ModuleType,
        data: DetectionDataset,
        config: TrainingConfig,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> tuple[nn.Module, TrainingReport]:
        sampler = BatchSampler(data, 64, seed=config.seed)
        return train(
            training.NoisyCounter(),
            sampler,
            config,
            learning_rate=0.02,
            device=torch.device("cpu"),
            on_progress=on_progress,
        )

    @pytest.mark.parametrize("step", [4, 6, 7, 19])
    @pytest.mark.parametrize("workers", [0, 2])
    def test_stopped_anywhere_gives_the_same(
        self, training: ModuleType, squares: Squares, tmp_path: Path, step: int, workers: int
    ) -> None:
        data = squares(10)
        unbroken, _ = self.run(training, data, CONFIG)
        config = replace(CONFIG, checkpoint=tmp_path, workers=workers, shrink_and_perturb=None)
        with pytest.raises(TrainingCancelled):
            self.run(training, data, config, stop_at(step))
        resumed, report = self.run(training, data, config)
        assert torch.equal(weights(resumed), weights(unbroken))
        assert report.resumed_after == step // 4 * 4
        assert [file.name for file in tmp_path.iterdir() if file.is_file()] == [STATE_NAME]

    def test_progress_goes_on_where_it_was(self, training: ModuleType, squares: Squares, tmp_path: Path) -> None:
        config = replace(CONFIG, checkpoint=tmp_path)
        seen: list[Progress] = []
        with pytest.raises(TrainingCancelled):
            self.run(training, squares(10), config, stop_at(9))
        _, report = self.run(training, squares(10), config, seen.append)
        assert [progress.iteration for progress in seen] == list(range(9, 21))
        assert seen[0].eta_seconds is None  # nothing is known yet about the speed of this process
        assert seen[-1].eta_seconds == 0
        assert report.iterations == 20

    def test_a_finished_training_is_not_repeated(self, training: ModuleType, squares: Squares, tmp_path: Path) -> None:
        config = replace(CONFIG, checkpoint=tmp_path)
        seen: list[Progress] = []
        first, first_report = self.run(training, squares(10), config)
        again, report = self.run(training, squares(10), config, seen.append)
        assert seen == []
        assert torch.equal(weights(again), weights(first))
        assert (report.resumed_after, report.last_loss) == (20, first_report.last_loss)

    @pytest.mark.parametrize(
        "change", [{"seed": 1}, {"iterations": 21}, {"batch_size": 9}, {"shrink_and_perturb": (0.9, 0.0)}]
    )
    def test_other_settings_start_anew(
        self, training: ModuleType, squares: Squares, tmp_path: Path, change: dict[str, object]
    ) -> None:
        data, config = squares(10), replace(CONFIG, checkpoint=tmp_path)
        self.run(training, data, config)
        other = replace(config, **change)  # type: ignore[arg-type]
        averaged, report = self.run(training, data, other)
        assert report.resumed_after == 0
        assert torch.equal(weights(averaged), weights(self.run(training, data, replace(other, checkpoint=None))[0]))

    def test_other_data_or_weights_start_anew(self, training: ModuleType, squares: Squares, tmp_path: Path) -> None:
        config = replace(CONFIG, checkpoint=tmp_path)
        self.run(training, squares(10), config)
        assert self.run(training, squares(11), config)[1].resumed_after == 0
        network = training.NoisyCounter()
        with torch.no_grad():
            network.module[1].bias.add_(1e-3)
        sampler = BatchSampler(squares(11), 64, seed=0)
        _, report = train(network, sampler, config, learning_rate=0.02, device=torch.device("cpu"))
        assert report.resumed_after == 0

    def test_a_damaged_state_is_said_and_not_trusted(
        self, training: ModuleType, squares: Squares, tmp_path: Path
    ) -> None:
        config = replace(CONFIG, checkpoint=tmp_path)
        first, _ = self.run(training, squares(10), config)
        content = (tmp_path / STATE_NAME).read_bytes()
        for damaged in (b"", b"\x00" * 100, content[:-1]):
            (tmp_path / STATE_NAME).write_bytes(damaged)
            again, report = self.run(training, squares(10), config)
            assert report.resumed_after == 0
            assert "cannot be read, so the training starts from its beginning" in report.notes[0]
            assert torch.equal(weights(again), weights(first))

    def test_a_state_that_cannot_be_written_ends_nothing(
        self, training: ModuleType, squares: Squares, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("in the way")
        _, report = self.run(training, squares(10), replace(CONFIG, checkpoint=tmp_path / "file"))
        assert report.iterations == 20
        assert "the state of the training could not be written" in report.notes[0]

    def test_unreadable_images_stay_named(self, training: ModuleType, squares: Squares, tmp_path: Path) -> None:
        data, config = squares(10), replace(CONFIG, checkpoint=tmp_path / "state")
        data.images[2].path.write_bytes(b"broken")
        with pytest.raises(TrainingCancelled):
            self.run(training, data, config, stop_at(18))
        assert len(self.run(training, data, config)[1].skipped) == 1

    def test_a_halved_batch_stays_halved(self, training: ModuleType, squares: Squares, tmp_path: Path) -> None:
        class Hungry(training.NoisyCounter):  # type: ignore[name-defined]
            sizes: list[int] = []  # noqa: RUF012

            def loss(self, images: Tensor, targets: object) -> Tensor:
                self.sizes.append(len(images))
                if len(images) > 8:
                    raise torch.OutOfMemoryError("CUDA out of memory")
                result: Tensor = super().loss(images, targets)
                return result

        config = replace(CONFIG, batch_size=16, checkpoint=tmp_path)
        reports = []
        for on_progress in (stop_at(9), None):
            sampler = BatchSampler(squares(10), 64, seed=0)
            try:
                run = train(
                    Hungry(), sampler, config, learning_rate=0.02, device=torch.device("cpu"), on_progress=on_progress
                )
                reports.append(run[1])
            except TrainingCancelled:
                pass
        assert Hungry.sizes == [16] + [8] * 9 + [8] * 12 + [8] * 2, "two more for the statistics"
        assert reports[0].batch_size == 8
        assert reports[0].notes == ("out of memory at batch size 16 after 0 steps, continued with 8",)


class TestYolo:
    def test_a_stopped_fit_goes_on_to_the_same_detector(self, squares: Squares, tmp_path: Path) -> None:
        data = squares(6)
        config = TrainingConfig(
            iterations=5, batch_size=8, workers=0, mixed_precision=False, checkpoint_every=2, seed=3
        )

        def fit(config: TrainingConfig, on_progress: Callable[[Progress], None] | None = None) -> dict[str, Tensor]:
            detector = factory.create(
                "yolov5n", (), image_size=64, device="cpu", base=factory.find_base("yolov5n", None)
            )
            assert isinstance(detector, YoloDetector)
            report = detector.fit(data, None, config, on_progress)
            resumed.append(report.resumed_after)
            return detector.tensors()

        resumed: list[int] = []
        unbroken = fit(config)
        kept = replace(config, checkpoint=tmp_path)
        with pytest.raises(TrainingCancelled):
            fit(kept, stop_at(3))
        again = fit(kept)
        assert resumed == [0, 2]
        for name, value in unbroken.items():
            assert torch.equal(again[name], value), name


class TestTorchvision:
    @pytest.mark.parametrize(
        "architecture",
        # Faster R-CNN draws the proposals that a step learns from.
        [
            "ssdlite320_mobilenet_v3_large",
            pytest.param("fasterrcnn_mobilenet_v3_large_fpn", marks=pytest.mark.slow),
        ],
    )
    def test_a_stopped_fit_goes_on_with_what_its_losses_learned(
        self, architecture: str, squares: Squares, tmp_path: Path
    ) -> None:
        data = squares(3)
        # The steps after the resumption depend on what the losses counted and saw before it.
        losses = replace(LossConfig.huale(), warm_up=2, emphasis_momentum=0.5, emphasis_max=5.0)
        config = TrainingConfig(
            iterations=4, batch_size=2, workers=0, mixed_precision=False, checkpoint_every=2, losses=losses
        )
        detectors: list[TorchvisionDetector] = []
        resumed: list[int] = []

        def fit(config: TrainingConfig, on_progress: Callable[[Progress], None] | None = None) -> None:
            detector = factory.create(architecture, (), image_size=64, device="cpu")
            assert isinstance(detector, TorchvisionDetector)
            resumed.append(detector.fit(data, None, config, on_progress).resumed_after)
            detectors.append(detector)

        fit(config)
        kept = replace(config, checkpoint=tmp_path)
        with pytest.raises(TrainingCancelled):
            fit(kept, stop_at(3))
        fit(kept)
        assert resumed == [0, 2]
        unbroken, again = (detector.tensors() for detector in detectors)
        for name, value in unbroken.items():
            assert torch.equal(again[name], value), name
