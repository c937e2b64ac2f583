"""The paper's figures, from ``published.json``: top-1 in percent, mean and standard deviation over five runs.

Each is the best *test* epoch, so it was selected on the test images.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from afa.results.figures import Spread

RUNS = 5
_FILE = Path(__file__).with_name("published.json")
_NAMES = {
    # One run has several names in the paper's tables; it is trained once.
    ("8", "AST->ACT"): "AFA",
    ("10", "source changed"): "AFA",
    ("10", "source kept"): "AFA source kept",
    ("11", "4"): "AFA",
    ("11", "8"): "AFA 8 layers",
    ("11", "12"): "AFA 12 layers",
}


def published_accuracies(table: str) -> dict[tuple[str, str, str], Spread]:
    """(network, data set, method) -> accuracy in a table of the paper; empty for a table that has none."""
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
    """Network -> millions of parameters of it, of four spatial and of four channel modules (Table 6)."""
    return {network: tuple(row) for network, row in _tables()["6"]["rows"].items()}


def title_of(table: str) -> str:
    """What a table of the paper shows; empty for none."""
    return str(_tables().get(table, {}).get("title", ""))


@cache
def _tables() -> dict[str, Any]:
    return json.loads(_FILE.read_text(encoding="utf-8"))["tables"]
