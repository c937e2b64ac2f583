"""The same channel of the same layer in several networks, side by side (the paper's Figure 2)."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from afa.networks.features import FrozenSource
from afa.report.heat import grid, heat_map

_SIDE = 160  # pixels of a map


def draw_activations(
    networks: Mapping[str, FrozenSource], layers: Sequence[str], pictures: Sequence[Image.Image], images: Tensor
) -> dict[str, Image.Image]:
    """For each layer one picture: a row an image, a column a network, in the colours of one scale a row.

    Args:
        networks: title -> the network; the first one decides which channel of an image is shown.
        layers: names of the layers that the networks return.
        pictures: the images as they are shown.
        images: the same, normalised, (B, 3, S, S), on the networks' device.
    """
    maps = {title: network(images) for title, network in networks.items()}
    drawn = {}
    for place, layer in enumerate(layers):
        of_layer = {title: found[place].cpu() for title, found in maps.items()}
        channels = telling_channels(next(iter(of_layer.values())))
        rows = []
        for index, (picture, channel) in enumerate(zip(pictures, channels, strict=True)):
            shown = {title: found[index, channel].numpy() for title, found in of_layer.items()}
            rows.append(_row(picture, f"channel {channel}", shown))
        drawn[layer] = grid(rows)
    return drawn


def telling_channels(maps: Tensor) -> list[int]:
    """(B, C, H, W) -> for each image the channel that differs most from place to place."""
    channels: list[int] = torch.var(maps.flatten(2), dim=2, correction=0).argmax(dim=1).tolist()
    return channels


def _row(picture: Image.Image, caption: str, maps: Mapping[str, np.ndarray]) -> list[tuple[Image.Image, str]]:
    bounds = min(float(m.min()) for m in maps.values()), max(float(m.max()) for m in maps.values())
    row = [(picture.resize((_SIDE, _SIDE)), caption)]
    return row + [(heat_map(values, _SIDE, bounds), title) for title, values in maps.items()]
