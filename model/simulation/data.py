"""The data of an experiment: a pool whose labels are withheld, and images on which every detector is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from model.data.dataset import DetectionDataset
from model.data.files import VALIDATION
from model.data.readers import read_dataset, recognise
from model.data.reef import write_reef
from model.errors import DatasetUnreadable, NotEnoughLabels
from model.simulation.plan import derived_seed

REEF_COUNT = 400
REEF_TEST = 200
TEST_SHARE = 0.25
SPLIT_SEED = 0
"""The held-out images are the same for all seeds: they are the ruler, not a part of what is measured."""
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class SimulationData:
    """What an experiment works on.

    Attributes:
        name: for the report.
        pool: images whose labels are withheld; a task's id is its position in here.
        test: images that no training ever sees.
        held_out: where these come from, for the report; "" says nothing.

    Raises:
        NotEnoughLabels: one of them has no box at all.
        ValueError: they have different class lists, or share an image, or two images of the pool have one key.
    """

    name: str
    pool: DetectionDataset
    test: DetectionDataset
    held_out: str = ""

    def __post_init__(self) -> None:
        if self.pool.classes != self.test.classes:
            raise ValueError(f"the pool has the classes {self.pool.classes}, the held-out images {self.test.classes}")
        for what, dataset in (("pool", self.pool), ("held-out images", self.test)):
            if not dataset.num_boxes:
                why = "".join(f" {problem}" for problem in dataset.problems[:_SHOWN])
                raise NotEnoughLabels(
                    f"{self.name}: the {what} ({len(dataset)}) have not one box; an experiment needs labelled objects."
                    f"{why}"
                )
        if len({image.key for image in self.pool.images}) != len(self.pool):
            raise ValueError(
                f"{self.name}: two images in the pool have the same key, so that choices would be ambiguous"
            )
        shared = {image.path for image in self.pool.images} & {image.path for image in self.test.images}
        if shared:
            raise ValueError(f"{self.name}: {len(shared)} images are in the pool and held out, e.g. {min(shared)}")

    @property
    def problems(self) -> tuple[str, ...]:
        """What the readers had to leave out, each sentence once."""
        return tuple(dict.fromkeys((*self.pool.problems, *self.test.problems)))

    def describe(self) -> dict[str, Any]:
        """Plain values that tell these data from others."""
        return {
            "name": self.name,
            "classes": list(self.pool.classes),
            **{
                f"{what}_{field}": value
                for what, dataset in (("pool", self.pool), ("test", self.test))
                for field, value in (
                    ("images", len(dataset)),
                    ("boxes", dataset.num_boxes),
                    ("class_counts", dataset.class_counts().tolist()),
                    ("digest", dataset.digest()),
                )
            },
        }

    def initial(self, count: int, seed: int) -> list[int]:
        """Positions of the images that are labelled at the start: random, the same for every strategy.

        Somebody who labels goes on until there is an object to learn from. So where the first `count` have no box, the
        draw goes on up to the first image with one, and the initial set is larger than asked for.

        Raises:
            NotEnoughLabels: the pool is not larger than that, so that nothing would be left to choose.
        """
        order = np.random.default_rng(derived_seed(seed, "initial")).permutation(len(self.pool)).tolist()
        boxes = np.array([len(self.pool.images[position].label) for position in order])
        taken = max(count, int(np.flatnonzero(boxes)[0]) + 1)
        if taken >= len(order):
            raise NotEnoughLabels(
                f"{self.name}: the initial set takes {taken} of {len(order)} images in the pool (seed {seed}), so that "
                "nothing is left to choose; use a smaller initial set or more images."
            )
        return [int(position) for position in order[:taken]]


def hold_out(dataset: DetectionDataset, name: str, *, share: float = TEST_SHARE) -> SimulationData:
    """Split a data set that has no held-out part of its own, at random and always alike.

    Near-duplicates, such as the frames of a video, may land on both sides; hold out whole videos where there are any.

    Args:
        dataset: labelled.
        name: for the report.
        share: of the images that is held out, in (0, 1).
    """
    if not 0.0 < share < 1.0:
        raise ValueError(f"the held-out share is {share}, expected more than 0 and less than 1")
    order = np.random.default_rng(SPLIT_SEED).permutation(len(dataset))
    held = set(order[: max(1, round(share * len(dataset)))].tolist())
    pool = [image for position, image in enumerate(dataset.images) if position not in held]
    test = [image for position, image in enumerate(dataset.images) if position in held]
    return SimulationData(
        name,
        DetectionDataset(dataset.classes, pool, dataset.problems),
        DetectionDataset(dataset.classes, test),
        f"{share:.0%} of the images, drawn at random",
    )


def reef_data(
    folder: Path,
    count: int = REEF_COUNT,
    *,
    test: int = REEF_TEST,
    size: int = 320,
    draw: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> SimulationData:
    """Generated scenes, drawn into `folder` unless they are there; the held-out ones are of another seed's bursts.

    Args:
        folder: created if missing.
        count: images in the pool.
        test: images held out.
        size: height and width in pixels.
        draw: which of many sets of this kind, at least 0; no two share a scene or a burst.
        progress: called with images done and images in all.
    """
    whole = count + test
    pool_seed, test_seed = 2 * draw + 1, 2 * draw + 2
    pool = write_reef(folder / "pool", count, seed=pool_seed, size=(size, size), progress=_shifted(progress, 0, whole))
    held = write_reef(
        folder / "test", test, seed=test_seed, size=(size, size), progress=_shifted(progress, count, whole)
    )
    return SimulationData(reef_name(count), pool, held, "other scenes")


def reef_name(count: int) -> str:
    """What generated data are called."""
    return f"reef:{count}"


def directory_data(
    path: Path, *, split: str | None = None, test_split: str | None = None, share: float = TEST_SHARE
) -> SimulationData:
    """A VOC, COCO or YOLO data set.

    Args:
        path: as `read_dataset` takes it.
        split: becomes the pool; None for `train` or the only one.
        test_split: is held out; None looks for `val`, then `test`, with boxes in it; without one a random share of the
            pool is held out.
        share: of the pool, in that case.

    Raises:
        DatasetUnreadable: see `read_dataset`; also where `val` is named and cannot be read. A `test` that cannot is
            a problem of the pool, because many data sets name one that is not given away.
    """
    pool = read_dataset(path, split=split)
    whole = path.resolve()
    name = f"{whole.parent.name}/{whole.name}" if whole.is_file() else whole.name or str(path)
    if test_split is not None:
        held = read_dataset(path, split=test_split, classes=pool.classes)
        return SimulationData(name, pool, held, f"split {test_split}")
    used = {image.path for image in pool.images}
    for candidate in (*VALIDATION, "test"):
        if candidate not in recognise(path).splits or candidate == split:
            continue
        try:
            test = read_dataset(path, split=candidate, classes=pool.classes)
        except DatasetUnreadable as error:
            if candidate in VALIDATION:
                raise
            pool = replace(pool, problems=(*pool.problems, f"split {candidate}: {error}"))
            continue
        if test.num_boxes and not used & {image.path for image in test.images}:
            return SimulationData(name, pool, test, f"split {candidate}")
        why = "some of its images are in the pool" if test.num_boxes else "it has no box"
        pool = replace(pool, problems=(*pool.problems, f"split {candidate} is not held out: {why}.", *test.problems))
    return hold_out(pool, name, share=share)


def _shifted(progress: Callable[[int, int], None] | None, before: int, total: int) -> Callable[[int, int], None]:
    def report(done: int, _: int) -> None:
        if progress is not None:
            progress(before + done, total)

    return report
