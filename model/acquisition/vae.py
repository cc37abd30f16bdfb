"""An autoencoder of the labelled images: what it redraws badly, it has not seen.

Only labelled images train it, so that the error of an image says how far it is from what is labelled. Pictures of it
are square and small: crops of objects, or the whole image squeezed; training and judging cut them by one function.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.acquisition.config import Regions, StrategyConfig
from model.acquisition.vae_network import SMALLEST, VaeNetwork, create_network, kl_divergence, reconstruction_error
from model.detectors.base import Image
from model.detectors.weights import load_tensors
from model.errors import WeightsRefused

Pictures = NDArray[np.uint8]
"""Shape (n, size, size, 3), RGB."""

WEIGHTS_NAME = "vae.safetensors"
REPORT_NAME = "vae.json"
FORMAT = 2
_HEADER_KEY = "vae"
_BATCH = 256
_LEAST_VARIANCE = 1e-4
_CONTRAST_POWER = 0.75
"""Of the variance. The error of known objects grows with its power 0.55 to 0.65; dividing by 0.7 to 0.8 told unknown
ones from them best, and hardly differed within that range."""
_SIZES = {Regions.OBJECTS: 32, Regions.IMAGE: 64}


@dataclass(frozen=True, slots=True)
class VaeConfig:
    """Settings of an autoencoder and of its training.

    Attributes:
        regions: `objects` or `image`: which part of an image is a picture.
        size: pixels per side of a picture, a multiple of 16.
        latent: numbers that a picture is squeezed into.
        iterations: optimizer steps.
        batch_size: pictures per step, at least 2.
        learning_rate: peak of Adam's, after warm-up.
        pixel_std: deviation of a colour value that is as good as none; sets the weight of the divergence
            (`vae_network.vae_loss`).
        seed: of the weights, of sampling and of the noise.

    Raises:
        ValueError: a value that no network or training has.
    """

    regions: str = Regions.OBJECTS.value
    size: int = _SIZES[Regions.OBJECTS]
    latent: int = 128
    iterations: int = 1000
    batch_size: int = 32
    learning_rate: float = 2e-3
    pixel_std: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if self.regions not in [region.value for region in Regions]:
            raise ValueError(f"regions is {self.regions!r}, expected one of: {', '.join(r.value for r in Regions)}")
        if self.size < SMALLEST or self.size % SMALLEST:
            raise ValueError(f"size is {self.size}, expected a multiple of {SMALLEST}")
        for name in ("latent", "iterations", "batch_size", "learning_rate", "pixel_std"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected more than 0")
        if self.batch_size < 2:
            raise ValueError(f"batch_size is {self.batch_size}, expected 2 or more: batches are normalised")

    @classmethod
    def of(cls, config: StrategyConfig, seed: int) -> VaeConfig:
        """What a strategy's settings ask for."""
        size = _SIZES[Regions(config.vae_regions)]
        return cls(regions=config.vae_regions, size=size, iterations=int(config.vae_iterations), seed=seed)


class Vae:
    """A trained autoencoder.

    Args:
        network: of the size and latent length that `config` says.
        config: of its training.
        device: that it runs on.
    """

    def __init__(self, network: VaeNetwork, config: VaeConfig, device: torch.device | str = "cpu") -> None:
        self.config = config
        self.network = network.to(device).eval()
        self._device = torch.device(device)

    def novelty(
        self,
        images: Sequence[Image],
        boxes: Sequence[NDArray[np.float32]] | None = None,
        weights: Sequence[NDArray[np.float32]] | None = None,
    ) -> NDArray[np.float32]:
        """How badly each image is redrawn.

        Args:
            images: RGB, any sizes; may be empty.
            boxes: with `objects` as regions, for each image the boxes of its objects, shape (k, 4), in pixels. Not
                used, and not needed, where the region is the whole image.
            weights: with `objects` as regions, for each image how much each of its boxes counts, shape (k,), in
                [0, 1]: the confidence of detections. Only their ratios within an image matter. None where all count
                alike, as true boxes do.

        Returns:
            Shape (n,), at least 0, higher is more novel. Of a whole image the mean squared error of a colour value,
            colours in [0, 1]; of an object that of the middle half of its box, by the contrast there (`_novelty`); of
            several the root of the weighted mean of their squares (`_together`). 0 for an image without an object.

        Raises:
            ValueError: there are no boxes where they are needed, not one array per image, or not one weight per box.
        """
        if self.config.regions == Regions.IMAGE:
            boxes, weights = None, None
        elif boxes is None or len(boxes) != len(images):
            found = "none" if boxes is None else f"those of {len(boxes)}"
            raise ValueError(f"this autoencoder judges objects: {found} boxes for {len(images)} images, expected all")
        cut = [
            pictures(image, None if boxes is None else boxes[index], self.config) for index, image in enumerate(images)
        ]
        counts = [len(part) for part in cut]
        if weights is None:
            weights = [np.ones(count, np.float32) for count in counts]
        if [len(part) for part in weights] != counts:
            raise ValueError(f"weights of {[len(part) for part in weights]} objects, expected those of {counts}")
        if not sum(counts):
            return np.zeros(len(images), np.float32)
        each, owner = self.errors(np.concatenate(cut)).novelty, np.repeat(np.arange(len(images)), counts)
        return _together(each, np.concatenate(weights), owner, len(images))

    @torch.no_grad()
    def errors(self, pictures: Pictures) -> PictureErrors:
        """What the autoencoder makes of pictures that `pictures` cut, without noise; n may be 0."""
        judged: list[Tensor] = [torch.zeros(3, 0)]
        for start in range(0, len(pictures), _BATCH):
            batch = to_tensor(pictures[start : start + _BATCH], self._device)
            posterior = self.network.encode(batch)
            redrawn = self.network.decode(posterior.mean)
            parts = (
                self._novelty(batch, redrawn),
                reconstruction_error(batch, redrawn),
                kl_divergence(posterior),
            )
            judged.append(torch.stack(parts).cpu())
        return PictureErrors(*torch.cat(judged, dim=1).numpy().astype(np.float32))

    def save(self, folder: Path, report: dict[str, Any] | None = None) -> None:
        """Write `vae.safetensors`, which is all that `load_vae` needs, and `vae.json` for people, into `folder`.

        Each appears under its name only when it is complete.
        """
        folder.mkdir(parents=True, exist_ok=True)
        document = {"format": FORMAT, "config": asdict(self.config)}
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.network.state_dict().items()}
        temporary = folder / f".{WEIGHTS_NAME}.{os.getpid()}.tmp"
        save_file(tensors, temporary, metadata={"format": "pt", _HEADER_KEY: json.dumps(document)})
        os.replace(temporary, folder / WEIGHTS_NAME)
        temporary = folder / f".{REPORT_NAME}.{os.getpid()}.tmp"
        temporary.write_text(json.dumps(document | {"report": report}, indent=2) + "\n")
        os.replace(temporary, folder / REPORT_NAME)

    def _novelty(self, shown: Tensor, redrawn: Tensor) -> Tensor:
        """Of whole images the error as it is; of objects that of the middle of the box, relative to its contrast.

        The corners of a box show water and neighbours; and murky water takes away contrast, and error with it.
        """
        if self.config.regions == Regions.IMAGE:
            return reconstruction_error(shown, redrawn)
        edge = self.config.size // 4
        inner, again = (part[..., edge:-edge, edge:-edge] for part in (shown, redrawn))
        contrast = inner.var(dim=(2, 3), correction=0).mean(dim=1)
        return reconstruction_error(inner, again) / (contrast + _LEAST_VARIANCE) ** _CONTRAST_POWER


