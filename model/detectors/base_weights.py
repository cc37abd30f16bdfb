"""Fetches pretrained weights once, Ultralytics' own for one, and keeps them as safetensors."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import Request, urlopen

from model.detectors.base import Detector
from model.detectors.weights import WEIGHTS_NAME
from model.errors import WeightsRefused

logger = logging.getLogger(__name__)

RELEASE = "https://github.com/ultralytics/assets/releases/download/v8.4.0"
CHUNK = 1 << 20
LONGEST_SECONDS = 300.0
"""For a whole download, so that a trickling connection cannot hold a worker."""


def fetch_base(architecture: str, folder: Path, *, release: str = RELEASE, timeout: float = 5.0) -> Path | None:
    """Store Ultralytics' `<architecture>u.pt`, trained on COCO, as `<folder>/<architecture>.safetensors`.

    The original file is taken from `folder` if somebody put it there, else downloaded. It is opened with Ultralytics'
    restricted loader, which runs no code from it.

    Args:
        architecture: `yolov5n` to `yolov5x`.
        folder: of base weights, created if missing.
        release: where the files are.
        timeout: seconds for the connection and for each read.

    Returns:
        See `stored`.
    """

    def make(original: Path) -> Detector:
        import torch

        from model.detectors import yolo

        return yolo.create(
            architecture, None, image_size=640, device=torch.device("cpu"), base=original, seed=0, allow_pickle=True
        )

    return stored(folder / f"{architecture}.safetensors", f"{release}/{architecture}u.pt", make, timeout)


def stored(target: Path, url: str, make: Callable[[Path], Detector], timeout: float) -> Path | None:
    """The weights of a published file as safetensors, made once.

    No file is left behind when anything fails; that is a warning, because a training can start without.

    Args:
        target: what is made; its folder is where the original file may lie already.
        url: of the original.
        make: the detector that the original file holds; raises `WeightsRefused` for another file.
        timeout: seconds for the connection and for each read.

    Returns:
        `target`; an earlier one, or one that another process made meanwhile, is returned as it is. None when it could
        not be had.
    """
    if target.is_file():
        return target
    name = url.rsplit("/", 1)[1]
    try:
        with TemporaryDirectory() as temporary:
            original = target.parent / name
            if not original.is_file():
                original = Path(temporary) / name
                download(url, original, timeout)
            made = Path(temporary) / "made"
            make(original).save(made)
            target.parent.mkdir(parents=True, exist_ok=True)
            # A name of its own, because other processes may make the same at the same time.
            partial = target.with_name(f".{target.name}.{os.getpid()}.part")
            try:
                shutil.move(made / WEIGHTS_NAME, partial)
                partial.replace(target)
            finally:
                partial.unlink(missing_ok=True)
    except (OSError, HTTPException, WeightsRefused) as error:
        if target.is_file():  # another process had it meanwhile
            return target
        logger.warning(
            "No pretrained weights for %s: %s could not be used (%s). Trainings start from weaker or random weights "
            "and need many more labels; download the file elsewhere and put it, as it is, into %s",
            target.stem,
            url,
            error,
            target.parent,
        )
        return None
    return target


def download(url: str, path: Path, timeout: float) -> None:
    """Fetch `url` into `path`, within `LONGEST_SECONDS`.

    Raises:
        OSError, HTTPException: it could not be had; `path` may then hold a part of it.
    """
    deadline = time.monotonic() + LONGEST_SECONDS
    with urlopen(Request(url), timeout=timeout) as answer, path.open("wb") as file:
        while block := answer.read(CHUNK):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not complete after {LONGEST_SECONDS:.0f} s")
            file.write(block)
