"""The PNGs of a grid: accuracies beside the published ones, curves over the epochs, accuracy over images a class."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from afa.config.layout import stage_folder
from afa.grid.published import published_accuracies
from afa.grid.runs import Run, State
from afa.grid.summary import Row
from afa.results.figures import spread

Panel = tuple[str, str]
"""A network and a data set."""


def draw_table(rows: Sequence[Row]) -> Figure | None:
    """A panel a network and data set: accuracy of each method, last and best epoch and published."""
    shown = [row for row in rows if row.last or row.published]
    if not shown:
        return None
    networks, datasets = list(dict.fromkeys(r.network for r in shown)), list(dict.fromkeys(r.dataset for r in shown))
    methods = list(dict.fromkeys(row.method for row in shown))
    figure, axes = _panels(len(networks), len(datasets), height=0.8 + 0.3 * len(methods))
    for row in shown:
        ax = axes[networks.index(row.network)][datasets.index(row.dataset)]
        y = methods.index(row.method)
        for value, shift, style in ((row.last, -0.2, "o"), (row.best, 0.0, "s"), (row.published, 0.2, "D")):
            if value:
                colour = {"o": "tab:blue", "s": "tab:orange", "D": "black"}[style]
                ax.errorbar(value.mean, y + shift, xerr=value.deviation, fmt=style, color=colour, markersize=4)
    for panel_row, network in zip(axes, networks, strict=True):
        for ax, dataset in zip(panel_row, datasets, strict=True):
            ax.set(title=f"{network}, {dataset}", xlabel="top-1 %", yticks=range(len(methods)), yticklabels=methods)
            ax.set_ylim(len(methods) - 0.5, -0.5)
            ax.grid(axis="x", alpha=0.3)
    selected = "/".join(sorted({row.selected_on for row in shown if row.selected_on})) or "test"
    figure.suptitle(f"circle: last epoch, square: best epoch on {selected}, diamond: published", fontsize=9)
    return figure


def draw_curves(runs: Sequence[Run]) -> Figure | None:
    """Cross-entropy (training and test) and total loss (training) over the epochs of all stages, mean of the seeds."""
    histories: dict[Panel, dict[str, list[list[dict[str, float]]]]] = {}
    for run in runs:
        history = _history(run)
        if history:
            panel = histories.setdefault((run.cell.network, run.cell.dataset), {})
            panel.setdefault(run.cell.method, []).append(history)
    if not histories:
        return None
    figure, axes = _panels(len(histories), 2, height=3.5)
    for (cross_entropy, total), ((network, dataset), methods) in zip(axes, histories.items(), strict=True):
        for number, (method, seeds) in enumerate(methods.items()):
            colour = f"C{number}"
            _plot(cross_entropy, seeds, "clc_loss", color=colour)
            _plot(cross_entropy, seeds, "val_loss", color=colour, linestyle="--")
            _plot(total, seeds, "train_total_loss", color=colour, label=method)
        cross_entropy.set(title=f"{network}, {dataset}", xlabel="epoch", ylabel="cross-entropy")
        total.set(title=f"{network}, {dataset}", xlabel="epoch", ylabel="total loss", yscale="log")
        total.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle("solid: training, dashed: test; mean of the seeds, all stages one after the other", fontsize=9)
    return figure


def draw_images_per_class(runs: Sequence[Run]) -> Figure | None:
    """Accuracy of the best epoch over the training images of a class, a line a method."""
    lines: dict[str, dict[str, dict[float, list[float]]]] = {}
    known = published_accuracies("3")
    published: dict[str, dict[str, dict[float, float]]] = {}
    for run in runs:
        if run.state is not State.DONE or run.data is None:
            continue
        network, _, method = run.cell.group
        images = round(run.data["train"]["images"] / run.data["classes"], 1)
        points = lines.setdefault(network, {}).setdefault(method, {})
        points.setdefault(images, []).append(run.stages[-1].best.test_top1)
        if run.cell.group in known:
            published.setdefault(network, {}).setdefault(method, {})[images] = known[run.cell.group].mean
    if not lines:
        return None
    figure, axes = _panels(1, len(lines), height=4)
    for ax, (network, methods) in zip(axes[0], lines.items(), strict=True):
        for number, (method, points) in enumerate(methods.items()):
            spreads = {images: spread(values) for images, values in sorted(points.items())}
            deviations = [value.deviation for value in spreads.values()]
            means = [value.mean for value in spreads.values()]
            ax.errorbar(list(spreads), means, yerr=deviations, fmt="o-", color=f"C{number}", label=method)
            marks = published.get(network, {}).get(method, {})
            ax.plot(list(marks), list(marks.values()), "D", color=f"C{number}", fillstyle="none")
        ax.set(title=f"{network}; diamonds: published", xlabel="training images a class", ylabel="best top-1 %")
        ax.legend()
    return figure


def _panels(rows: int, columns: int, height: float) -> tuple[Figure, list[list[Axes]]]:
    figure = Figure(figsize=(max(4.5 * columns, 7), height * rows + 0.6), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False).tolist()


def _history(run: Run) -> list[dict[str, float]]:
    """The rows of ``log.txt``, of all stages one after the other; as far as they can be read."""
    rows: list[dict[str, float]] = []
    stages = len(run.cell.first_seed.stages)
    for stage in range(1, stages + 1):
        rows += _read_log(stage_folder(run.cell.folder, repeat=1, repeats=1, stage=stage, stages=stages) / "log.txt")
    return rows


def _read_log(path: Path) -> list[dict[str, float]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [{name: float(cell) for name, cell in row.items()} for row in csv.DictReader(file, delimiter="\t")]
    except (OSError, ValueError, TypeError):
        return []


def _plot(ax: Axes, seeds: Sequence[Sequence[dict[str, float]]], name: str, **style: Any) -> None:
    """The mean over the seeds, of the epochs that one of them has a figure for."""
    points = []
    for epoch in range(max(map(len, seeds))):
        values = [history[epoch].get(name, math.nan) for history in seeds if epoch < len(history)]
        finite = [value for value in values if math.isfinite(value)]
        if finite:
            points.append((epoch + 1, fmean(finite)))
    ax.plot([epoch for epoch, _ in points], [value for _, value in points], **style)
