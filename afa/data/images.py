"""An image file -> 8-bit RGB pixels, or one line that says what is wrong with the file."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from afa.errors import DataError

# Told by content, as endings lie. Pillow knows 40 formats more, some of which start other programs.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # JPEG includes MPO, the cameras' two JPEGs in one file
MAX_PIXELS = 89_478_485  # Pillow's own limit for RGB, a quarter of a GiB, where it only warns


def read_canvas(path: Path, make_canvas: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    """The image at ``path`` as ``make_canvas`` lays it out.

    Raises:
        DataError: the image cannot be used; one line, path and reason.
    """
    image = read_image(path)
    try:
        return make_canvas(image)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def read_image(path: Path) -> Image.Image:
    """The image at ``path``, the first frame of a moving one, in RGB.

    The pixels are those of ``Image.open(path).convert("RGB")``, as in torchvision: an
    EXIF rotation is not applied. Only 16-bit grey differs, see ``_to_rgb``.

    Raises:
        DataError: the image cannot be used; one line, path and reason.
    """
    try:
        with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise _RefusedError(_too_large(image.width * image.height))
            return _to_rgb(image)
    except Exception as error:  # Pillow's decoders raise nearly every type on damaged bytes
        raise DataError(f"{path}: {_reason(path, error)}") from error


class _RefusedError(Exception):
    """An image that could be decoded and is not wanted; the text is the reason."""


def _to_rgb(image: Image.Image) -> Image.Image:
    # The pixels do not depend on it, but Pillow warns of what RGB cannot keep.
    image.info.pop("transparency", None)
    if not image.mode.startswith(("I", "F")):
        return image.convert("RGB")
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 0xFFFF:
        raise _RefusedError("32-bit pixels, of which the range is not known; save it with 8 or 16 bits")
    # Pillow's convert("RGB") clips: all but the darkest 256 of the 65,536 levels would turn white.
    return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")


def _reason(path: Path, error: Exception) -> str:
    """What ``error``, met while reading ``path``, means in plain words."""
    text = str(error)
    match error:
        case _RefusedError():
            return text
        case Image.DecompressionBombError() | Image.DecompressionBombWarning():
            pixels = re.search(r"\d+", text)
            return _too_large(int(pixels[0])) if pixels else text
        case UnidentifiedImageError():
            with path.open("rb") as file:
                start = file.read(16)
            return f"not an image: begins with {start!r}" if start else "empty file"
        case PermissionError():
            return "no permission to read it"
        case FileNotFoundError():
            return "a link to a file that is gone" if path.is_symlink() else "no such file"
    if "truncated" in text.lower():
        return "truncated: the end of the image is missing"
    return f"cannot be decoded: {' '.join(text.split()) or type(error).__name__}"


def _too_large(pixels: int) -> str:
    return f"too large: {pixels / 1e6:.0f} million pixels, at most {MAX_PIXELS / 1e6:.0f} are decoded; make it smaller"
