"""Where, and in which channels, the attention looks: over the image for each layer, and as sorted bars."""

from collections.abc import Mapping, Sequence

from PIL import Image
from torch import Tensor

from afa.method.attention import entropy
from afa.report.heat import bars, grid, overlay

_SIDE = 160  # pixels of a picture
_BARS = 240  # width of a layer's bars


def draw_spatial(pictures: Sequence[Image.Image], weights: Mapping[str, Tensor]) -> Image.Image:
    """A row an image, a column a layer: the layer's (B, H, W) weights over the image.

    The caption says how often uniform attention the least and the most attended position have.
    """
    rows = []
    for index, picture in enumerate(pictures):
        row = [(picture.resize((_SIDE, _SIDE)), "image")]
        for layer, maps in weights.items():
            values = maps[index].numpy() * maps[index].numel()
            row.append((overlay(row[0][0], values), f"{layer}: {values.min():.2f} to {values.max():.2f}"))
        rows.append(row)
    return grid(rows)


def draw_channel(pictures: Sequence[Image.Image], weights: Mapping[str, Tensor]) -> Image.Image:
    """A row an image, a column a layer: its (B, C) weights, the largest first; the line is uniform attention."""
    rows = []
    for index, picture in enumerate(pictures):
        row = [(picture.resize((_SIDE, _SIDE)), "image")]
        for layer, all_weights in weights.items():
            own = all_weights[index]
            said = f"{layer}: entropy {entropy(own[None]).item():.3f}, most {own.argmax().item()}"
            row.append((bars(own.numpy(), _BARS, _SIDE), said))
        rows.append(row)
    return grid(rows)
