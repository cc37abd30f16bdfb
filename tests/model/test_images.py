from __future__ import annotations

import contextlib
import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from model.errors import ImageUnreadable
from model.images import image_size, load_image

HEIGHT, WIDTH = 24, 40
ORIENTATION = 0x0112


def picture() -> NDArray[np.uint8]:
    """Four corners of different colours, so that every turn and flip shows."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:12, :20], pixels[:12, 20:], pixels[12:, :20], pixels[12:, 20:] = (250, 0, 0), (0, 250, 0), (0, 0, 250), 128
    return pixels


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def png(width: int, height: int, *, body: bytes = b"") -> bytes:
    """A PNG that only claims to have so many pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


class TestOrientation:
    # What stands at the top left, top right and bottom left of the upright picture, by EXIF 2.32 section 4.6.4.
    CORNERS = {  # noqa: RUF012
        1: "red green blue",
        2: "green red grey",
        3: "grey blue green",
        4: "blue grey red",
        5: "red blue green",
        6: "blue red grey",
        7: "grey green blue",
        8: "green grey red",
    }

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_all_eight(self, orientation: int, kind: str) -> None:
        options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
        data = encode(Image.fromarray(picture()), kind, exif=oriented(orientation), **options)
        pixels = load_image(data)
        assert pixels.shape == ((WIDTH, HEIGHT, 3) if orientation >= 5 else (HEIGHT, WIDTH, 3))
        assert image_size(data) == pixels.shape[:2]
        names = {(1, 0, 0): "red", (0, 1, 0): "green", (0, 0, 1): "blue", (1, 1, 1): "grey"}
        corners = [names[tuple((pixels[y, x] > 100).astype(int))] for y, x in ((3, 3), (3, -4), (-4, 3))]
        assert " ".join(corners) == self.CORNERS[orientation]

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_as_pillow_does_it(self, orientation: int) -> None:
        data = encode(Image.fromarray(picture()), exif=oriented(orientation))
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        np.testing.assert_array_equal(load_image(data), np.asarray(upright))

    @pytest.mark.parametrize("orientation", [0, 9, 65535])
    def test_a_wrong_orientation_is_upright(self, orientation: int) -> None:
        data = encode(Image.fromarray(picture()), exif=oriented(orientation))
        np.testing.assert_array_equal(load_image(data), picture())
        assert image_size(data) == (HEIGHT, WIDTH)

    @pytest.mark.parametrize("block", [b"Exif\x00\x00", b"Exif\x00\x00II*\x00", b"Exif\x00\x00nonsense and more of it"])
    def test_a_damaged_exif_block_costs_nothing_but_itself(self, block: bytes) -> None:
        data = encode(Image.fromarray(picture()), "JPEG", exif=block)
        assert load_image(data).shape == (HEIGHT, WIDTH, 3)
        assert image_size(data) == (HEIGHT, WIDTH)


class TestModes:
    def load(self, image: Image.Image, kind: str = "PNG", **options: object) -> NDArray[np.uint8]:
        pixels = load_image(encode(image, kind, **options))
        assert pixels.dtype == np.uint8
        assert pixels.shape == (image.height, image.width, 3)
        assert pixels.flags.c_contiguous
        assert pixels.flags.writeable
        return pixels

    def test_rgb_is_kept(self) -> None:
        np.testing.assert_array_equal(self.load(Image.fromarray(picture())), picture())

    @pytest.mark.parametrize("mode", ["L", "1", "P"])
    def test_grey_bilevel_and_palette(self, mode: str) -> None:
        source = Image.fromarray(picture()).convert(mode)
        np.testing.assert_array_equal(self.load(source), np.asarray(source.convert("RGB")))

    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    def test_sixteen_bits_are_scaled(self, kind: str) -> None:
        deep = np.linspace(0, 65535, 256 * 4).astype(np.uint16).reshape(8, 128)
        pixels = self.load(Image.fromarray(deep), kind)
        np.testing.assert_allclose(pixels[..., 0], deep / 257, atol=1)
        assert (pixels == pixels[..., :1]).all()

    def test_a_dark_sixteen_bit_picture_stays_dark(self) -> None:
        assert self.load(Image.fromarray(np.full((4, 4), 200, np.uint16))).max() == 1

    @pytest.mark.parametrize("scale", [1.0, 255.0])
    def test_floats(self, scale: float) -> None:
        values = np.array([[0, 0.5], [1, np.nan]], np.float32) * np.float32(scale)
        pixels = self.load(Image.fromarray(values), "TIFF")
        assert pixels[..., 0].tolist() == [[0, 128], [255, 0]]

    def test_floats_without_bounds_are_cut(self) -> None:
        values = np.array([[-np.inf, -3], [300, np.inf]], np.float32)
        assert self.load(Image.fromarray(values), "TIFF")[..., 0].tolist() == [[0, 0], [255, 255]]

    @pytest.mark.parametrize(("highest", "expected"), [(255, 100), (65535, 0)])
    def test_wide_integers(self, highest: int, expected: int) -> None:
        pixels = self.load(Image.fromarray(np.array([[-5, 100, highest]], np.int32)), "TIFF")
        assert pixels[..., 0].tolist() == [[0, expected, 255]]

    def test_cmyk(self) -> None:
        pixels = self.load(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100)
        assert np.abs(pixels.mean((0, 1)) - (255, 0, 0)).max() < 12

    def test_transparency_is_laid_on_black(self) -> None:
        rgba = np.dstack([np.full((2, 2, 3), 200, np.uint8), np.array([[255, 0], [128, 255]], np.uint8)])
        assert self.load(Image.fromarray(rgba))[..., 0].tolist() == [[200, 0], [100, 200]]
        grey = np.dstack([np.full((1, 2), 90, np.uint8), np.array([[255, 0]], np.uint8)])
        assert self.load(Image.fromarray(grey, "LA"))[..., 1].tolist() == [[90, 0]]

    def test_transparent_palette(self) -> None:
        image = Image.new("P", (2, 1), 0)
        image.putpalette([10, 20, 30, 200, 210, 220])
        image.putpixel((1, 0), 1)
        assert self.load(image, transparency=1).tolist() == [[[10, 20, 30], [0, 0, 0]]]

    def test_the_first_frame_of_an_animation(self) -> None:
        frames = [Image.new("RGB", (8, 8), colour) for colour in ("#f00", "#0f0")]
        pixels = self.load(frames[0], "GIF", save_all=True, append_images=frames[1:])
        assert (pixels == (255, 0, 0)).all()


