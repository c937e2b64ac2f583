"""Reads image files as 8-bit RGB pixels, or describes the problem of a file in one line."""

import contextlib
import os
import re
import stat
import warnings
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from afa.errors import DataError

# Recognised by content, not by file name. Pillow knows 40 more formats, some of which start other programs.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # JPEG includes MPO: two JPEG images in one file
MAX_PIXELS = 89_478_485  # Pillow's own limit, a quarter of a GiB as RGB; Pillow only warns
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # the limit is checked here
_CHUNK = 32  # images per task: few enough for a steady progress bar, enough to hide the cost of a task
_MEMINFO = Path("/proc/meminfo")
GREY_RANGE = "0..65535"
_SAMPLE = 100  # images of a split whose pixels are examined
_FLAT = 0x4000  # 16-bit images whose levels differ by less use less than a quarter of the range
MakeCanvas = Callable[[Image.Image], np.ndarray]
"""Decoded image -> uint8 array, see ``Preprocessing`` in ``data/transforms.py``."""


def read_canvas(path: Path, make_canvas: MakeCanvas) -> np.ndarray:
    """``make_canvas`` of the decoded image at ``path``; of an animated image, of the first frame.

    Raises DataError, one line, if the image cannot be used.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError("not a regular file")  # reading a pipe would wait forever
        with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
            if (pixels := image.width * image.height) > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{pixels} pixels")
            image.load()
    except Exception as error:  # Pillow's decoders raise nearly every type on damaged bytes
        raise DataError(f"{path}: {_reason(path, error)}") from error
    try:
        return make_canvas(image)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def read_canvases(paths: Sequence[Path], make_canvas: MakeCanvas) -> list[np.ndarray | str]:
    """The canvas of each image; for a bad image, one line with path and reason."""
    results: list[np.ndarray | str] = []
    for path in paths:
        try:
            results.append(read_canvas(path, make_canvas))
        except DataError as error:
            results.append(str(error))
    return results


def read_image(path: Path, background: str = "", grey_range: str = GREY_RANGE) -> Image.Image:
    """``to_rgb`` of the image at ``path``. Raises as ``read_canvas``."""
    return Image.fromarray(read_canvas(path, lambda image: np.asarray(to_rgb(image, background, grey_range))))


def to_rgb(image: Image.Image, background: str = "", grey_range: str = GREY_RANGE) -> Image.Image:
    """8-bit RGB pixels of a decoded image. An EXIF rotation is not applied.

    By default the pixels are those of ``Image.convert("RGB")``, as in torchvision; the exception is 16-bit grey,
    whose values are divided by 256.

    Args:
        background: colour behind transparent pixels; empty: their transparency is ignored.
        grey_range: ``<low>..<high>``, the values of 16-bit grey that become 0 and 255; others are clipped.

    Raises:
        ValueError: the range of the pixels is not known.
    """
    if image.mode.startswith(("I", "F")):
        low, high = map(int, grey_range.split(".."))
        values = np.asarray(image)
        known = grey_range != GREY_RANGE or (values.min() >= 0 and values.max() <= 0xFFFF)
        if image.mode == "F" or not known:
            raise ValueError("32-bit pixels of unknown range; save the image with 8 or 16 bits")
        # Pillow's convert("RGB") clips: all but the darkest 256 of the 65,536 values would become white.
        levels = (values.astype(np.int64) - low) * 256 // (high - low + (1 if low <= high else -1))
        return Image.fromarray(levels.clip(0, 255).astype(np.uint8)).convert("RGB")
    if background and image.has_transparency_data:
        return Image.alpha_composite(Image.new("RGBA", image.size, background), image.convert("RGBA")).convert("RGB")
    image.info.pop("transparency", None)  # the RGB pixels do not depend on it, but Pillow would warn
    return image.convert("RGB")


def is_image(path: Path) -> bool:
    """Whether a file is an image by its content, whatever its name."""
    try:
        with path.open("rb") as file, Image.open(file, formats=FORMATS):
            return True
    except Image.DecompressionBombError:  # too large, which is reported when it is read
        return True
    except Exception:  # Pillow raises nearly every type
        return False


def describe_lost_pixels(paths: Sequence[Path], background: str, grey_range: str) -> list[str]:
    """Lines about pixels that look different in an image viewer, if many images of a sample have such pixels."""
    sample = [paths[index * len(paths) // _SAMPLE] for index in range(_SAMPLE)] if len(paths) > _SAMPLE else paths
    transparent, deep, rotated, extremes = 0, 0, 0, list[tuple[int, int]]()
    for path in sample:
        with contextlib.suppress(Exception), path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
            if image.mode.startswith("I"):
                low, high = int(np.asarray(image).min()), int(np.asarray(image).max())
                extremes += [(low, high)] if high - low < _FLAT else []
            elif image.has_transparency_data:
                hidden = image.convert("RGBA").getchannel("A").histogram()[:128]
                transparent += sum(hidden) > image.width * image.height / 100
            elif ";16" in str(image.tile):  # Pillow keeps the upper 8 of the 16 bits of a colour
                deep += bool(np.asarray(image.convert("RGB")).max() < _FLAT // 256)
            rotated += image.getexif().get(ExifTags.Base.Orientation, 1) > 1
    many = max(len(sample) / 20, 1)
    lines = []
    if transparent >= many and not background:
        lines.append(
            f"{transparent} of {len(sample)} images have transparent pixels, whose stored colours are used, as "
            "torchvision does; background=white shows them on white"
        )
    if len(extremes) >= many and grey_range == GREY_RANGE:
        low, high = min(low for low, _ in extremes), max(high for _, high in extremes)
        lines.append(
            f"{len(extremes)} of {len(sample)} images are 16-bit grey and use only the levels {low} to {high}, which "
            f"leaves little contrast; grey_range={low}..{high} makes these levels black and white"
        )
    if deep >= many:
        lines.append(f"{deep} of {len(sample)} images have dark 16-bit colours, of which 8 bits are lost; save 8 bits")
    if rotated >= many:
        lines.append(
            f"{rotated} of {len(sample)} images have an EXIF rotation, which is not applied, as in torchvision; "
            "mogrify -auto-orient stores them upright"
        )
    return lines


def _reason(path: Path, error: Exception) -> str:
    """Explain ``error``, which was raised while ``path`` was read."""
    text = str(error)
    match error:
        case Image.DecompressionBombError() | Image.DecompressionBombWarning():
            pixels = re.search(r"\d+", text)
            millions = f"{int(pixels[0]) / 1e6:.0f} million pixels" if pixels else text
            return f"too large: {millions}, the maximum is {MAX_PIXELS / 1e6:.0f} million; make it smaller"
        case UnidentifiedImageError():
            with path.open("rb") as file:
                start = file.read(16)
            return f"not an image: begins with {start!r}" if start else "empty file"
        case PermissionError():
            return "no permission to read it"
        case FileNotFoundError():
            return "a link to a file that does not exist" if path.is_symlink() else "no such file"
    if "truncated" in text.lower():
        return "truncated: the end of the image is missing"
    return f"cannot be decoded: {' '.join(text.split()) or type(error).__name__}"


def available_memory() -> int | None:
    """Bytes that programs can still allocate, including what the page cache would release; None if unknown."""
    with contextlib.suppress(OSError):  # only Linux has this file
        if match := re.search(r"^MemAvailable:\s+(\d+) kB$", _MEMINFO.read_text(), re.MULTILINE):
            return 1024 * int(match[1])
    with contextlib.suppress(AttributeError, OSError, ValueError):  # macOS has no such value
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def load_canvases(
    paths: Sequence[Path], make_canvas: MakeCanvas, *, workers: int, on_progress: Callable[[int], None] | None = None
) -> tuple[np.ndarray, dict[int, str]]:
    """Decode all images into memory; a bad image does not stop the others. Arguments as in ``decode``.

    Returns uint8 (N - bad, ...), the good images in the order of ``paths``; and index of each bad image -> one line.
    """
    canvases, bad = np.empty(0, np.uint8), dict[int, str]()
    for index, result in enumerate(decode(paths, make_canvas, workers=workers, on_progress=on_progress)):
        if isinstance(result, str):
            bad[index] = result
        else:
            if not canvases.size:
                canvases = np.empty((len(paths), *result.shape), np.uint8)
            canvases[index - len(bad)] = result
    return canvases[: len(paths) - len(bad)], bad


def decode(
    paths: Sequence[Path], make_canvas: MakeCanvas, *, workers: int, on_progress: Callable[[int], None] | None = None
) -> Generator[np.ndarray | str]:
    """Yield the canvas of each image in the order of ``paths``; for a bad image, one line with path and reason.

    Args:
        paths: the image files.
        make_canvas: RGB image -> uint8 array, of the same shape for all images.
        workers: number of threads (Pillow releases the interpreter's lock while it decodes and resizes).
        on_progress: called in this thread with the number of finished images; its exceptions stop the work.
    """

    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    done = 0
    executor = ThreadPoolExecutor(max(workers, 1))
    try:
        for results in executor.map(read_canvases, chunks, repeat(make_canvas)):
            yield from results
            done += len(results)
            if on_progress is not None:
                on_progress(done)
    finally:
        executor.shutdown(cancel_futures=True)  # otherwise Ctrl-C would wait for all images
