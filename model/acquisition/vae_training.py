"""Trains the autoencoder of `vae` on labelled images, and says how well it redraws them and others."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.acquisition.config import Regions
from model.acquisition.hashing import uniform
from model.acquisition.vae import Pictures, Vae, VaeConfig, pictures, to_tensor
from model.acquisition.vae_network import create_network, vae_loss
from model.data.dataset import DetectionDataset, LabelledImage
from model.errors import ImageUnreadable, NotEnoughLabels
from model.images import load_image
from model.training.config import Progress

PHASE = "autoencoder"
MOST_IMAGES = 5000
"""Images that are read, drawn at random where there are more."""
MOST_PICTURES = 20_000
"""Pictures that are kept in memory (60 MB of 32 x 32 pixels, 250 MB of 64 x 64), drawn at random where there are more.
A training of 1,000 steps with 32 pictures each draws little more than that."""
_READERS = 4
_WARM_UP = 0.1
_CLIP = 5.0


@dataclass(frozen=True, slots=True)
class VaeMetrics:
    """How an autoencoder does on some pictures, without noise.

    Attributes:
        pictures: how many, at least 1.
        reconstruction: mean squared error of a colour value, colours in [0, 1].
        kl: divergence of the posterior from the standard normal, nats per picture.
        edge_correlation: Pearson's, of the pictures' errors with the energy of their edges: near 1 where novelty is
            little more than texture; None for fewer than three pictures or where either does not vary.
    """

    pictures: int
    reconstruction: float
    kl: float
    edge_correlation: float | None


@dataclass(frozen=True, slots=True)
class VaeReport:
    """What a training of an autoencoder did.

    Attributes:
        config: its settings.
        images: that were read.
        iterations: steps done.
        seconds: wall time.
        train: on the pictures that it was trained on.
        held_out: on others; None where there were none.
        skipped: images that could not be read, one sentence each.
    """

    config: VaeConfig
    images: int
    iterations: int
    seconds: float
    train: VaeMetrics
    held_out: VaeMetrics | None
    skipped: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a JSON document."""
        return asdict(self) | {"skipped": list(self.skipped)}


def fit_vae(
    train: DetectionDataset,
    validation: DetectionDataset | None,
    config: VaeConfig,
    on_progress: Callable[[Progress], None] | None = None,
    *,
    device: torch.device | str = "cpu",
) -> tuple[Vae, VaeReport]:
    """Train an autoencoder on labelled images; the same inputs give the same weights on a CPU.

    With `objects` as regions the pictures are the labelled boxes; images without one then teach nothing.

    Args:
        train: labelled images, at least one that can be read; the only ones that are trained on.
        validation: others that it is measured on.
        config: settings.
        on_progress: called after each step; what it raises ends the training.
        device: that trains.

    Raises:
        NotEnoughLabels: there is no picture to train on.
    """
    started = time.monotonic()
    known, images, skipped = _read(train, config)
    if not len(known):
        what = "labelled box" if config.regions == Regions.OBJECTS else "labelled image"
        raise NotEnoughLabels(
            f"no {what} in {len(train)} images ({len(skipped)} could not be read), but the autoencoder needs at least "
            "one; label some, or choose another strategy than al_vae"
        )
    vae = train_on(known, config, on_progress, device)
    held_out, _, others = _read(validation, config) if validation is not None else (known[:0], 0, [])
    report = VaeReport(
        config=config,
        images=images,
        iterations=config.iterations,
        seconds=round(time.monotonic() - started, 3),
        train=measure(vae, known),
        held_out=measure(vae, held_out) if len(held_out) else None,
        skipped=(*skipped, *others),
    )
    return vae, report


def measure(vae: Vae, shown: Pictures) -> VaeMetrics:
    """How an autoencoder does on pictures, at least one."""
    errors = vae.errors(shown)
    return VaeMetrics(
        len(shown), float(errors.whole.mean()), float(errors.kl.mean()), _correlation(errors.whole, _edges(shown))
    )


