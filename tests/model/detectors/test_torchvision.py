"""What only torchvision's detectors do: loss of empty images, torchvision's weights files, no need of Ultralytics."""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import mobilenet_v3_large, resnet50
from torchvision.models.vgg import cfgs, make_layers

from model.detectors import factory, torchvision_detector, torchvision_weights
from model.detectors.ssd import BackgroundSSD, SSDFamily
from model.detectors.torchvision_detector import ARCHITECTURES, TorchvisionDetector
from model.detectors.torchvision_weights import COCO, COCO_ROWS, backbone_name, fetch_base, with_backbone
from model.detectors.weights import read_weights
from model.errors import WeightsRefused
from tests.model.detectors.file_site import published

LITE = "ssdlite320_mobilenet_v3_large"
MOBILE = "fasterrcnn_mobilenet_v3_large_fpn"


def create(architecture: str, classes: tuple[str, ...] = ("cod",), **options: Any) -> TorchvisionDetector:
    detector = factory.create(architecture, classes, device="cpu", **{"image_size": 64, **options})
    assert isinstance(detector, TorchvisionDetector)
    return detector


def test_the_factory_knows_them_all() -> None:
    assert set(ARCHITECTURES) == set(factory.TORCHVISION) == set(COCO)
    assert set(ARCHITECTURES) < set(factory.architectures())


def test_image_size_is_what_the_architecture_takes() -> None:
    ssd, rcnn = create(LITE, image_size=70), create(MOBILE, image_size=70)
    assert (ssd.image_size, rcnn.image_size) == (96, 96)
    ssd.image_size = rcnn.image_size = 640  # as the product does when its setting has changed
    assert (ssd.image_size, rcnn.image_size) == (320, 640)
    for detector in (ssd, rcnn):
        with pytest.raises(ValueError, match="at least 32"):
            detector.image_size = 31


WITHOUT_ULTRALYTICS = """
import sys
sys.modules["ultralytics"] = None
import numpy as np
from pathlib import Path
from model.data.dataset import DetectionDataset, LabelledImage
from model.detectors import factory
from model.training.config import TrainingConfig
from PIL import Image
folder = Path(sys.argv[1])
Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(folder / "black.png")
box, label = np.array([[5, 5, 30, 30]], np.float32), np.zeros(1, np.int64)
data = DetectionDataset(("cod",), [LabelledImage("1", folder / "black.png", box, label)])
detector = factory.create("ssdlite320_mobilenet_v3_large", (), device="cpu")
detector.fit(data, None, TrainingConfig(iterations=1, batch_size=1, workers=0))
detector.save(folder)
factory.load(folder, device="cpu").predict([np.zeros((40, 60, 3), np.uint8)])
print("done")
"""


def test_ultralytics_is_not_needed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_ULTRALYTICS, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip().endswith("done"), done.stderr


# ------------------------------------------------------------------ loss of images without objects


