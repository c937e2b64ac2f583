"""Unusual image files are read with torchvision's pixels, or refused with one line."""

import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from torchvision.datasets.folder import pil_loader

from afa.data.images import describe_lost_pixels, read_canvas, read_image
from afa.errors import DataError
from tests.data.pictures import noise

RGB = noise(31, 22)
PALETTE = RGB.quantize(16)
EXIF = Image.Exif()
EXIF[0x0112] = 6  # rotated by 90 degrees

GOOD: dict[str, Callable[[Path], None]] = {
    "plain.jpg": lambda path: RGB.save(path, "JPEG"),
    "png_inside.jpg": lambda path: RGB.save(path, "PNG"),
    "日本語の犬.png": lambda path: RGB.save(path, "PNG"),
    "two_in_one.jpg": lambda path: RGB.save(path, "MPO", save_all=True, append_images=[noise(31, 22, seed=9)]),
    "bmp": lambda path: RGB.save(path, "BMP"),
    "webp": lambda path: RGB.save(path, "WEBP", lossless=True),
    "tiff": lambda path: RGB.save(path, "TIFF"),
    "ppm": lambda path: RGB.save(path, "PPM"),
    "cmyk.jpg": lambda path: RGB.convert("CMYK").save(path, "JPEG"),
    "rgba": lambda path: RGB.convert("RGBA").rotate(20).save(path, "PNG"),
    "la": lambda path: RGB.convert("LA").rotate(20).save(path, "PNG"),
    "one_bit": lambda path: RGB.convert("1").save(path, "PNG"),
    "grey": lambda path: RGB.convert("L").save(path, "PNG"),
    "palette_one_transparent": lambda path: PALETTE.save(path, "PNG", transparency=3),
    "palette_alphas": lambda path: PALETTE.save(path, "PNG", transparency=bytes(range(16))),
    "rgb_transparent_colour": lambda path: RGB.save(path, "PNG", transparency=(1, 2, 3)),
    "moving.gif": lambda path: PALETTE.save(
        path, "GIF", save_all=True, append_images=[noise(31, 22, seed=9).quantize(16)], transparency=2
    ),
    "turned.jpg": lambda path: RGB.save(path, "JPEG", exif=EXIF),
}


@pytest.mark.parametrize("name", GOOD)
def test_pixels_are_those_of_torchvision(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    GOOD[name](path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = read_image(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's warning about the alphas of a palette
        expected = pil_loader(path)
    assert (image.mode, image.size) == ("RGB", (31, 22))
    assert image.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("mode", "dtype", "extension"), [("I;16", "<u2", "png"), ("I", "<i4", "tiff"), ("I;16B", ">u2", "tiff")]
)
def test_16_bit_grey_is_scaled(mode: str, dtype: str, extension: str, tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 31 * 22).astype(dtype).reshape(22, 31)
    stored = Image.frombytes(mode, (31, 22), values.tobytes())
    stored.save(tmp_path / f"grey.{extension}")
    pixels = np.asarray(read_image(tmp_path / f"grey.{extension}"))
    assert np.array_equal(pixels, np.repeat(values[..., None] // 256, 3, axis=2))
    assert (pixels.min(), pixels.max()) == (0, 255)


def deep_grey(path: Path, low: int, high: int) -> None:
    values = np.linspace(low, high, 31 * 22).astype("<u2")
    Image.frombytes("I;16", (31, 22), values.tobytes()).save(path)


@pytest.mark.parametrize(
    ("low", "high", "grey_range", "found"),
    [
        (0, 4095, "0..4095", (0, 255)),
        (0, 4095, "4095..0", (255, 0)),
        (32000, 34000, "32000..34000", (0, 255)),
        (0, 65535, "1000..2000", (0, 255)),
        (7, 7, "7..7", (0, 0)),
    ],
)
def test_the_range_of_16_bit_grey(low: int, high: int, grey_range: str, found: tuple, tmp_path: Path) -> None:
    deep_grey(tmp_path / "a.png", low, high)
    pixels = np.asarray(read_image(tmp_path / "a.png", grey_range=grey_range))
    assert (pixels[0, 0, 0], pixels[-1, -1, 0]) == found
    Image.fromarray(np.full((4, 4), -5, np.int32)).save(tmp_path / "b.tiff")  # refused without a range
    assert np.asarray(read_image(tmp_path / "b.tiff", grey_range="-10..0")).max() == 116


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB"])
def test_the_background_is_seen_through_transparent_pixels(mode: str, tmp_path: Path) -> None:
    shape = Image.new("LA", (10, 10), (0, 0))
    shape.paste((0, 255), (3, 3, 7, 7))
    path = tmp_path / "a.png"
    if mode in ("RGBA", "LA"):
        shape.convert(mode).save(path)
    elif mode in ("L", "RGB"):  # one grey level or colour is transparent
        Image.composite(Image.new(mode, (10, 10)), Image.new(mode, (10, 10), "grey"), shape.getchannel("A")).save(
            path, transparency=128 if mode == "L" else (128, 128, 128)
        )
    else:
        shape.convert("RGBA").quantize().save(path)
    assert np.asarray(read_image(path)).max() in (0, 128)
    for background, level in (("white", 255), ("black", 0), ("#0a0a0a", 10)):
        pixels = np.asarray(read_image(path, background))
        assert (pixels[0, 0, 0], pixels[5, 5, 0]) == (level, 0)


def test_lost_pixels_are_described_if_many_images_have_them(tmp_path: Path) -> None:
    for index in range(40):
        RGB.save(tmp_path / f"{index:02}.png")
    paths = sorted(tmp_path.iterdir())
    look = {"background": "", "grey_range": "0..65535"}
    RGB.convert("RGBA").save(paths[0])  # an opaque alpha channel hides nothing
    Image.new("RGBA", (8, 8)).save(paths[1])
    deep_grey(paths[2], 0, 4095)
    assert describe_lost_pixels(paths, **look) == []
    Image.new("RGBA", (8, 8)).save(paths[3])
    deep_grey(paths[4], 5, 300)
    paths[5].write_bytes(b"")  # reported when it is read
    transparent, grey = describe_lost_pixels(paths, **look)
    assert transparent.startswith("2 of 40 images have transparent pixels")
    assert "background=white" in transparent
    assert "use only the levels 0 to 4095" in grey
    assert "grey_range=0..4095" in grey
    assert describe_lost_pixels(paths, "white", "0..4095") == []


def test_dark_16_bit_colours_are_described(tmp_path: Path) -> None:
    """Pillow reads the upper 8 bits."""
    raw = zlib.compress(b"".join(b"\0" + b"\x0f\xff" * 12 for _ in range(4)))
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)), (b"IDAT", raw), (b"IEND", b""))
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks)
    )
    assert np.asarray(read_image(tmp_path / "a.png")).max() == 15
    (line,) = describe_lost_pixels([tmp_path / "a.png"], "white", "0..4095")
    assert "1 of 1 images have dark 16-bit colours" in line


