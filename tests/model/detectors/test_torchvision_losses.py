"""HUALE's losses in torchvision's detectors: equal to torchvision's where all is off, by hand where not; side_std."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder

from model.data.dataset import DetectionDataset, LabelledImage
from model.detections import Detections
from model.detectors import factory
from model.detectors.base import View
from model.detectors.ssd import BackgroundSSD, SSDFamily
from model.detectors.torchvision_detector import TorchvisionDetector, family_of
from model.detectors.torchvision_losses import (
    FASTER_RCNN_BETA,
    FASTER_RCNN_IOU_GAIN,
    SSD_IOU_GAIN,
    lent,
    multibox_losses,
    roi_losses,
)
from model.training.config import TrainingConfig
from model.training.losses import DetectionLosses, EIoUMode, LossConfig, eiou_loss

LITE = "ssdlite320_mobilenet_v3_large"
MOBILE = "fasterrcnn_mobilenet_v3_large_fpn"
CODER = BoxCoder((10.0, 10.0, 5.0, 5.0))
ONLY_EIOU = LossConfig(eiou=EIoUMode.SAFE)
NOW = replace(LossConfig.huale(), warm_up=0)
SHORT = TrainingConfig(iterations=2, batch_size=2, workers=0, mixed_precision=False)

Make = Callable[..., TorchvisionDetector]
Noise = Callable[..., NDArray[np.uint8]]


@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param("ssd300_vgg16", marks=pytest.mark.slow),
        LITE,
        pytest.param("fasterrcnn_resnet50_fpn_v2", marks=pytest.mark.slow),
        MOBILE,
    ],
)
def test_with_everything_off_the_loss_is_torchvisions(architecture: str, noise: Noise) -> None:
    family = family_of(architecture)
    torch.manual_seed(0)
    network = family.build(architecture, 2).train()
    size = family.image_size(architecture, 64)
    images = [torch.from_numpy(noise(size, size, seed)).permute(2, 0, 1).float() / 255 for seed in range(2)]
    boxes = torch.tensor([[4.0, 4, 40, 30], [20, 10, 60, 60]])
    targets = [
        {"boxes": boxes, "labels": torch.tensor([1, 2])},
        {"boxes": boxes[:0], "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    layers = [next(layer.parameters()) for layer in family.class_layers(network)]
    results = []
    for losses in (None, DetectionLosses(LossConfig(), 2)):
        torch.manual_seed(1)  # Faster R-CNN samples proposals
        with lent(family.place_of_losses(network), losses):
            found = network(images, targets)
        results.append((found, torch.autograd.grad(sum(found.values()), layers)))
    assert results[0][0].keys() == results[1][0].keys()
    for name, value in results[0][0].items():
        assert float(value.detach()) > 0
        torch.testing.assert_close(results[1][0][name], value, rtol=1e-6, atol=1e-6)
    for one, other in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("images", [["full"], ["full", "empty"], ["empty", "empty"], ["full", "full", "empty"]])
def test_mining_and_divisor_of_ssd_stay(images: list[str]) -> None:
    torch.manual_seed(0)
    network = SSDFamily().build(LITE, 2)
    assert isinstance(network, BackgroundSSD)
    anchors = torch.tensor([[10.0, 10, 30, 30]]).repeat(40, 1) + torch.rand(40, 1) * 5
    targets, matched = [], []
    for number, kind in enumerate(images, start=3):
        count = number if kind == "full" else 0
        targets.append({"boxes": anchors[:count] + 1, "labels": torch.arange(count) % 2 + 1})
        matched.append(torch.where(torch.arange(40) < count, torch.arange(40), -1))
    output = {"cls_logits": torch.randn(len(images), 40, 3), "bbox_regression": torch.randn(len(images), 40, 4)}
    found = []
    for losses in (None, DetectionLosses(LossConfig(), 2)):
        with lent(network, losses):
            found.append(network.compute_loss(targets, output, [anchors] * len(images), matched))
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-6, atol=1e-6)


ANCHOR = torch.tensor([[0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]])
TRUTH = torch.tensor([[5.0, 0.0, 15.0, 10.0]])
EIOU = (1 + 1 / 3) ** 0.8 * (1 - 1 / 3)
"""Of the first anchor with the truth: a third of their union is common, and the union fills the enclosing box."""


def ssd_losses(config: LossConfig, *, variance: float = 0.0) -> dict[str, float]:
    """One image, two anchors of which the first is matched; no offsets, even classes."""
    output = {
        "cls_logits": torch.zeros(1, 2, 3),
        "bbox_regression": torch.zeros(1, 2, 4),
        "log_variance": torch.full((1, 2, 4), variance),
    }
    targets = [{"boxes": TRUTH, "labels": torch.tensor([2])}]
    losses = DetectionLosses(config, 2)
    if config.emphasis:
        losses.box_emphasis.observe(torch.tensor([1]), torch.zeros(1))  # the worst class there can be
    found = multibox_losses(
        losses,
        output,
        targets,
        [ANCHOR],
        [torch.tensor([0, -1])],
        coder=CODER,
        negatives=torch.tensor([1]),
        total=2.0,
    )
    return {name: float(value) for name, value in found.items()}


def rcnn_losses(config: LossConfig, *, variance: float = 0.0) -> dict[str, float]:
    """The same as two proposals; other classes' offsets and variances are not to be looked at."""
    deltas, spread = torch.full((2, 12), 9.0), torch.full((2, 12), 5.0)
    deltas[:, 8:], spread[:, 8:] = 0.0, variance
    found = roi_losses(
        DetectionLosses(config, 2),
        torch.zeros(2, 3),
        deltas,
        spread,
        [torch.tensor([2, 0])],
        [ANCHOR],
        [TRUTH],
        coder=CODER,
    )
    return {name: float(value) for name, value in found.items()}