def ssd_loss(positives: list[int], anchors: int = 40) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Losses of images with so many matched anchors, and the logits; two classes."""
    network = SSDFamily().build(LITE, 2)
    assert isinstance(network, BackgroundSSD)
    generator = torch.Generator().manual_seed(0)
    logits = torch.stack([torch.randn(anchors, 3, generator=generator) for _ in positives]).requires_grad_()
    boxes = torch.tensor([[10.0, 10, 30, 30]]).repeat(anchors, 1)
    targets = [
        {"boxes": boxes[:1], "labels": torch.ones(1, dtype=torch.int64)}
        if count
        else {"boxes": boxes[:0], "labels": torch.zeros(0, dtype=torch.int64)}
        for count in positives
    ]
    matched = [torch.where(torch.arange(anchors) < count, 0, -1) for count in positives]
    output = {"cls_logits": logits, "bbox_regression": torch.ones(len(positives), anchors, 4)}
    return network.compute_loss(targets, output, [boxes] * len(positives), matched), logits


def background_cost(logits: torch.Tensor, count: int) -> float:
    return float((-logits.detach().log_softmax(-1)[:, 0]).sort(descending=True).values[:count].sum())


def test_a_batch_of_empty_images_has_a_loss() -> None:
    losses, logits = ssd_loss([0, 0])
    expected = sum(background_cost(image, 3) for image in logits) / 2
    assert float(losses["classification"].detach()) == pytest.approx(expected, rel=1e-5)
    assert float(losses["bbox_regression"]) == 0
    losses["classification"].backward()
    assert logits.grad is not None
    assert (logits.grad[0].abs().sum(dim=1) > 0).sum() == 3


def test_an_empty_image_counts_as_much_as_the_others() -> None:
    full, logits = ssd_loss([4])
    mixed, both = ssd_loss([4, 0])
    torch.testing.assert_close(both[0], logits[0])
    # Four positives give twelve negatives; the empty image gives twelve too, and counts as four positives.
    expected = (4 * float(full["classification"].detach()) + background_cost(both[1], 12)) / 8
    assert float(mixed["classification"].detach()) == pytest.approx(expected, rel=1e-5)
    assert float(mixed["bbox_regression"]) == pytest.approx(float(full["bbox_regression"]) / 2)


# ------------------------------------------------------------------ weights files


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    folder = tmp_path / "site"
    folder.mkdir()
    with published(folder) as address:
        yield address, folder


def publish(state: dict[str, torch.Tensor], folder: Path) -> str:
    """Write a file as torchvision names it, with its hash at the end."""
    torch.save(state, folder / "raw.pth")
    name = f"coco-{hashlib.sha256((folder / 'raw.pth').read_bytes()).hexdigest()[:8]}.pth"
    (folder / "raw.pth").rename(folder / name)
    return name


def coco_state(architecture: str) -> dict[str, torch.Tensor]:
    """Tensors under the names that torchvision's published file has, of 91 rows."""
    state = dict(create(architecture, tuple(f"c{i}" for i in range(90)), seed=5).tensors())
    if architecture == MOBILE:
        # That file is older than the present names of these layers, and comes from frozen batch normalisation.
        state = {n.replace("rpn.head.conv.0.0.", "rpn.head.conv."): v for n, v in state.items()}
        state = {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")}
    return state


@pytest.mark.parametrize("architecture", [LITE, MOBILE])
def test_coco_weights_are_fetched_once_and_kept_without_pickle(
    architecture: str, site: tuple[str, Path], tmp_path: Path
) -> None:
    address, folder = site
    state = coco_state(architecture)
    url = f"{address}/{publish(state, folder)}"
    found = fetch_base(architecture, tmp_path / "base", url=url)
    assert found == tmp_path / "base" / f"{architecture}.safetensors"
    assert [p.name for p in found.parent.iterdir()] == [found.name]
    _, description = read_weights(found)
    assert len(description["classes"]) == 80
    assert description["classes"][:2] == ["person", "bicycle"]
    assert "N/A" not in description["classes"]
    created = create(architecture, ("zebra", "cod"), base=found)
    assert created.pretrained
    row = COCO_ROWS.index("zebra") + 1
    if architecture == MOBILE:
        predictor = created.network.roi_heads.box_predictor
        torch.testing.assert_close(
            predictor.cls_score.weight[1], state["roi_heads.box_predictor.cls_score.weight"][row]
        )
        wide = state["roi_heads.box_predictor.bbox_pred.weight"].view(91, 4, -1)
        torch.testing.assert_close(predictor.bbox_pred.weight.view(3, 4, -1)[1], wide[row])
    else:
        stored = state["head.classification_head.module_list.0.1.weight"].view(6, 91, -1)
        head = created.network.head.classification_head.module_list[0][1].weight.view(6, 3, -1)
        torch.testing.assert_close(head[:, 1], stored[:, row])
    for file in folder.iterdir():
        file.unlink()
    assert fetch_base(architecture, tmp_path / "base", url=url) == found


def test_the_original_file_in_the_folder_is_enough_without_internet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = publish(coco_state(LITE), tmp_path)
    monkeypatch.setattr(torchvision_weights, "COCO", {**COCO, LITE: f"http://127.0.0.1:9/{name}"})
    monkeypatch.setitem(factory.TORCHVISION_FILES, LITE, name)
    assert factory.find_base(LITE, tmp_path) == tmp_path / f"{LITE}.safetensors"
    (tmp_path / f"{LITE}.safetensors").unlink()
    (tmp_path / name).write_bytes(b"damaged")
    assert factory.find_base(LITE, tmp_path) is None, "none is shipped for it"


@pytest.mark.parametrize("damage", ["missing", "hash", "other network", "no tensors"])
def test_what_cannot_be_had_is_a_warning(
    site: tuple[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    address, folder = site
    name = "coco-00000000.pth"
    if damage == "hash":
        (folder / name).write_bytes(b"something else")
    elif damage == "other network":
        name = publish({"a": torch.zeros(1)}, folder)
    elif damage == "no tensors":
        name = publish({"a": "text"}, folder)  # type: ignore[dict-item]
    with caplog.at_level(logging.WARNING):
        assert fetch_base(LITE, tmp_path / "base", url=f"{address}/{name}") is None
    assert "need many more labels" in caplog.text
    assert not list(tmp_path.glob("base/*"))


def test_pickled_weights_need_permission(tmp_path: Path) -> None:
    path = tmp_path / f"{LITE}.pth"
    torch.save(create(LITE, ("a", "b"), seed=3).tensors(), path)
    assert factory.find_base(LITE, tmp_path) == path
    with pytest.raises(WeightsRefused, match="pickled"):
        create(LITE, base=path)
    allowed = create(LITE, ("a",), base=path, allow_pickle=True)
    name = "backbone.features.0.0.0.weight"
    torch.testing.assert_close(allowed.tensors()[name], torch.load(path, weights_only=True)[name])


def test_bases_of_other_architectures_are_refused(tmp_path: Path) -> None:
    create(LITE).save(tmp_path)
    with pytest.raises(WeightsRefused, match=f"holds a {LITE}, expected a {MOBILE}"):
        create(MOBILE, base=tmp_path / "weights.safetensors")
    shipped = factory.find_base("yolov5n", None)
    with pytest.raises(WeightsRefused, match="yolov5n"):
        create(MOBILE, base=shipped)
    with pytest.raises(ValueError, match="unknown architecture"):
        torchvision_detector.family_of("ssd512")


CLASSIFIERS: dict[str, Callable[[], dict[str, torch.Tensor]]] = {
    LITE: lambda: mobilenet_v3_large(weights=None).state_dict(),
    MOBILE: lambda: mobilenet_v3_large(weights=None).state_dict(),
    "fasterrcnn_resnet50_fpn_v2": lambda: resnet50(weights=None).state_dict(),
    "ssd300_vgg16": lambda: {
        f"features.{n}": v for n, v in make_layers(cfgs["D"], batch_norm=False).state_dict().items()
    },
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_imagenet_weights_fill_the_backbone(architecture: str) -> None:
    detector, state = create(architecture), CLASSIFIERS[architecture]()
    copied = with_backbone(architecture, detector.network, state)
    own = detector.tensors()
    places = {place: value for n, value in state.items() if (place := backbone_name(architecture, n)) is not None}
    assert places.keys() <= own.keys()
    fitting = [name for name, value in places.items() if own[name].shape == value.shape]
    assert copied == len(fitting)
    for name in fitting:
        assert torch.equal(own[name], places[name]), name
    # SSDlite's last layers have half the channels of the classifier's.
    body = {n for n in own if n.startswith(("backbone.body.", "backbone.features.", "backbone.extra.0."))}
    left = {n for n in body - set(fitting) if ".extra.0.7." not in n}
    assert (
        all(n.startswith("backbone.features.1.") or ".extra.0." in n for n in left)
        if architecture == LITE
        else not left
    )


def test_an_imagenet_base(site: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = site
    name = publish(CLASSIFIERS[MOBILE](), folder)
    found = fetch_base(MOBILE, tmp_path, imagenet=True, url=f"{address}/{name}")
    assert found == tmp_path / f"{MOBILE}-imagenet.safetensors"
    created = create(MOBILE, ("cod", "eel"), base=found)
    assert (created.classes, created.pretrained) == (("cod", "eel"), True)
