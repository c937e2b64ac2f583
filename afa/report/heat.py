"""Numbers as colours, with Pillow alone: heat maps over an image, bars, and tables of pictures with captions."""

import itertools
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from afa.errors import printable

_PALETTE = ("#00204c", "#31446b", "#666870", "#958f78", "#cab969", "#ffe945")
"""Dark to bright in even steps of lightness, blue to yellow: told apart also without seeing red and green (cividis)."""
_INK, _PAPER, _BAR = "#1c2430", "#ffffff", "#2563eb"
_FONT = ImageFont.load_default(size=13)
_GAP = 6
_LINE = 20  # pixels of a caption


def heat(values: np.ndarray) -> np.ndarray:
    """(H, W) numbers in 0 .. 1 -> uint8 (H, W, 3) colours."""
    anchors = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in _PALETTE], dtype=float)
    places = np.linspace(0, 1, len(anchors))
    channels = [np.interp(values, places, anchors[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def stretch(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Numbers in ``low`` .. ``high`` brought to 0 .. 1; all 0.5 where the two are the same."""
    return (values - low) / (high - low) if high > low else np.full_like(values, 0.5)


def heat_map(values: np.ndarray, side: int, bounds: tuple[float, float] | None = None) -> Image.Image:
    """(H, W) numbers as a picture of ``side`` pixels, dark to bright between ``bounds``, or their own extremes."""
    low, high = bounds or (float(values.min()), float(values.max()))
    return Image.fromarray(heat(stretch(values, low, high))).resize((side, side), Image.Resampling.BICUBIC)


def overlay(picture: Image.Image, values: np.ndarray) -> Image.Image:
    """(H, W) numbers over a square RGB picture, of which the greys are left."""
    return Image.blend(picture.convert("L").convert("RGB"), heat_map(values, picture.width), 0.6)


def bars(values: np.ndarray, width: int, height: int) -> Image.Image:
    """(N,) numbers from 0 on, the largest first, as bars; a line where all would be if they were equal."""
    ordered = np.sort(values)[::-1]
    top = max(float(ordered[0]), 2 / len(ordered))
    # A column of pixels shows the mean of the values that fall on it.
    edges = np.linspace(0, len(ordered), width + 1)
    levels = [ordered[int(a) : max(int(b), int(a) + 1)].mean() for a, b in itertools.pairwise(edges)]
    image = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(image)
    for x, level in enumerate(levels):
        draw.line([(x, height), (x, height - height * level / top)], fill=_BAR)
    even = height - height / len(ordered) / top
    draw.line([(0, even), (width, even)], fill=_INK)
    return image


def grid(rows: Sequence[Sequence[tuple[Image.Image, str]]]) -> Image.Image:
    """Pictures with a caption above each, in rows; they may differ in size."""
    widths = [sum(picture.width + _GAP for picture, _ in row) + _GAP for row in rows]
    heights = [max(picture.height for picture, _ in row) + _LINE + _GAP for row in rows]
    image = Image.new("RGB", (max(widths), sum(heights) + _GAP), _PAPER)
    draw = ImageDraw.Draw(image)
    y = _GAP
    for row, height in zip(rows, heights, strict=True):
        x = _GAP
        for picture, caption in row:
            draw.text((x, y), _fitting(caption, picture.width), fill=_INK, font=_FONT)
            image.paste(picture, (x, y + _LINE))
            x += picture.width + _GAP
        y += height
    return image


def _fitting(text: str, width: int) -> str:
    """The text on one line, or as much of it as has room."""
    text = printable(text)
    while text and _FONT.getlength(text) > width:
        text = text.rstrip("…")[:-1] + "…" if len(text) > 1 else ""
    return text
