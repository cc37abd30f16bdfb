"""The one image loader: training and prediction see the same pixels, EXIF orientation applied."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from model.errors import ImageUnreadable

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
"""What is decoded. Pillow knows more, among it EPS, which it hands to Ghostscript: not for files of strangers."""

_EXIF_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that exchange height and width."""


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What an image file says before its pixels.

    Attributes:
        height: pixels, with the EXIF orientation applied.
        width: likewise.
        orientation: EXIF orientation that `load_image` applies, 1 (none) to 8; 1 where it is absent or damaged.
    """

    height: int
    width: int
    orientation: int

    @property
    def stored_size(self) -> tuple[int, int]:
        """Height and width as the pixels lie in the file, before they are turned."""
        sideways = self.orientation in SIDEWAYS
        return (self.width, self.height) if sideways else (self.height, self.width)


def load_image(source: Path | bytes, *, max_pixels: int = 100_000_000) -> NDArray[np.uint8]:
    """Decode an image file; of an animation or a stack the first picture.

    Args:
        source: a file or its content.
        max_pixels: largest width times height that is decoded; Pillow's own limit, 178,956,970, stays in force.

    Returns:
        Shape (height, width, 3), RGB, writable, EXIF orientation applied (damaged EXIF counts as none);
        transparency is laid on black; 16-bit greys are scaled to eight bits by their full range, deeper ones by a
        guess at theirs.

    Raises:
        ImageUnreadable: not an image, truncated, or too large; the message says which.
    """
    with _open(source, max_pixels) as image:
        orientation = _orientation(image)
        try:
            image.load()
            upright = image.transpose(_TURNS[orientation]) if orientation in _TURNS else image
            return _eight_bit_rgb(upright)
        except Exception as error:  # Decoders meet damaged bytes with errors of any type.
            raise ImageUnreadable(f"The image {_name(source)}cannot be decoded: {_reason(error)}.") from error


def image_size(source: Path | bytes, *, max_pixels: int = 100_000_000) -> tuple[int, int]:
    """Height and width in pixels after EXIF orientation, as of `load_image`, but from the header alone.

    Raises:
        ImageUnreadable: not an image, or too large; a truncated image is not noticed.
    """
    header = image_header(source, max_pixels=max_pixels)
    return header.height, header.width


def image_header(source: Path | bytes, *, max_pixels: int = 100_000_000) -> ImageHeader:
    """Size and orientation, without decoding a pixel; errors as of `image_size`."""
    with _open(source, max_pixels) as image:
        width, height = image.size
        orientation = _orientation(image)
    if orientation in SIDEWAYS:
        height, width = width, height
    return ImageHeader(height, width, orientation if orientation in _TURNS else 1)


def _open(source: Path | bytes, max_pixels: int) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # The limit is ours, checked below before a single pixel is decoded.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ImageUnreadable(
            f"The file {_name(source)}is {_kind(source)}, expected an image ({', '.join(FORMATS)})."
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageUnreadable(f"The image {_name(source)}is too large: {_reason(error)}.") from error
    except Exception as error:  # As in `load_image`: parsers of headers raise errors of any type.
        raise ImageUnreadable(f"The file {_name(source)}cannot be read: {_reason(error)}.") from error
    width, height = image.size
    if width * height > max_pixels:
        image.close()
        raise ImageUnreadable(
            f"The image {_name(source)}has {width} x {height} pixels, more than the {max_pixels:,} that are allowed."
        )
    return image


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation still to be applied, 1 to 8; read before decoding, so that size and pixels agree."""
    if image.format == "TIFF":
        # Pillow turns these itself when it decodes them, and gives the upright size from the start.
        return 1
    try:
        # Not `image.getexif()`: for a PNG without EXIF that decodes all pixels to look behind them.
        found = Image.Image.getexif(image).get(_EXIF_ORIENTATION)
    except Exception:  # Damaged metadata must not cost the picture; a browser shows it as it is stored, too.
        return 1
    return found if isinstance(found, int) else 1


def _eight_bit_rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I") or image.mode == "F":
        return np.repeat(_deep_grey(image)[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    # A copy: what Pillow lends is read-only, and callers draw on it or hand it to torch.
    return np.array(image.convert("RGB"), np.uint8)


def _deep_grey(image: Image.Image) -> NDArray[np.uint8]:
    """Shape (h, w): 16 bits by their full range; 32 bits and floats have none, so it is guessed from the values.

    Guessed are 65535 for integers above 255, 1 for floats up to 1, and 255 for the others; NaN is black.
    """
    values = np.asarray(image, np.float32)
    if not image.mode.startswith("I;16"):
        values = np.nan_to_num(values, posinf=np.inf, neginf=-np.inf)
    largest = values.max(initial=0)
    if image.mode.startswith("I;16") or (image.mode == "I" and largest > 255):
        top = 65535.0
    else:
        top = 1.0 if image.mode == "F" and largest <= 1 else 255.0
    return np.rint(np.clip(values * (255 / top), 0, 255)).astype(np.uint8)


def _name(source: Path | bytes) -> str:
    return f"{source.name!r} " if isinstance(source, Path) else ""


def _kind(source: Path | bytes) -> str:
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    return "empty" if size == 0 else "of an unknown kind or damaged at its start"


def _reason(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__
