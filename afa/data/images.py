"""Image files as 8-bit RGB pixels, one or all of a split, or in one line what is wrong with a file."""

import contextlib
import os
import re
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from afa.errors import DataError

# Recognised by content, not by file name. Pillow knows 40 more formats, some of which start other programs.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # JPEG includes MPO: two JPEG images in one file
MAX_PIXELS = 89_478_485  # Pillow's own limit, a quarter of a GiB as RGB; Pillow only warns
_CHUNK = 32  # images per task: few enough for a steady progress bar, enough to hide the cost of a task
_MEMINFO = Path("/proc/meminfo")
MakeCanvas = Callable[[Image.Image], np.ndarray]
"""RGB image -> uint8 array, see ``Preprocessing`` in ``data/transforms.py``."""


def read_canvas(path: Path, make_canvas: MakeCanvas) -> np.ndarray:
    """``make_canvas`` of the image at ``path``. Raises DataError, one line, if it cannot be used."""
    image = read_image(path)
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


def read_image(path: Path) -> Image.Image:
    """Read the image at ``path`` as RGB; of an animated image, the first frame.

    The pixels are those of ``Image.open(path).convert("RGB")``, as in torchvision; an EXIF rotation is not applied. The
    exception is 16-bit grey: its values are divided by 256. Raises DataError, one line, if the image cannot be used.
    """
    try:
        with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
            if (pixels := image.width * image.height) > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{pixels} pixels")
            image.info.pop("transparency", None)  # the RGB pixels do not depend on it, but Pillow would warn
            if not image.mode.startswith(("I", "F")):
                return image.convert("RGB")
            values = np.asarray(image)
            if image.mode == "F" or values.min() < 0 or values.max() > 0xFFFF:
                raise ValueError("32-bit pixels of unknown range; save the image with 8 or 16 bits")
            # Pillow's convert("RGB") clips: all but the darkest 256 of the 65,536 values would become white.
            return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    except Exception as error:  # Pillow's decoders raise nearly every type on damaged bytes
        raise DataError(f"{path}: {_reason(path, error)}") from error


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
