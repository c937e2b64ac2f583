"""Where, and in which channels, the attention looks: over the image for each layer, and as sorted bars."""

from collections.abc import Callable, Sequence

from PIL import Image
from torch import Tensor

from afa.inference.attention_maps import LayerAttention
from afa.method.attention import entropy
from afa.report.heat import bars, overlay

_SIDE = 160  # pixels of a picture
_BARS = 240  # width of a layer's bars

Row = list[tuple[Image.Image, str]]
"""Pictures with their captions."""


def attention_rows(pictures: Sequence[Image.Image], attention: Sequence[LayerAttention]) -> dict[str, list[Row]]:
    """``spatial`` or ``channel``, as the attention is -> a row an image: the image, then each layer's attention."""
    rows: dict[str, list[Row]] = {}
    for kind, draw in _DRAW.items():
        layers = [one for one in attention if one.kind == kind]
        if layers:
            rows[kind] = [
                [(small, "image"), *(draw(small, one.layer, one.weights[index]) for one in layers)]
                for index, small in enumerate(picture.resize((_SIDE, _SIDE)) for picture in pictures)
            ]
    return rows


def _spatial(picture: Image.Image, layer: str, weights: Tensor) -> tuple[Image.Image, str]:
    """(H, W) weights over the image; the caption has the smallest and the largest as multiples of uniform attention."""
    values = weights.numpy() * weights.numel()
    return overlay(picture, values), f"{layer}: {values.min():.2f} to {values.max():.2f}"


def _channel(picture: Image.Image, layer: str, weights: Tensor) -> tuple[Image.Image, str]:
    """(C,) weights, the largest first; the line is uniform attention."""
    return bars(weights.numpy(), _BARS, _SIDE), f"{layer}: entropy {entropy(weights[None]).item():.3f}"


_DRAW: dict[str, Callable[[Image.Image, str, Tensor], tuple[Image.Image, str]]] = {
    "spatial": _spatial,
    "channel": _channel,
}