@dataclass(frozen=True, slots=True, eq=False)
class PictureErrors:
    """What an autoencoder makes of n pictures; each of shape (n,), float32.

    Attributes:
        novelty: see `Vae.novelty`.
        whole: mean squared error of the whole picture, as the training lowers it.
        kl: divergence of the posterior from the standard normal, nats.
    """

    novelty: NDArray[np.float32]
    whole: NDArray[np.float32]
    kl: NDArray[np.float32]


def _together(
    errors: NDArray[np.float32], weights: NDArray[np.float32], owner: NDArray[np.int64], count: int
) -> NDArray[np.float32]:
    """The root of the weighted mean of the squared errors of each image's objects.

    It lies between their mean and the worst of them. The mean alone hides one new object among known ones; the worst
    alone is bad by chance where there are many. And a box that hardly is one for the detector shows water or half a
    fish, which is redrawn badly whatever is in the image, so that it must not count as much as the others.

    Args:
        errors: shape (m,), of all objects.
        weights: shape (m,), at least 0. Where all of an image are 0, they count alike.
        owner: shape (m,), each in [0, count), the image of each object.
        count: of the images.

    Returns:
        Shape (count,), 0 for an image without an object.
    """
    exact = weights.astype(np.float64)
    exact = np.where(np.bincount(owner, exact, count)[owner] > 0, exact, 1.0)
    squares = np.bincount(owner, exact * errors.astype(np.float64) ** 2, count)
    total = np.bincount(owner, exact, count)
    return np.sqrt(np.divide(squares, total, out=np.zeros(count), where=total > 0)).astype(np.float32)


def pictures(image: Image, boxes: NDArray[np.float32] | None, config: VaeConfig) -> Pictures:
    """The pictures that an image gives: one per box, or one of the whole image, squeezed to a square.

    Boxes are cut at the image's border; one without area inside it is one pixel large.
    """
    height, width = image.shape[:2]
    whole = np.array([[0, 0, width, height]], np.float32)
    regions = whole if config.regions == Regions.IMAGE or boxes is None else boxes
    result = np.zeros((len(regions), config.size, config.size, 3), np.uint8)
    for place, (left, top, right, bottom) in enumerate(regions):
        x = int(np.clip(np.floor(left), 0, width - 1))
        y = int(np.clip(np.floor(top), 0, height - 1))
        part = image[y : max(y + 1, int(np.ceil(bottom))), x : max(x + 1, int(np.ceil(right)))]
        result[place] = cv2.resize(part, (config.size, config.size), interpolation=cv2.INTER_AREA)
    return result


def to_tensor(pictures: Pictures, device: torch.device | str) -> Tensor:
    """Shape (n, 3, size, size), colours in [0, 1]."""
    return torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float() / 255.0


def has_vae(folder: Path) -> bool:
    """Whether `Vae.save` wrote to a folder."""
    return (folder / WEIGHTS_NAME).is_file()


def load_vae(folder: Path, *, device: torch.device | str = "cpu") -> Vae:
    """An autoencoder that `Vae.save` wrote.

    Raises:
        WeightsRefused: no such file, damaged, of a newer format, or of another network.
    """
    path = folder / WEIGHTS_NAME
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = (file.metadata() or {}).get(_HEADER_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise WeightsRefused(f"{path} cannot be read as safetensors: {error}") from error
    if header is None:
        raise WeightsRefused(f"{path} does not describe itself, expected a file that this program wrote; train again")
    document = json.loads(header)
    if document["format"] != FORMAT:
        then = "install a newer version" if document["format"] > FORMAT else "train again"
        raise WeightsRefused(f"{path} has format {document['format']}, this program reads {FORMAT}: {then}")
    config = VaeConfig(**document["config"])
    network = create_network(config.size, config.latent, config.seed)
    load_tensors(network, tensors, str(path))
    return Vae(network, config, device)
