"""SSD and Faster R-CNN through torchvision's networks; Ultralytics is not needed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.data.dataset import DetectionDataset
from model.detections import Detections
from model.detectors.base import Image, View
from model.detectors.canvas import Canvas, draw
from model.detectors.class_rows import rows_of
from model.detectors.family import Family, Found, Network
from model.detectors.faster_rcnn import FasterRCNNFamily
from model.detectors.fitting import CLASS_ROWS_FACTOR, PLACEHOLDER, fit_network, nothing_found, require_boxes
from model.detectors.grouping import alike
from model.detectors.image_views import predict_views
from model.detectors.ssd import SSDFamily
from model.detectors.torchvision_training import TorchvisionTrainable
from model.detectors.torchvision_weights import UNUSED, class_names, load_state, read_state
from model.detectors.weights import load_tensors, read_weights, require_permission, save_folder, warn_of_random_weights
from model.errors import WeightsRefused
from model.training.config import Progress, TrainingConfig, TrainingReport

FAMILIES: tuple[Family, ...] = (SSDFamily(), FasterRCNNFamily())
ARCHITECTURES: tuple[str, ...] = tuple(name for family in FAMILIES for name in family.architectures)


class TorchvisionDetector:
    """An SSD or Faster R-CNN with its class list; see `Detector`.

    Args:
        network: from `Family.build`.
        architecture: one of `ARCHITECTURES`.
        classes: one name per class row; may be empty.
        image_size: pixels of the longer side; rounded up to what the architecture takes.
        device: where it runs.
        pretrained: whether its weights come from a training.
        from_random: whether the first of its trainings began from random weights: few images do not teach a backbone
            enough for its blocks to be worth freezing. None: where it is not pretrained.

    Attributes:
        network: in eval mode, on `device`; each `fit` makes a new one.
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
        self.device = device
        self.pretrained = pretrained
        self.from_random = not pretrained if from_random is None else from_random
        self._family = family_of(architecture)
        self.network = network.to(device, memory_format=torch.channels_last).eval()
        self.image_size = image_size

    @property
    def image_size(self) -> int:
        """Pixels of the longer side that the network sees."""
        return self._image_size

    @image_size.setter
    def image_size(self, wanted: int) -> None:
        self._image_size = self._family.image_size(self.architecture, wanted)

    def predict(
        self, images: Sequence[Image], views: Sequence[View] = (View.ORIGINAL,), *, min_score: float = 0.05
    ) -> list[Mapping[View, Detections]]:
        """See `Detector.predict`. Images of equal padded shape go through the network together.

        Every proposal or anchor gives at most one box, of its winning class; torchvision itself returns one for
        every class above the threshold.
        """
        return predict_views(self._predict, images, views, min_score)

    def _predict(
        self, images: Sequence[Image], views: Sequence[View], *, min_score: float
    ) -> list[Mapping[View, Detections]]:
        if not self.classes:
            return nothing_found(images, views)
        results: list[dict[View, Detections]] = [{} for _ in images]
        canvases = [self._family.canvas(image.shape[0], image.shape[1], self.image_size) for image in images]
        at_once = max(1, self._family.batch.get(self.device.type, 4) // len(views))
        for part in alike([canvas.outer for canvas in canvases], at_once):
            chosen = [canvases[i] for i in part]
            found = self._find([images[i] for i in part], chosen, views, min_score)
            for number, view in enumerate(views):
                for place, index in enumerate(part):
                    results[index][view] = _detections(found[number * len(part) + place], chosen[place], view)
        return list(results)

    def _find(
        self, images: list[Image], canvases: list[Canvas], views: Sequence[View], min_score: float
    ) -> list[Found]:
        """Boxes by view, then image."""
        transform = self.network.transform
        half = self.device.type == "cuda" and self.pretrained  # random weights give numbers too small for it
        with torch.inference_mode(), torch.autocast("cuda", torch.float16) if half else nullcontext():
            pixels = draw(
                images, canvases, views, mean=transform.image_mean, std=transform.image_std, device=self.device
            )
            return self._family.find(self.network, pixels, canvases * len(views), min_score)

    def fit(
        self,
        train: DetectionDataset,
        validation: DetectionDataset | None,
        config: TrainingConfig,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> TrainingReport:
        """See `Detector.fit`.

        `validation` is looked at only with `config.evaluate_every`: choosing by it uses it up.
        With `config.losses.uncertainty` the detector gets a variance head, from which `Detections.side_std` comes. A
        training without removes it: the boxes would move, and the head would go on describing the old ones.
        A training that fails or is cancelled leaves the detector as it was.
        """
        require_boxes(train)
        network = copy.deepcopy(self.network)
        _set_classes(self._family, network, self.classes, train.classes, seed=config.seed)
        _set_variance(self._family, network, config.losses.uncertainty, config.seed)
        averaged, report = fit_network(
            TorchvisionTrainable(
                network.to(memory_format=torch.channels_last),
                self._family,
                len(train.classes),
                CLASS_ROWS_FACTOR,
                config.losses,
            ),
            self,
            train,
            validation,
            config,
            learning_rate=self._family.learning_rate(self.architecture, pretrained=self.pretrained),
            may_freeze=not self.from_random,
            device=self.device,
            detector_of=lambda module: TorchvisionDetector(
                module, self.architecture, train.classes, self.image_size, self.device, pretrained=True
            ),
            stretch=self._family.stretched,
            on_progress=on_progress,
        )
        self.network, self.classes, self.pretrained = averaged, train.classes, True
        return report

    def save(self, folder: Path) -> None:
        """See `Detector.save`."""
        save_folder(folder, self.tensors(), self.description())

    def tensors(self) -> dict[str, Tensor]:
        """Weights and buffers by name."""
        state: dict[str, Tensor] = self.network.state_dict()
        return state

    def description(self) -> dict[str, Any]:
        """What `from_weights` needs besides the tensors, as plain JSON values."""
        return {
            "family": self._family.name,
            "architecture": self.architecture,
            "classes": list(self.classes),
            "image_size": self.image_size,
            "parameters": sum(p.numel() for p in self.network.parameters()),
            "pretrained": self.pretrained,
            "from_random": self.from_random,
            "variance_head": self._family.has_variance(self.network),
        }


def family_of(architecture: str) -> Family:
    """The family of one of `ARCHITECTURES`.

    Raises:
        ValueError: unknown.
    """
    for family in FAMILIES:
        if architecture in family.architectures:
            return family
    raise ValueError(f"unknown architecture {architecture!r}, expected one of {', '.join(ARCHITECTURES)}")


def create(
    architecture: str,
    classes: Sequence[str] | None,
    *,
    image_size: int,
    device: torch.device,
    base: Path | None,
    seed: int,
    allow_pickle: bool,
) -> TorchvisionDetector:
    """A detector with `classes`, None for those of `base`; see `factory.create`."""
    family = family_of(architecture)
    if base is None:
        classes = classes or ()
        network = _build(family, architecture, max(1, len(classes)), seed)
        warn_of_random_weights(architecture)
    else:
        network, known = _from_base(family, architecture, base, allow_pickle=allow_pickle)
        classes = known if classes is None else classes
        _set_classes(family, network, known, classes, seed=seed)
    return TorchvisionDetector(network, architecture, classes, image_size, device, pretrained=base is not None)


def from_weights(path: Path, *, device: torch.device) -> TorchvisionDetector:
    """A detector from a weights file that `TorchvisionDetector.save` wrote."""
    network, description = _restore(path)
    return TorchvisionDetector(
        network,
        description["architecture"],
        tuple(description["classes"]),
        int(description["image_size"]),
        device,
        pretrained=bool(description.get("pretrained", True)),
        from_random=description.get("from_random"),
    )


def _restore(path: Path) -> tuple[Network, dict[str, Any]]:
    tensors, description = read_weights(path)
    architecture = description["architecture"]
    if architecture not in ARCHITECTURES:
        raise WeightsRefused(f"{path} holds a {architecture!r} detector, expected one of {', '.join(ARCHITECTURES)}")
    family = family_of(architecture)
    network = _build(family, architecture, max(1, len(description["classes"])), seed=0)
    _set_variance(family, network, bool(description.get("variance_head", False)), seed=0)
    load_tensors(network, tensors, str(path))
    return network, description


def _from_base(family: Family, architecture: str, path: Path, *, allow_pickle: bool) -> tuple[Network, tuple[str, ...]]:
    if path.suffix == ".safetensors":
        network, description = _restore(path)
        if description["architecture"] != architecture:
            raise WeightsRefused(f"{path} holds a {description['architecture']}, expected a {architecture}")
        return network, tuple(description["classes"])
    require_permission(path, allow_pickle=allow_pickle)
    state = read_state(path)
    rows, names = class_names(architecture, state, path)
    network = _build(family, architecture, rows, seed=0)
    load_state(network, state, path)
    used = tuple(name for name in names if name != UNUSED)
    family.set_rows(network, rows_of(names, used or PLACEHOLDER), torch.Generator().manual_seed(0))
    return network, used


def _build(family: Family, architecture: str, num_classes: int, seed: int) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return family.build(architecture, num_classes)


def _set_variance(family: Family, network: Network, wanted: bool, seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        family.set_variance(network, wanted)


def _set_classes(family: Family, network: Network, old: Sequence[str], new: Sequence[str], *, seed: int) -> None:
    """Give the class head one row per name in `new`; names that are also in `old` keep their weights."""
    if tuple(old) != tuple(new):
        family.set_rows(network, rows_of(old, tuple(new) or PLACEHOLDER), torch.Generator().manual_seed(seed))


def _detections(found: Found, canvas: Canvas, view: View) -> Detections:
    probs = found.probs.cpu().numpy()
    label = found.label.cpu().numpy()
    return Detections(
        xyxy=canvas.to_original(found.xyxy.cpu().numpy(), view),
        score=probs[range(len(label)), label],
        label=label,
        probs=probs,
        height=canvas.height,
        width=canvas.width,
        embedding=found.embedding.cpu().numpy(),
        image_embedding=found.image_embedding.cpu().numpy(),
        side_std=None if found.side_std is None else canvas.std_to_original(found.side_std.cpu().numpy(), view),
    )
