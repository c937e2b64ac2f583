"""Read an image file as 8-bit RGB pixels, or explain in one line what is wrong with the file."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from afa.errors import DataError

# Recognised by content, not by file name. Pillow knows 40 more formats, some of which start other programs.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # JPEG includes MPO: two JPEG images in one file
MAX_PIXELS = 89_478_485  # Pillow's own limit, a quarter of a GiB as RGB; Pillow only warns
MakeCanvas = Callable[[Image.Image], np.ndarray]
"""RGB image -> uint8 array, see ``Preprocessing`` in ``data/transforms.py``."""


def read_canvas(path: Path, make_canvas: MakeCanvas) -> np.ndarray:
    """``make_canvas`` of the image at ``path``.

    Raises:
        DataError: the image cannot be used; one line with path and reason.
    """
    image = read_image(path)
    try:
        return make_canvas(image)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def read_image(path: Path) -> Image.Image:
    """Read the image at ``path`` as RGB; of an animated image, the first frame.

    The pixels are those of ``Image.open(path).convert("RGB")``, as in torchvision; an EXIF
    rotation is not applied. The exception is 16-bit grey: its values are divided by 256.

    Raises:
        DataError: the image cannot be used; one line with path and reason.
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
