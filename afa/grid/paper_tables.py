"""The paper's tables, from ``published.json``, and the parameter counts of Table 6.

Each published accuracy is of the best epoch on the test images, so it was selected on the test images.
"""

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

from afa.config.grid import Grid
from afa.config.settings import Settings
from afa.method.attention import ChannelAttention, SpatialAttention
from afa.networks.build import build_network
from afa.results.outcomes import Spread, format_markdown
from afa.training.learner import aligned_shapes

RUNS = 5
IMAGENET_CLASSES = 1000
"""The published parameter counts include the ImageNet head."""

_NAMES = {
    # The same run has several names in the paper's tables; it is trained once.
    ("8", "AST->ACT"): "AFA",
    ("10", "source changed"): "AFA",
    ("10", "source kept"): "AFA source kept",
    ("11", "4"): "AFA",
    ("11", "8"): "AFA 8 layers",
    ("11", "12"): "AFA 12 layers",
}


def published_accuracies(table: str) -> dict[tuple[str, str, str], Spread]:
    """(network, data set, method) -> top-1 in percent over five runs; empty for a table without accuracies."""
    content = _tables().get(table, {})
    if "networks" in content:
        by_network = content["networks"]
    elif table == "11":
        rows = {number: row["accuracy"] for number, row in content["rows"].items()}
        by_network = {"ResNet-101": {"Stanford Dogs 120": rows}}
    else:
        by_network = {"ResNet-101": content.get("rows", {})}
    return {
        (network, dataset, _NAMES.get((table, method), method)): Spread(mean, deviation, RUNS)
        for network, datasets in by_network.items()
        for dataset, methods in datasets.items()
        for method, (mean, deviation) in methods.items()
    }


def published_parameters() -> dict[str, tuple[float, float, float]]:
    """Network -> millions of parameters of the network, of four spatial and of four channel modules (Table 6)."""
    return {network: tuple(row) for network, row in _tables()["6"]["rows"].items()}


def table_title(table: str) -> str:
    """Title of a table of the paper; empty if there is no such table."""
    return str(_tables().get(table, {}).get("title", ""))


def parameter_table(grid: Grid) -> str:
    """Markdown: millions of parameters of each network, of its spatial and of its channel modules (Table 6)."""
    published = published_parameters()
    header = ["network", "parameters, million", "four spatial modules", "four channel modules", "published"]
    rows = []
    for network, settings in {cell.network: cell.first_seed for cell in grid.cells}.items():
        counted = [f"{count / 1e6:.3f}" for count in parameter_counts(settings)]
        known = " / ".join(f"{count:.2f}" for count in published.get(network, ()))
        rows.append([network, *counted, known])
    table = format_markdown(header, rows)
    return "\n".join([f"# {grid.report.name}: the paper's Table 6, parameters", "", *table, ""])


def parameter_counts(settings: Settings) -> tuple[int, int, int]:
    """Parameters of the network with an ImageNet head, and of the spatial and channel modules of its aligned layers."""

    def count(modules: Iterable[nn.Module]) -> int:
        return sum(parameter.numel() for module in modules for parameter in module.parameters())

    shapes = aligned_shapes(settings.backbone, settings.data.image_size)
    network = build_network(settings.backbone.name, IMAGENET_CLASSES)
    spatial = count(SpatialAttention(shape.height, shape.width) for shape in shapes)
    return count([network]), spatial, count(ChannelAttention(*shape) for shape in shapes)


@cache
def _tables() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))["tables"]
