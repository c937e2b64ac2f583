"""Pictures for a page that needs no other file: small, and inside the page as data."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from afa.data.images import read_image
from afa.errors import DataError


def thumbnail(path: Path, side: int) -> str | None:
    """The image at ``path`` as a data URI, at most ``side`` pixels wide and high; None where it cannot be read now."""
    try:
        image = read_image(path)
    except DataError:
        return None
    image.thumbnail((side, side))
    return data_uri(image, "JPEG")


def spread(paths: Sequence[Path], count: int) -> list[Path]:
    """At most ``count`` of the paths, at even distances: of a folder's images, of as many classes."""
    count = min(count, len(paths))
    return [paths[len(paths) * place // count] for place in range(count)]


def data_uri(image: Image.Image, kind: str = "PNG") -> str:
    """A picture as the text of an ``src`` attribute; ``kind`` is PNG or JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 80} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
