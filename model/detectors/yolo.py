"""YOLO through Ultralytics' networks, without Ultralytics' predictor and trainer."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.data.dataset import DetectionDataset
from model.detections import Detections
from model.detectors.base import Image, View
from model.detectors.fitting import CLASS_ROWS_FACTOR, PLACEHOLDER, fit_network, nothing_found, require_boxes
from model.detectors.grouping import alike
from model.detectors.image_views import predict_views
from model.detectors.letterbox import STRIDE, Letterbox, stack
from model.detectors.weights import load_tensors, read_weights, require_permission, save_folder, warn_of_random_weights
from model.detectors.yolo_decode import detections_of
from model.detectors.yolo_network import (
    PARAMETERS,
    Network,
    YoloTrainable,
    build,
    check_size,
    class_width,
    detect_head,
    network_description,
    read_ultralytics_file,
    set_classes,
)
from model.errors import WeightsRefused
from model.training.config import Progress, TrainingConfig, TrainingReport

logger = logging.getLogger(__name__)

FAMILY = "yolo"
BATCH = {"cpu": 16, "cuda": 32}
"""Images per forward pass."""
LEARNING_RATE = 2e-3
"""For a start from pretrained weights. On 40 generated images and 150 steps, 4e-3 and an unfrozen backbone did the same
(single runs)."""
LEARNING_RATE_FROM_RANDOM = 4e-3


class YoloDetector:
    """A YOLO network with its class list; see `Detector`.

    Args:
        network: on any device, not fused.
        architecture: name or YAML path that it was built from.
        classes: one name per row of the class head; may be empty.
        image_size: pixels of the longer side; rounded up to a multiple of 32.
        device: where it runs.
        pretrained: whether its weights come from a training.
        from_random: whether the first of its trainings began from random weights: few images do not teach a backbone
            enough for its blocks to be worth freezing. None: where it is not pretrained.
    """

    def __init__(
        self,
        network: Network,
        architecture: str,
        classes: Sequence[str],
        image_size: int,
        device: torch.device,
        *,
        pretrained: bool,
        from_random: bool | None = None,
    ) -> None:
        self.architecture = architecture
        self.classes = tuple(classes)
        self.image_size = image_size
        self.device = device
        self.pretrained = pretrained
        self.from_random = not pretrained if from_random is None else from_random
        self._network = network.to(device).eval()
        self._inference: Network | None = None

    @property
    def image_size(self) -> int:
        """Pixels of the longer side that the network sees."""
        return self._image_size

    @image_size.setter
    def image_size(self, wanted: int) -> None:
        if wanted < STRIDE:
            raise ValueError(f"image size {wanted} is too small, expected at least {STRIDE}")
        self._image_size = -(-wanted // STRIDE) * STRIDE
        if self._image_size != wanted:
            logger.warning("Image size %d is no multiple of %d, taking %d", wanted, STRIDE, self._image_size)

    def predict(
        self, images: Sequence[Image], views: Sequence[View] = (View.ORIGINAL,), *, min_score: float = 0.05
    ) -> list[Mapping[View, Detections]]:
        """See `Detector.predict`. Images of equal padded shape go through the network together."""
        return predict_views(self._predict, images, views, min_score)

    def _predict(
        self, images: Sequence[Image], views: Sequence[View], *, min_score: float
    ) -> list[Mapping[View, Detections]]:
        if not self.classes:
            return nothing_found(images, views)
        results: list[dict[View, Detections]] = [{} for _ in images]
        boxes = [Letterbox.fit(image.shape[0], image.shape[1], self.image_size) for image in images]
        at_once = max(1, BATCH.get(self.device.type, 16) // len(views))
        for part in alike([box.canvas for box in boxes], at_once):
            found = self._predict_batch([images[i] for i in part], [boxes[i] for i in part], views, min_score)
            for index, by_view in zip(part, found, strict=True):
                results[index].update(by_view)
        return list(results)

    def _predict_batch(
        self, images: list[Image], boxes: list[Letterbox], views: Sequence[View], min_score: float
    ) -> list[dict[View, Detections]]:
        network = self._inference_network()
        half = self.device.type == "cuda" and self.pretrained  # random weights give numbers too small for it
        with torch.inference_mode():
            pixels = torch.from_numpy(stack(images, boxes)).to(self.device).permute(0, 3, 1, 2).float().div_(255)
            batch = torch.cat([pixels.flip(3) if view is View.HFLIP else pixels for view in views])
            with torch.autocast(self.device.type, torch.float16) if half else nullcontext():
                output = network(batch.contiguous(memory_format=torch.channels_last))
            all_views = [view for view in views for _ in images]
            found = detections_of(detect_head(network), output, boxes * len(views), all_views, min_score)
        return [{view: found[k * len(images) + i] for k, view in enumerate(views)} for i in range(len(images))]

    def _inference_network(self) -> Network:
        """A fused copy, whose head gives its raw output; made once per set of weights."""
        if self._inference is None:
            network = copy.deepcopy(self._network).eval().fuse(verbose=False)
            # Only the head's own flag: it then skips decoding, which we do in full precision.
            network.model[-1].training = True
            self._inference = network.to(memory_format=torch.channels_last)
        return self._inference

    def fit(
        self,
        train: DetectionDataset,
        validation: DetectionDataset | None,
        config: TrainingConfig,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> TrainingReport:
        """See `Detector.fit`.

        Without `config.evaluate_every`, `validation` is not looked at: choosing by it would use it up.
        A training that fails or is cancelled leaves the detector as it was.
        """
        require_boxes(train)
        network = copy.deepcopy(self._network)
        set_classes(network, self.classes, train.classes, seed=config.seed)
        averaged, report = fit_network(
            YoloTrainable(network.to(memory_format=torch.channels_last), CLASS_ROWS_FACTOR, config.losses),
            self,
            train,
            validation,
            config,
            learning_rate=LEARNING_RATE if self.pretrained else LEARNING_RATE_FROM_RANDOM,
            may_freeze=not self.from_random,
            device=self.device,
            detector_of=lambda module: YoloDetector(
                module, self.architecture, train.classes, self.image_size, self.device, pretrained=True
            ),
            on_progress=on_progress,
        )
        self._adopt(averaged, train.classes)
        return report

    def _adopt(self, network: Network, classes: tuple[str, ...]) -> None:
        self._network, self._inference = network, None
        self.classes, self.pretrained = classes, True

    def save(self, folder: Path) -> None:
        """See `Detector.save`."""
        save_folder(folder, self.tensors(), self.description())

    def tensors(self) -> dict[str, Tensor]:
        """Weights and buffers by name."""
        return self._network.state_dict()

    def description(self) -> dict[str, Any]:
        """What `from_weights` needs besides the tensors, as plain JSON values."""
        return {
            "family": FAMILY,
            "architecture": self.architecture,
            "classes": list(self.classes),
            "image_size": self.image_size,
            "parameters": sum(p.numel() for p in self._network.parameters()),
            "pretrained": self.pretrained,
            "from_random": self.from_random,
            "layers": {k: v for k, v in self._network.yaml.items() if k not in ("ch", "channels", "yaml_file")},
        }


def create(
    architecture: str,
    classes: Sequence[str] | None,
    *,
    image_size: int,
    device: torch.device,
    base: Path | None,
    seed: int,
    allow_pickle: bool,
) -> YoloDetector:
    """A detector with `classes`, None for those of `base`; see `factory.create`."""
    if architecture.endswith(".pt"):
        base = Path(architecture)
    if base is not None:
        network, known, name = _from_base(base, allow_pickle=allow_pickle)
        if name is not None and architecture in PARAMETERS and name != architecture:
            raise WeightsRefused(f"{base} holds a {name}, expected a {architecture}")
        classes = known if classes is None else classes
        set_classes(network, known, tuple(classes) or PLACEHOLDER, seed=seed)
    else:
        classes = classes or ()
        network = build(network_description(architecture), max(1, len(classes)), seed=seed)
        warn_of_random_weights(architecture)
    check_size(architecture, network)
    return YoloDetector(network, architecture, classes, image_size, device, pretrained=base is not None)


def from_weights(path: Path, *, device: torch.device) -> YoloDetector:
    """A detector from a weights file that `YoloDetector.save` wrote."""
    tensors, description = read_weights(path)
    network = _restore(tensors, description, str(path))
    return YoloDetector(
        network,
        description["architecture"],
        tuple(description["classes"]),
        int(description["image_size"]),
        device,
        pretrained=bool(description.get("pretrained", True)),
        from_random=description.get("from_random"),
    )


def _restore(tensors: dict[str, Tensor], description: Mapping[str, Any], source: str) -> Network:
    if description["family"] != FAMILY or "layers" not in description:
        raise WeightsRefused(f"{source} holds a {description['family']!r} detector, expected {FAMILY!r}")
    network = build(description["layers"], max(1, len(description["classes"])), class_width=class_width(tensors))
    load_tensors(network, tensors, source)
    check_size(description["architecture"], network)
    return network


def _from_base(path: Path, *, allow_pickle: bool) -> tuple[Network, tuple[str, ...], str | None]:
    """Network, its class names, and the architecture's name where the file says it."""
    if path.suffix == ".safetensors":
        tensors, description = read_weights(path)
        return _restore(tensors, description, str(path)), tuple(description["classes"]), description["architecture"]
    require_permission(path, allow_pickle=allow_pickle)
    stored, names = read_ultralytics_file(path)
    tensors = {
        name: value.float() if value.is_floating_point() else value for name, value in stored.state_dict().items()
    }
    layers = {key: value for key, value in stored.yaml.items() if key not in ("ch", "channels", "yaml_file")}
    network = build(layers, len(names), class_width=class_width(tensors))
    load_tensors(network, tensors, str(path))
    return network, names, None
