"""Table 6: parameters of the networks and of their attentive modules, counted, beside the published figures."""

from collections.abc import Iterable

from torch import nn

from afa.config.grid import Grid
from afa.config.settings import Settings
from afa.grid.published import published_parameters
from afa.method.attention import ChannelAttention, SpatialAttention
from afa.networks.build import build_network
from afa.networks.features import FeatureNetwork
from afa.training.setup import aligned_layers

IMAGENET_CLASSES = 1000
"""The published count is of the network with its own head."""


def parameter_table(grid: Grid) -> str:
    """Markdown: millions of parameters of each network, of its spatial and of its channel modules."""
    published = published_parameters()
    lines = [
        "| network | parameters, million | four spatial modules | four channel modules | published |",
        "|---|---|---|---|---|",
    ]
    for network, settings in {cell.network: cell.first_seed for cell in grid.cells}.items():
        counted = " | ".join(f"{count / 1e6:.3f}" for count in count_parameters(settings))
        known = " / ".join(f"{count:.2f}" for count in published.get(network, ()))
        lines.append(f"| {network} | {counted} | {known} |")
    return "\n".join([f"# {grid.report.name}: the paper's Table 6, parameters", "", *lines, ""])


def count_parameters(settings: Settings) -> tuple[int, int, int]:
    """Parameters of the network with ImageNet's head, and of the spatial and channel modules of its aligned layers."""
    network = build_network(settings.backbone.name, IMAGENET_CLASSES)
    features = FeatureNetwork(network, aligned_layers(settings.backbone))
    shapes = features.map_shapes(settings.data.image_size)
    spatial = _count(SpatialAttention(shape.height, shape.width) for shape in shapes)
    return _count([network]), spatial, _count(ChannelAttention(*shape) for shape in shapes)


def _count(modules: Iterable[nn.Module]) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())
