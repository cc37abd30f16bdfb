"""Fetches Ultralytics' own pretrained weights once and keeps them as safetensors."""

from __future__ import annotations

import logging
import shutil
import time
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import Request, urlopen

from model.errors import WeightsRefused

logger = logging.getLogger(__name__)

RELEASE = "https://github.com/ultralytics/assets/releases/download/v8.4.0"
CHUNK = 1 << 20
LONGEST_SECONDS = 300.0
"""For a whole download, so that a trickling connection cannot hold a worker."""


def fetch_base(architecture: str, folder: Path, *, release: str = RELEASE, timeout: float = 5.0) -> Path | None:
    """Download `<architecture>u.pt` (trained on COCO) and store it as `<folder>/<architecture>.safetensors`.

    The file is opened with Ultralytics' restricted loader, which runs no code from it. No file is left behind when
    anything fails; that is a warning, because a training can start without.

    Args:
        architecture: `yolov5n` to `yolov5x`.
        folder: of base weights, created if missing.
        release: where the files are.
        timeout: seconds for the connection and for each read.

    Returns:
        The stored file; an earlier one is returned without asking the network. None when it could not be had.
    """
    target = folder / f"{architecture}.safetensors"
    if target.is_file():
        return target
    url = f"{release}/{architecture}u.pt"
    try:
        with TemporaryDirectory() as temporary:
            downloaded = Path(temporary) / f"{architecture}u.pt"
            download(url, downloaded, timeout)
            _convert(architecture, downloaded, target)
    except (OSError, HTTPException, WeightsRefused) as error:
        logger.warning(
            "No pretrained weights for %s: %s could not be used (%s). Trainings start from weaker or random weights "
            "and need many more labels; download the file elsewhere and put it into %s",
            architecture,
            url,
            error,
            folder,
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


def _convert(architecture: str, pickled: Path, target: Path) -> None:
    import torch

    from model.detectors import yolo

    detector = yolo.create(
        architecture, None, image_size=640, device=torch.device("cpu"), base=pickled, seed=0, allow_pickle=True
    )
    with TemporaryDirectory() as temporary:
        detector.save(Path(temporary))
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.part")
        shutil.move(Path(temporary) / "weights.safetensors", partial)
        partial.replace(target)