class TestUnreadable:
    @pytest.mark.parametrize("read", [load_image, image_size])
    @pytest.mark.parametrize(
        "data", [b"", b"no picture at all", b"<svg xmlns='x'/>", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"]
    )
    def test_no_image(self, read: Callable[[bytes], object], data: bytes) -> None:
        with pytest.raises(ImageUnreadable, match=r"^The file .*\.$"):
            read(data)

    @pytest.mark.parametrize("read", [load_image, image_size])
    def test_no_file(self, read: Callable[[Path], object], tmp_path: Path) -> None:
        with pytest.raises(ImageUnreadable, match=r"'gone\.jpg' cannot be read: .*No such file"):
            read(tmp_path / "gone.jpg")
        with pytest.raises(ImageUnreadable, match="cannot be read"):
            read(tmp_path)

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP"])
    def test_truncated(self, kind: str, tmp_path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        data = encode(Image.fromarray(noise), kind)
        file = tmp_path / "cut.img"
        file.write_bytes(data[: len(data) // 2])
        with pytest.raises(ImageUnreadable, match=r"'cut\.img' "):
            load_image(file)

    def test_the_size_of_a_truncated_image_is_in_its_header(self) -> None:
        data = encode(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)))
        assert image_size(data[: len(data) // 2]) == (64, 48)

    @pytest.mark.filterwarnings("ignore::UserWarning")
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP"])
    def test_damage_anywhere_is_one_kind_of_error(self, kind: str) -> None:
        data = bytearray(encode(Image.fromarray(picture()), kind, **({} if kind == "BMP" else {"exif": oriented(6)})))
        rng = np.random.default_rng(1)
        for _ in range(60):
            broken = bytearray(data)
            for place in rng.integers(0, len(data), 3):
                broken[place] = rng.integers(256)
            for read in (load_image, image_size):
                try:
                    read(bytes(broken))
                except ImageUnreadable as error:
                    assert str(error).startswith("The ")  # noqa: PT017

    @pytest.mark.parametrize("read", [load_image, image_size])
    def test_a_decompression_bomb_is_refused_by_its_header(self, read: Callable[[bytes], object]) -> None:
        with pytest.raises(ImageUnreadable, match="has 11000 x 10000 pixels, more than the 100,000,000"):
            read(png(11_000, 10_000))
        with pytest.raises(ImageUnreadable, match="too large"):
            read(png(100_000, 100_000))

    @pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
    def test_a_bomb_beside_the_pixels_is_not_unpacked(self, kind: bytes) -> None:
        packed = zlib.compress(b"\0" * 120_000_000, 9)
        head = {b"zTXt": b"k\0\0", b"iTXt": b"k\0\1\0\0\0", b"iCCP": b"k\0\0"}[kind]
        small = encode(Image.fromarray(picture()))
        body = head + packed
        chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        tracemalloc.start()
        try:
            with contextlib.suppress(ImageUnreadable):
                load_image(small[:33] + chunk + small[33:])  # after the header
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 80_000_000

    def test_the_limit_is_the_callers(self) -> None:
        data = encode(Image.fromarray(picture()))
        assert load_image(data, max_pixels=HEIGHT * WIDTH).shape == (HEIGHT, WIDTH, 3)
        with pytest.raises(ImageUnreadable, match="40 x 24 pixels, more than the 959"):
            load_image(data, max_pixels=HEIGHT * WIDTH - 1)


def test_formats_that_run_programs_are_not_opened() -> None:
    with pytest.raises(ImageUnreadable, match="expected an image"):
        load_image(encode(Image.fromarray(picture()), "EPS"))


def test_a_file_and_its_content_give_the_same(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(encode(Image.fromarray(picture())))
    np.testing.assert_array_equal(load_image(file), load_image(file.read_bytes()))
    assert image_size(file) == image_size(file.read_bytes()) == (HEIGHT, WIDTH)