def train_on(
    known: Pictures,
    config: VaeConfig,
    on_progress: Callable[[Progress], None] | None = None,
    device: torch.device | str = "cpu",
) -> Vae:
    """Train an autoencoder on pictures, at least one; otherwise as `fit_vae`."""
    network = create_network(config.size, config.latent, config.seed).to(device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    # Chance is drawn on the CPU, whose generator gives the same numbers everywhere.
    chance = torch.Generator().manual_seed(config.seed)
    started = time.monotonic()
    for step in range(config.iterations):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _schedule(step / config.iterations)
        chosen = torch.randint(len(known), (config.batch_size,), generator=chance)
        mirrored = torch.rand(config.batch_size, generator=chance) < 0.5
        noise = torch.randn(config.batch_size, config.latent, generator=chance).to(device)
        batch = to_tensor(known[chosen.numpy()], device)
        batch = torch.where(mirrored.to(device)[:, None, None, None], batch.flip(3), batch)
        loss = vae_loss(network, batch, noise, config.pixel_std)
        optimizer.zero_grad()
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), _CLIP)
        optimizer.step()
        if on_progress is not None:
            done = step + 1
            left = (time.monotonic() - started) / done * (config.iterations - done)
            epoch = done * config.batch_size / len(known)
            on_progress(Progress(PHASE, done, config.iterations, epoch, float(loss.total.detach()), left))
    return Vae(network, config, device)


def _schedule(done: float) -> float:
    """Share of the learning rate: a short rise, then half a cosine."""
    return done / _WARM_UP if done < _WARM_UP else 0.5 * (1 + math.cos(math.pi * (done - _WARM_UP) / (1 - _WARM_UP)))


def _read(dataset: DetectionDataset, config: VaeConfig) -> tuple[Pictures, int, list[str]]:
    """The pictures, how many images were read, and a sentence for each that could not be."""
    chosen = [dataset.images[place] for place in _drawn(len(dataset), MOST_IMAGES, config.seed)]
    boxes = _boxes(chosen, config)

    def read(image: LabelledImage, xyxy: NDArray[np.float32]) -> Pictures | str:
        try:
            return pictures(load_image(image.path), xyxy, config)
        except (ImageUnreadable, OSError) as error:
            return f"{image.key}: {error}"

    with ThreadPoolExecutor(_READERS, thread_name_prefix="decode") as pool:
        made = list(pool.map(read, chosen, boxes))
    parts = [part for part in made if not isinstance(part, str)]
    nothing = np.zeros((0, config.size, config.size, 3), np.uint8)
    return np.concatenate([nothing, *parts]), len(parts), [part for part in made if isinstance(part, str)]


def _boxes(images: Sequence[LabelledImage], config: VaeConfig) -> list[NDArray[np.float32]]:
    """The boxes of each image that become pictures; of whole images they are not looked at."""
    boxes = [image.xyxy for image in images]
    total = sum(map(len, boxes))
    if config.regions != Regions.OBJECTS or total <= MOST_PICTURES:
        return boxes
    kept = np.zeros(total, bool)
    kept[_drawn(total, MOST_PICTURES, config.seed)] = True
    ends = np.cumsum([len(part) for part in boxes])[:-1]
    return [part[mine] for part, mine in zip(boxes, np.split(kept, ends), strict=True)]


def _drawn(count: int, most: int, seed: int) -> NDArray[np.int64]:
    """At most `most` of `count` positions, ascending; the same again with the same seed."""
    if count <= most:
        return np.arange(count)
    return np.sort(uniform(np.arange(count), seed).argsort(kind="stable")[:most])


def _edges(shown: Pictures) -> NDArray[np.float64]:
    """Mean squared difference of neighbouring colour values of each picture."""
    result = np.empty(len(shown), np.float64)
    for place, picture in enumerate(shown):  # all at once they would be gigabytes
        values = picture.astype(np.float64) / 255.0
        result[place] = np.square(np.diff(values, axis=0)).mean() + np.square(np.diff(values, axis=1)).mean()
    return result


def _correlation(first: NDArray[np.float32], second: NDArray[np.float64]) -> float | None:
    if len(first) < 3 or first.std() == 0 or second.std() == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])
