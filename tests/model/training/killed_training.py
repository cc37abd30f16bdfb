"""A small training as a process of its own, for a test that kills it.

Run as `python killed_training.py SQUARES CHECKPOINT OUT SECONDS_PER_STEP`; writes its averaged weights to OUT.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from model.data.dataset import DetectionDataset, LabelledImage
from model.training.config import TrainingConfig, TrainingReport
from model.training.loop import train
from model.training.sampling import BatchSampler
from model.training.targets import Target

ITERATIONS = 40


class NoisyCounter:
    """Learns how many boxes an image has, with all kinds of state: dropout, batch statistics, a loss that learns."""

    fast_factor = 2.0

    def __init__(self) -> None:
        torch.manual_seed(0)
        first = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.5))
        head = nn.Conv2d(8, 1, 1)
        self.module: nn.Module = nn.Sequential(first, head)
        self.blocks: Sequence[nn.Module] = [first]
        self.fast_parameters: Sequence[nn.Parameter] = list(head.parameters())
        self.loss_state = nn.BatchNorm1d(1)

    def loss(self, images: Tensor, targets: Sequence[Target]) -> Tensor:
        counts = torch.tensor([float(len(t.label)) for t in targets])
        error = (self.module(images).mean(dim=(1, 2, 3)) - counts) ** 2
        with torch.no_grad():
            self.loss_state(error[:, None])
            assert self.loss_state.running_mean is not None
            scale = self.loss_state.running_mean + 1
        return (error * scale).mean()


def squares(folder: Path) -> DetectionDataset:
    """The files that `draw_squares` wrote, each with one box, some with none."""
    paths = sorted(folder.glob("*.png"))
    boxes = [np.array([[1, 1, 20, 20]] * (n % 3), np.float32).reshape(-1, 4) for n in range(len(paths))]
    images = [LabelledImage(p.name, p, b, np.zeros(len(b), np.int64)) for p, b in zip(paths, boxes, strict=True)]
    return DetectionDataset(("square",), images)


def run(folder: Path, checkpoint: Path | None, seconds: float = 0.0) -> tuple[nn.Module, TrainingReport]:
    """Train on the images in `folder`."""
    config = TrainingConfig(
        iterations=ITERATIONS, batch_size=8, workers=0, mixed_precision=False, checkpoint=checkpoint, checkpoint_every=3
    )
    return train(
        NoisyCounter(),
        BatchSampler(squares(folder), 64, seed=config.seed),
        config,
        learning_rate=0.02,
        device=torch.device("cpu"),
        on_step=lambda step, module: time.sleep(seconds),
    )


if __name__ == "__main__":
    images, state, out, pause = sys.argv[1:]
    averaged, report = run(Path(images), Path(state), float(pause))
    save_file({name: value.contiguous() for name, value in averaged.state_dict().items()}, out)
    print(json.dumps(report.as_dict()))
