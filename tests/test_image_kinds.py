"""Images are read exactly as their files show them, or refused with the file, the value and the remedy."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from segtrain.data.sources.pixels import read_slice
from segtrain.errors import DataError

MODES = (
    "1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "I;16B",
    "I;16L", "F",
)  # fmt: skip
HEIGHT, WIDTH = 5, 7
RNG = np.random.default_rng(0)
RGB_HWC = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
MASK_HW = RNG.integers(0, 2, (HEIGHT, WIDTH), np.uint8)


def made_up(mode: str, rng: np.random.Generator, palette: np.ndarray) -> Image.Image:
    """An image of random bytes."""
    if mode in ("P", "PA"):
        image = Image.new(mode, (WIDTH, HEIGHT))
        image.putpalette(palette.tobytes())
        image.putdata([(v, 255) if mode == "PA" else v for v in rng.integers(0, 256, HEIGHT * WIDTH).tolist()])
        return image
    length = len(Image.new(mode, (WIDTH, HEIGHT)).tobytes())
    return Image.frombytes(mode, (WIDTH, HEIGHT), rng.bytes(length))


def shown_pixels(
    image: Image.Image, path: Path, channels: int, palette: np.ndarray, is_grey: bool
) -> np.ndarray | None:
    """What the file shows, where it can be read."""
    mode = image.mode
    if channels == 3:
        return palette[np.asarray(image)] if mode == "P" else np.asarray(image) if mode == "RGB" else None
    if mode in ("1", "L", "I;16", "I;16B", "I;16L"):
        return np.asarray(image)
    if mode == "P" and is_grey:
        return np.asarray(palette[np.asarray(image)][..., 0])
    if mode == "I" and path.suffix == ".png":  # of 16 bits, as Pillow saves it
        with Image.open(path) as saved:
            return np.asarray(saved)
    return None


@pytest.mark.law("L12")
@settings(deadline=None, max_examples=300)
@given(
    mode=st.sampled_from(MODES),
    suffix=st.sampled_from([".tif", ".png"]),
    channels=st.sampled_from([1, 3]),
    pages=st.sampled_from([1, 1, 1, 3]),
    orientation=st.sampled_from([None, None, 1, 3, 6]),
    is_grey=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_whatever_pillow_saves_is_read_exactly_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    mode: str,
    suffix: str,
    channels: int,
    pages: int,
    orientation: int | None,
    is_grey: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    palette = np.repeat(rng.integers(0, 256, (256, 1), np.uint8), 3, axis=1)
    if not is_grey:
        palette = rng.integers(0, 256, (256, 3), np.uint8)
    first, *others = (made_up(mode, rng, palette) for _ in range(pages))
    options: dict[str, Any] = {"save_all": True, "append_images": others} if others else {}
    if orientation is not None:
        exif = Image.Exif()
        exif[274] = orientation
        options["exif"] = exif
    path = tmp_path_factory.getbasetemp() / f"kinds{suffix}"
    try:
        first.save(path, **options)
    except (OSError, ValueError, KeyError):
        assume(False)
    is_plain = pages == 1 and orientation in (None, 1)
    shown = shown_pixels(first, path, channels, palette, is_grey) if is_plain else None
    if shown is None:
        with pytest.raises(DataError) as caught:
            read_slice(path, channels)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "not a readable" not in str(caught.value), "the file is not broken"
    else:
        np.testing.assert_array_equal(read_slice(path, channels), shown)


def write_png(path: Path, bits: int, colour_type: int, rows: bytes) -> None:
    """A PNG of kinds that Pillow does not write; `rows` without their filter bytes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, colour_type, 0, 0, 0)
    length = len(rows) // HEIGHT
    lines = b"".join(b"\0" + rows[start : start + length] for start in range(0, len(rows), length))
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def write_tiff(path: Path, pixels: np.ndarray, more: dict[int, tuple[int, ...]] | None = None) -> None:
    """An uncompressed TIFF of one strip; `more` adds or replaces tags of 16-bit values."""
    samples = pixels.shape[2] if pixels.ndim == 3 else 1
    bits = pixels.dtype.itemsize * 8
    height, width = pixels.shape[:2]
    tags = {256: (width,), 257: (height,), 258: (bits,) * samples, 259: (1,), 262: (samples // 2 + 1,), 273: (8,),
            277: (samples,), 278: (height,), 279: (pixels.nbytes,), **(more or {})}  # fmt: skip
    directory_at = 8 + pixels.nbytes + pixels.nbytes % 2
    values_at = directory_at + 2 + 12 * len(tags) + 4
    directory, values = struct.pack("<H", len(tags)), b""
    for tag, content in sorted(tags.items()):
        packed = struct.pack(f"<{len(content)}H", *content)
        if len(packed) > 4:
            values, packed = values + packed, struct.pack("<I", values_at + len(values))
        directory += struct.pack("<HHI", tag, 3, len(content)) + packed.ljust(4, b"\0")
    body = (pixels.tobytes() + b"\0")[: directory_at - 8]
    path.write_bytes(b"II*\0" + struct.pack("<I", directory_at) + body + directory + bytes(4) + values)


def test_the_writers_of_these_tests_are_right(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", RGB_HWC)
    write_png(tmp_path / "a.png", 8, 2, RGB_HWC.tobytes())
    for name in ("a.tif", "a.png"):
        np.testing.assert_array_equal(read_slice(tmp_path / name, 3), RGB_HWC)


COLOURS_16 = RNG.integers(0, 65536, (HEIGHT, WIDTH, 3), np.uint16)
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "big-endian": {"byteorder": ">"},
    "deflate": {"compression": "zlib"},
    "deflate, big-endian": {"compression": "zlib", "byteorder": ">"},
    "differences": {"compression": "zlib", "predictor": True},
    "tiles": {"tile": (16, 16)},
    "tiles, deflate": {"tile": (16, 16), "compression": "zlib"},
    "strips": {"rowsperstrip": 2},
    "BigTIFF": {"bigtiff": True},
}


@pytest.mark.law("L12")
@pytest.mark.parametrize("way", WAYS)
def test_colours_of_16_bits_are_read_exactly(tmp_path: Path, way: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, COLOURS_16, photometric="rgb", **WAYS[way])
    pixels = read_slice(path, 3)
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels, COLOURS_16)


