"""The one image loader: training and prediction see the same pixels, EXIF orientation applied."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from model.errors import ImageUnreadable

_EXIF_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)


def load_image(source: Path | bytes, *, max_pixels: int = 100_000_000) -> NDArray[np.uint8]:
    """Decode an image file.

    Args:
        source: a file or its content.
        max_pixels: largest width times height that is decoded.

    Returns:
        Shape (height, width, 3), RGB, EXIF orientation applied; transparency is laid on black, deeper images are
        scaled to eight bits.

    Raises:
        ImageUnreadable: not an image, truncated, or too large; the message says which.
    """
    try:
        with _open(source, max_pixels) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
            return np.ascontiguousarray(_eight_bit_rgb(upright))
    except ImageUnreadable:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError) as error:
        raise ImageUnreadable(f"The image {_name(source)}cannot be decoded: {error}.") from error


def image_size(source: Path | bytes, *, max_pixels: int = 100_000_000) -> tuple[int, int]:
    """Height and width in pixels after EXIF orientation, read from the header alone.

    Raises:
        ImageUnreadable: not an image, or too large.
    """
    with _open(source, max_pixels) as image:
        width, height = image.size
        sideways = image.getexif().get(_EXIF_ORIENTATION) in _SIDEWAYS
    return (width, height) if sideways else (height, width)


def _open(source: Path | bytes, max_pixels: int) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # The limit is ours, checked below before a single pixel is decoded.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    except UnidentifiedImageError as error:
        raise ImageUnreadable(f"The file {_name(source)}is not an image that Pillow knows.") from error
    except Image.DecompressionBombError as error:
        raise ImageUnreadable(f"The image {_name(source)}is too large: {error}.") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageUnreadable(f"The file {_name(source)}cannot be read: {error}.") from error
    width, height = image.size
    if width * height > max_pixels:
        image.close()
        raise ImageUnreadable(
            f"The image {_name(source)}has {width} x {height} pixels, more than the {max_pixels:,} that are allowed."
        )
    return image


def _eight_bit_rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, np.float64)
        top = 65535.0 if image.mode.startswith("I") and values.max(initial=0) > 255 else 255.0
        if image.mode == "F" and values.max(initial=0) <= 1:
            top = 1.0
        grey = np.clip(values / top * 255, 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return np.asarray(image.convert("RGB"), np.uint8)


def _name(source: Path | bytes) -> str:
    return f"{source.name!r} " if isinstance(source, Path) else ""
