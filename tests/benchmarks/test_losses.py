"""What `benchmarks.losses` does beside training: a backbone that one detector lends to another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks._losses_plan import FASTER_RCNN, SSD
from benchmarks.losses import lend_blocks
from model.detectors import factory
from model.detectors.torchvision_detector import TorchvisionDetector


def _made(name: str, seed: int) -> TorchvisionDetector:
    detector = factory.create(name, ["fish"], image_size=64, device="cpu", base=None, seed=seed)
    assert isinstance(detector, TorchvisionDetector)
    return detector


def test_faster_rcnn_computes_the_same_with_the_blocks_of_ssdlite(tmp_path: Path) -> None:
    lender, taker = _made(SSD, 1), _made(FASTER_RCNN, 2)
    lender.save(tmp_path)
    lend_blocks(tmp_path / "weights.safetensors", taker, 13)

    image = torch.rand(1, 3, 64, 64)
    given, taken = lender.network.backbone.features[0].eval(), taker.network.backbone.body.eval()
    with torch.no_grad():
        expected, found = image, image
        for number in range(13):
            expected, found = given[number](expected), taken[str(number)](found)
    torch.testing.assert_close(found, expected)


def test_narrower_blocks_cannot_be_lent(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0 to 12"):
        lend_blocks(tmp_path / "weights.safetensors", _made(FASTER_RCNN, 2), 14)