@pytest.mark.law("L12")
def test_png_colours_of_16_bits_are_read_exactly(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", 16, 2, COLOURS_16.astype(">u2").tobytes())
    np.testing.assert_array_equal(read_slice(tmp_path / "a.png", 3), COLOURS_16)


def write_planes(path: Path, compression: str | None) -> None:
    planes = np.moveaxis(COLOURS_16, -1, 0)
    tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate", compression=compression)


def without_photometric(path: Path, pixels: np.ndarray) -> None:
    write_tiff(path, pixels)
    path.write_bytes(path.read_bytes().replace(struct.pack("<HH", 262, 3), struct.pack("<HH", 261, 3)))


GREYS = tuple(value for _ in range(3) for value in range(256))
Write = Callable[[Path], object]
REFUSED: dict[str, tuple[str, int, Write, str]] = {
    "16-bit colours by planes": (".tif", 3, lambda p: write_planes(p, None), "plane by plane"),
    "16-bit colours by planes, deflated": (".tif", 3, lambda p: write_planes(p, "zlib"), "plane by plane"),
    "16-bit colours with transparency": (
        ".png",
        3,
        lambda p: write_png(p, 16, 6, bytes(HEIGHT * WIDTH * 8)),
        "4 channel(s)",
    ),
    "16-bit grey as an image": (".png", 3, lambda p: write_png(p, 16, 0, bytes(HEIGHT * WIDTH * 2)), "1 channel(s)"),
    "16-bit grey, white is 0": (".tif", 1, lambda p: write_tiff(p, MASK_HW.astype(np.uint16), {262: (0,)}), "white"),
    "32-bit colours": (
        ".tif",
        3,
        lambda p: tifffile.imwrite(p, RGB_HWC.astype(np.uint32), photometric="rgb"),
        "32 bits",
    ),
    "floats": (".tif", 1, lambda p: tifffile.imwrite(p, MASK_HW.astype(np.float32)), "float32"),
    "half floats": (".tif", 1, lambda p: tifffile.imwrite(p, MASK_HW.astype(np.float16)), "floats"),
    "complex": (".tif", 1, lambda p: tifffile.imwrite(p, MASK_HW.astype(np.complex64)), "floats"),
    "YCbCr, deflated": (
        ".tif",
        3,
        lambda p: Image.fromarray(RGB_HWC).convert("YCbCr").save(p, compression="tiff_adobe_deflate"),
        "YCbCr",
    ),
    "CMYK": (".tif", 3, lambda p: Image.fromarray(RGB_HWC).convert("CMYK").save(p), "4 channel(s)"),
    "Lab": (".tif", 3, lambda p: write_tiff(p, RGB_HWC, {262: (8,)}), "Lab"),
    "black or white": (".tif", 1, lambda p: without_photometric(p, MASK_HW), "no tag 262"),
    "APNG": (
        ".png",
        1,
        lambda p: Image.fromarray(MASK_HW).save(p, save_all=True, append_images=[Image.fromarray(1 - MASK_HW)]),
        "2 pages",
    ),
    "transparent colour": (
        ".png",
        3,
        lambda p: Image.fromarray(RGB_HWC).save(p, transparency=(1, 2, 3)),
        "transparen",
    ),
    "4-bit grey": (".png", 1, lambda p: write_png(p, 4, 0, bytes(HEIGHT * 4)), "uint4"),
    "signed": (".tif", 1, lambda p: write_tiff(p, MASK_HW, {339: (2,)}), "int8"),
    "8 bits in a 16-bit palette": (
        ".tif",
        1,
        lambda p: write_tiff(p, MASK_HW, {262: (3,), 320: GREYS}),
        "16-bit value 1",
    ),
    "stack of ImageJ": (
        ".tif",
        1,
        lambda p: Image.fromarray(MASK_HW).save(p, description="ImageJ=1.53t\nimages=6\nslices=6\n"),
        "6 pages",
    ),
    "transparent palette": (
        ".png",
        3,
        lambda p: Image.fromarray(MASK_HW).convert("P").save(p, transparency=0),
        "transparen",
    ),
    "coloured mask": (
        ".png",
        1,
        lambda p: Image.fromarray(RGB_HWC * np.array([1, 0, 0], np.uint8)).quantize(2).save(p),
        "mask has colours [",
    ),
}


@pytest.mark.law("L12")
@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_lose_something_is_refused_with_its_value(tmp_path: Path, kind: str) -> None:
    suffix, channels, write, value = REFUSED[kind]
    path = tmp_path / f"slice{suffix}"
    write(path)
    with pytest.raises(DataError) as caught:
        read_slice(path, channels)
    assert str(path) in str(caught.value)
    assert value in str(caught.value)
    assert "\n" not in str(caught.value)
