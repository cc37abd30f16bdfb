"""Small files for readers to read, and what a test looks at in what they gave."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from model.data.dataset import DetectionDataset


def put_image(path: Path, size: tuple[int, int] = (100, 50), orientation: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size, "navy").save(path, exif=exif)
    return path


def put_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def keys(dataset: DetectionDataset) -> list[str]:
    return [image.key for image in dataset.images]
