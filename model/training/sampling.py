"""Reads training images, keeps them small in memory, and joins augmented ones into batches.

A batch depends only on the seed and its position, never on thread timing, so a training can be repeated exactly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

import cv2
import numpy as np
from numpy.typing import NDArray

from model.data.dataset import DetectionDataset, LabelledImage
from model.errors import ImageUnreadable, NotEnoughLabels
from model.images import load_image
from model.training.augmentation import Augmentation, Sample, mosaic, single

CACHE_BYTES = 1 << 29
"""Decoded images kept in memory; what does not fit is decoded again each time it is drawn."""
CACHE_BYTES_CUDA = 1 << 30
"""The same for a training on a GPU, which waits for images sooner and keeps activations in memory of its own. On a CPU,
YOLOv5n with 16 images of 640 pixels takes 1.8 GB (bfloat16) to 2.4 GB (float32) before the first image is kept."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What one optimizer step takes.

    Attributes:
        images: shape (b, size, size, 3), uint8, RGB.
        xyxy: b arrays of shape (n, 4), float32, pixels of the image; n may be 0.
        label: b arrays of shape (n,), int64.
    """

    images: NDArray[np.uint8]
    xyxy: tuple[NDArray[np.float32], ...]
    label: tuple[NDArray[np.int64], ...]


def cache_bytes(device_type: str) -> int:
    """Memory for decoded images in a training on a device of this type."""
    return CACHE_BYTES_CUDA if device_type == "cuda" else CACHE_BYTES


class ImageStore:
    """The images of a data set at training size, decoded at most once while they fit into memory.

    Args:
        images: to read.
        size: pixels of the longer side.
        max_bytes: memory for decoded images.
        stretch: fill a square of side `size` instead of keeping the proportions.

    Attributes:
        skipped: one sentence per image that could not be read.
    """

    def __init__(
        self, images: Sequence[LabelledImage], size: int, max_bytes: int = CACHE_BYTES, *, stretch: bool = False
    ) -> None:
        self._images = images
        self._size = size
        self._stretch = stretch
        self._room = max_bytes
        self._kept: dict[int, Sample] = {}
        self._unreadable: dict[int, str] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._images)

    @property
    def skipped(self) -> tuple[str, ...]:
        """One sentence per image that could not be read, in the order of the data set."""
        return tuple(text for _, text in sorted(self._unreadable.items()))

    def get(self, index: int) -> Sample:
        """The image at `index`, or the next readable one after it.

        Raises:
            NotEnoughLabels: no image can be read.
        """
        for step in range(len(self._images)):
            sample = self._read((index + step) % len(self._images))
            if sample is not None:
                return sample
        raise NotEnoughLabels(
            f"none of the {len(self._images)} training images can be read; the first problem: {self.skipped[:1]}"
        )

    def _read(self, index: int) -> Sample | None:
        if index in self._unreadable:
            return None
        sample = self._kept.get(index)
        if sample is not None:
            return sample
        source = self._images[index]
        try:
            image = load_image(source.path)
        except (ImageUnreadable, OSError) as error:
            with self._lock:
                self._unreadable[index] = f"{source.key}: {error}"
            return None
        sample = _fit(image, source, self._size, self._stretch)
        with self._lock:
            if sample.image.nbytes <= self._room and index not in self._kept:
                self._room -= sample.image.nbytes
                self._kept[index] = sample
        return sample


def _fit(image: NDArray[np.uint8], source: LabelledImage, size: int, stretch: bool) -> Sample:
    """Resize so that the longer side (`stretch`: both) is `size`; boxes are cut at the border, empty ones dropped."""
    height, width = image.shape[:2]
    ratio = size / max(height, width)
    new_width, new_height = max(1, round(width * ratio)), max(1, round(height * ratio))
    if stretch:
        new_width = new_height = size
    if (new_width, new_height) != (width, height):
        # Area averaging would keep more of what is thin, but prediction shows networks what the libraries show them.
        image = np.asarray(cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR), np.uint8)
    xyxy = np.clip(source.xyxy, 0, [width, height] * 2) * ([new_width / width, new_height / height] * 2)
    inside = (xyxy[:, 2:] > xyxy[:, :2]).all(axis=1)
    return Sample(image, xyxy[inside].astype(np.float32), source.label[inside])


class BatchSampler:
    """Draws batches from a data set: every image once per pass, in a new order each pass.

    Args:
        dataset: images with and without boxes; those without are negatives.
        size: side of the square training images, pixels.
        seed: of order and augmentation.
        augmentation: strength.
        size_range: when given, each batch has a random side in this range (multiples of 32) instead of `size`.
        max_bytes: memory for decoded images.
        stretch: images fill a square before they are augmented, for networks that see them so in prediction.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        size: int,
        *,
        seed: int,
        augmentation: Augmentation | None = None,
        size_range: tuple[int, int] | None = None,
        max_bytes: int = CACHE_BYTES,
        stretch: bool = False,
    ) -> None:
        self.store = ImageStore(dataset.images, size_range[1] if size_range else size, max_bytes, stretch=stretch)
        self._size = size
        self._sizes = np.arange(size_range[0], size_range[1] + 1, 32) if size_range else np.array([size])
        self._seed = seed
        self._augmentation = augmentation or Augmentation()
        self._last_order: tuple[int, NDArray[np.int64]] = (-1, np.zeros(0, np.int64))
        self._dataset = dataset

    def batches(
        self,
        start: int,
        stop: int,
        batch_size: int,
        *,
        mosaic_until: int,
        workers: int = 2,
        share: tuple[int, int] = (0, 1),
    ) -> Generator[Batch, None, None]:
        """Batches `start` to `stop` (exclusive), in order, prepared ahead by `workers` threads (0: inline).

        Args:
            start: first batch.
            stop: one past the last batch.
            batch_size: images per batch.
            mosaic_until: from this batch on, images come alone, as they will in prediction.
            workers: threads.
            share: (rank, size) of this process among those that take a batch each in every step.
        """
        rank, size = share

        def read(index: int) -> Batch:
            return self.batch(index * size + rank, batch_size, use_mosaic=index < mosaic_until)

        if workers <= 0:
            yield from map(read, range(start, stop))
            return
        pending: deque[Future[Batch]] = deque()
        pool = ThreadPoolExecutor(workers, thread_name_prefix="augment")
        try:
            upcoming = iter(range(start, stop))
            while True:
                while len(pending) < 2 * workers and (number := next(upcoming, None)) is not None:
                    pending.append(pool.submit(read, number))
                if not pending:
                    return
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def batch(self, index: int, batch_size: int, *, use_mosaic: bool) -> Batch:
        """The batch number `index`."""
        size = int(np.random.default_rng([self._seed, 1, index]).choice(self._sizes))
        samples = [self._sample(index * batch_size + k, size, use_mosaic) for k in range(batch_size)]
        return Batch(
            np.stack([s.image for s in samples]), tuple(s.xyxy for s in samples), tuple(s.label for s in samples)
        )

    def identity(self) -> str:
        """Says everything that its batches depend on, except the pixels of the images."""
        return f"{self._dataset.digest()} {self._sizes.tolist()} {self._seed} {self._augmentation}"

    def _sample(self, position: int, size: int, use_mosaic: bool) -> Sample:
        count = len(self.store)
        epoch, place = divmod(position, count)
        order = self._order(epoch)
        rng = np.random.default_rng([self._seed, 3, position])
        first = self.store.get(int(order[place]))
        if use_mosaic and rng.random() < self._augmentation.mosaic:
            others = [self.store.get(int(i)) for i in rng.integers(0, count, 3)]
            four = [first, *others]
            return mosaic([_shrink(four[i], size) for i in rng.permutation(4)], size, self._augmentation, rng)
        return single(_shrink(first, size), size, self._augmentation, rng)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        known, order = self._last_order  # one read, because another thread may be in the next epoch already
        if known != epoch:
            order = np.random.default_rng([self._seed, 2, epoch]).permutation(len(self.store))
            self._last_order = (epoch, order)
        return order


def _shrink(sample: Sample, size: int) -> Sample:
    """`sample` with its longer side at `size`: the store holds the largest size that a batch may ask for."""
    height, width = sample.image.shape[:2]
    if max(height, width) == size:
        return sample
    ratio = size / max(height, width)
    new = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    image = np.asarray(cv2.resize(sample.image, new, interpolation=cv2.INTER_LINEAR), np.uint8)
    return Sample(image, (sample.xyxy * np.float32(ratio)).astype(np.float32), sample.label)