def test_eiou_compares_decoded_boxes() -> None:
    assert ssd_losses(ONLY_EIOU)["bbox_regression"] == pytest.approx(SSD_IOU_GAIN * EIOU / 2)
    assert rcnn_losses(ONLY_EIOU)["loss_box_reg"] == pytest.approx(FASTER_RCNN_IOU_GAIN * EIOU / 2)


@pytest.mark.parametrize(("gain", "beta"), [(SSD_IOU_GAIN, 1.0), (FASTER_RCNN_IOU_GAIN, FASTER_RCNN_BETA)])
def test_eiou_pulls_as_hard_as_the_loss_that_it_replaces(gain: float, beta: float) -> None:
    off = 0.1 * torch.randn(2000, 4, generator=torch.Generator().manual_seed(0))
    deltas = (off * torch.tensor(CODER.weights)).requires_grad_()
    anchors = torch.tensor([[0.0, 0, 40, 40]]).expand(2000, 4)
    plain = torch.nn.functional.smooth_l1_loss(deltas, torch.zeros_like(deltas), beta=beta, reduction="sum")
    box = gain * eiou_loss(CODER.decode_single(deltas, anchors), anchors).sum()
    pull, wanted = (torch.autograd.grad(loss, deltas)[0].abs().mean() for loss in (box, plain))
    assert float(pull / wanted) == pytest.approx(1, abs=0.1)


def test_variances_attenuate() -> None:
    config = LossConfig(uncertainty=True, warm_up=0)
    # The truth is half a width to the right: 5 encoded, smooth L1 4.5; the other three offsets are right.
    expected = (4.5 * np.exp(-2.0) + 4 * 2.0 / 2) / 2
    assert ssd_losses(config, variance=2.0)["bbox_regression"] == pytest.approx(expected)
    assert rcnn_losses(config, variance=2.0)["loss_box_reg"] == pytest.approx(expected)


def test_emphasis_raises_the_positives_only() -> None:
    found = ssd_losses(replace(ONLY_EIOU, emphasis=True, emphasis_max=1.0, warm_up=0))
    assert found["bbox_regression"] == pytest.approx(2 * SSD_IOU_GAIN * EIOU / 2)
    assert found["classification"] == pytest.approx(2 * np.log(3) / 2)


# ------------------------------------------------------------------ variance head


@pytest.fixture(name="squares", scope="module")
def squares_fixture(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., DetectionDataset]:
    folder = tmp_path_factory.mktemp("squares")
    pixels = np.full((48, 80, 3), 100, np.uint8)
    pixels[10:34, 20:44] = 220
    Image.fromarray(pixels).save(folder / "one.png")
    box, label = np.array([[20, 10, 44, 34]], np.float32), np.zeros(1, np.int64)

    def squares(classes: tuple[str, ...] = ("eel", "cod")) -> DetectionDataset:
        return DetectionDataset(classes, [LabelledImage("1", folder / "one.png", box, label)])

    return squares