def test_rotations_that_are_not_applied_are_described(tmp_path: Path) -> None:
    for name, orientation in (("a.jpg", 1), ("b.jpg", 6), ("c.png", 3)):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        RGB.save(tmp_path / name, exif=exif)
    (line,) = describe_lost_pixels(sorted(tmp_path.iterdir()), "", "0..65535")
    assert line.startswith("2 of 3 images have an EXIF rotation, which is not applied")


def cut(path: Path, format: str, keep: float) -> None:
    noise(100, 80).save(path, format)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])


TOO_LARGE = "million pixels, the maximum is 89 million; make it smaller"
UNKNOWN_RANGE = "32-bit pixels of unknown range; save the image with 8 or 16 bits"
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut.jpg": (lambda path: cut(path, "JPEG", 0.9), "truncated: the end of the image is missing"),
    "cut.png": (lambda path: cut(path, "PNG", 0.5), "truncated: the end of the image is missing"),
    "cut_in_header.png": (
        lambda path: cut(path, "PNG", 0.001),
        "truncated: the end of the image is missing",
    ),
    "empty.jpg": (lambda path: path.touch(), "empty file"),
    "page.jpg": (
        lambda path: path.write_text("<html><body>Not found"),
        "not an image: begins with b'<html><body>Not '",
    ),
    "postscript.jpg": (lambda path: RGB.save(path, "EPS"), "not an image: begins with b'%!PS-Adobe-3.0 E'"),
    "bomb.png": (lambda path: Image.new("1", (10000, 9500)).save(path), f"too large: 95 {TOO_LARGE}"),
    "bigger_bomb.png": (lambda path: Image.new("1", (13500, 13500)).save(path), f"too large: 182 {TOO_LARGE}"),
    "float.tiff": (lambda path: Image.new("F", (4, 4), 0.5).save(path), UNKNOWN_RANGE),
    "int32.tiff": (lambda path: Image.new("I", (4, 4), 65536).save(path), UNKNOWN_RANGE),
    "gone.jpg": (lambda path: None, "no such file"),
    "link.jpg": (lambda path: path.symlink_to("nothing"), "a link to a file that does not exist"),
    "folder.jpg": (lambda path: path.mkdir(), "cannot be decoded: not a regular file"),
    "pipe.jpg": (os.mkfifo, "cannot be decoded: not a regular file"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", BAD)
def test_one_line_explains_the_problem(name: str, tmp_path: Path) -> None:
    make, reason = BAD[name]
    make(tmp_path / name)
    with pytest.raises(DataError) as caught:
        read_image(tmp_path / name)
    assert caught.value.lines == [f"{tmp_path / name}: {reason.format(path=tmp_path / name)}"]


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RGB.save(tmp_path / "a.jpg")

    def deny(path: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", deny)  # mode bits do not restrict root
    with pytest.raises(DataError, match=r"a\.jpg: no permission to read it$"):
        read_image(tmp_path / "a.jpg")


def test_an_error_of_make_canvas_is_reported_with_the_path(tmp_path: Path) -> None:
    def refuse(image: Image.Image) -> np.ndarray:
        raise ValueError(f"{image.width} is too wide")

    RGB.save(tmp_path / "a.png")
    with pytest.raises(DataError) as caught:
        read_canvas(tmp_path / "a.png", refuse)
    assert caught.value.lines == [f"{tmp_path}/a.png: 31 is too wide"]