@pytest.fixture(name="saved", scope="module", params=[LITE, MOBILE])
def saved_fixture(
    request: pytest.FixtureRequest,
    lively_torchvision: Make,
    squares: Callable[..., DetectionDataset],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A detector that was trained with everything on."""
    detector = lively_torchvision(request.param, ("cod", "eel"))
    report = detector.fit(squares(), None, replace(SHORT, losses=NOW))
    assert np.isfinite(report.last_loss)
    folder = tmp_path_factory.mktemp("saved")
    detector.save(folder)
    return folder


def load(folder: Path) -> Any:
    return factory.load(folder, device="cpu")


def first(detector: Any, image: NDArray[np.uint8], view: View = View.ORIGINAL) -> Detections:
    found: Detections = detector.predict([image], (view,), min_score=0.0)[0][view]
    return found


def variance_layers(detector: Any) -> list[Any]:
    """The layers whose outputs are log variances, last ones."""
    if hasattr(detector.network, "roi_heads"):
        return [detector.network.roi_heads.box_variance]
    return [module[-1] for module in detector.network.head.variance_head.module_list]


def box_layers(detector: Any) -> list[Any]:
    """The layers whose outputs are offsets, likewise."""
    if hasattr(detector.network, "roi_heads"):
        return [detector.network.roi_heads.box_predictor.bbox_pred]
    return [module[-1] for module in detector.network.head.regression_head.module_list]


def variance_rows(detector: Any) -> Tensor:
    return torch.cat([layer.weight.detach().flatten() for layer in variance_layers(detector)])


def test_a_training_with_uncertainty_leaves_a_head_that_is_stored(saved: Path, noise: Noise) -> None:
    assert json.loads((saved / "detector.json").read_text())["variance_head"] is True
    detector = load(saved)
    assert not [name for name in detector.tensors() if "emphasis" in name or "steps" in name]
    found = first(detector, noise(40, 90))
    assert len(found) > 0
    assert found.side_std is not None
    assert found.side_std.shape == (len(found), 4)
    assert np.isfinite(found.side_std).all()
    assert (found.side_std > 0).all()
    assert variance_rows(detector).abs().max() > 1e-4  # it has learned


def test_side_deviations_are_in_pixels_of_the_original_image(saved: Path, noise: Noise) -> None:
    detector = load(saved)
    for layer in box_layers(detector):  # boxes are anchors or proposals, which Faster R-CNN has cut at the border
        layer.weight.data.zero_()
        layer.bias.data.zero_()
    for layer in variance_layers(detector):
        layer.weight.data.zero_()
        # Encoded deviations of x, y, width and height: 1, e^0.5, e, 1, which the coder divides by 10, 10, 5, 5.
        layer.bias.data = torch.tensor([0.0, 1.0, 2.0, 0.0]).repeat(len(layer.bias) // 4)
    for view in (View.ORIGINAL, View.HFLIP):
        found = first(detector, noise(40, 90), view)
        assert found.side_std is not None
        whole = np.full(len(found), detector.architecture == MOBILE)
        whole |= (found.xyxy > 0).all(axis=1) & (found.xyxy < [90, 40, 90, 40]).all(axis=1)
        size = (found.xyxy[:, 2:] - found.xyxy[:, :2])[whole]
        assert len(size) > 3
        expected = size * [np.hypot(0.1, np.e / 10), np.hypot(np.exp(0.5) / 10, 0.1)]
        np.testing.assert_allclose(found.side_std[whole][:, :2], expected, rtol=1e-3)
        np.testing.assert_allclose(found.side_std[:, 2:], found.side_std[:, :2])


def test_the_head_survives_another_class_list(saved: Path, squares: Callable[..., DetectionDataset]) -> None:
    detector = load(saved)
    before = variance_rows(detector)
    still = replace(SHORT, iterations=1, learning_rate=0.0, losses=NOW)
    detector.fit(squares(("ray", "cod", "eel")), None, still)
    after = variance_rows(detector)
    if detector.architecture == LITE:  # no class has a row of its own
        torch.testing.assert_close(after, before)
    else:
        by_class, old = after.view(4, 4, -1), before.view(3, 4, -1)
        # It was trained as (eel, cod), after background.
        torch.testing.assert_close(by_class[[0, 2, 3]], old[[0, 2, 1]])
        assert by_class[1].std() == pytest.approx(1e-4, rel=0.2)


def test_a_training_without_uncertainty_removes_the_head(
    saved: Path, squares: Callable[..., DetectionDataset], noise: Noise, tmp_path: Path
) -> None:
    detector = load(saved)
    detector.fit(squares(), None, replace(SHORT, losses=ONLY_EIOU))
    assert first(detector, noise(40, 90)).side_std is None
    detector.save(tmp_path)
    assert json.loads((tmp_path / "detector.json").read_text())["variance_head"] is False
    assert first(load(tmp_path), noise(40, 90)).side_std is None


def test_a_base_with_the_head_is_taken_with_it(saved: Path, noise: Noise) -> None:
    architecture = json.loads((saved / "detector.json").read_text())["architecture"]
    created = factory.create(architecture, ("cod",), image_size=64, device="cpu", base=saved / "weights.safetensors")
    assert first(created, noise(40, 90)).side_std is not None
