"""All plots: matplotlib figures, described once and rendered as SVG for the page of a run and as PNG files."""

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator
from PIL import Image, ImageOps
from torch import Tensor

from afa.errors import printable
from afa.inference.trained_attention import LayerAttention
from afa.method.attention import entropy
from afa.report.confusion import ClassAccuracy, Confusion
from afa.results.outcomes import EpochRow, Spread, spread

SIDE = 160  # pixels of an image in a row of images
_GAP, _CAPTION, _DPI = 6, 26, 100  # pixels between these images and of their captions; pixels per inch
_MAX_LABELLED = 30  # with more classes, names and counts would be too small to read
_MAX_LETTERS = 27  # of a name, more would not fit above an image
_INK, _QUIET, _RULE, _BLUE = "#1c2430", "#5b6676", "#d9dee6", "#2563eb"
_STYLE: dict[Any, Any] = {
    "figure.dpi": 200,
    "font.size": 8,
    "axes.titlesize": 9,
    "text.parse_math": False,  # names may contain "$"
    "svg.fonttype": "none",  # text remains text
    "svg.hashsalt": "afa",
    "text.color": _INK,
    "axes.labelcolor": _QUIET,
    "xtick.color": _QUIET,
    "ytick.color": _QUIET,
    "axes.edgecolor": _RULE,
    "grid.color": _RULE,
    "axes.axisbelow": True,
    "figure.constrained_layout.w_pad": 0.06,
    "figure.constrained_layout.h_pad": 0.06,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
}


@contextmanager
def _style() -> Iterator[None]:
    with rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a class name in a script that the font lacks
        yield


@_style()
def to_svg(figure: Figure, label: str) -> str:
    """An ``<svg>`` element for an HTML page, which inherits the page's font and the colours of style.css.

    What matplotlib takes for an artist's URL becomes the text that is shown while the mouse is over the artist.
    """
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
    )
    text = buffer.getvalue()
    text = re.sub(r"<defs>\s*<style.*?</defs>", "", text[text.index("<svg") :], count=1, flags=re.DOTALL)
    text = re.sub(r"<a xlink:href=([\"'])(.*?)\1[^>]*>", r"<g><title>\2</title>", text).replace("</a>", "</g>")

    def shorten(tag: re.Match[str]) -> str:
        short = re.sub(r'(?<=<g) id="[^"]*"|font-family: [^;"]*;?| transform="rotate\(-0 [^"]*"', "", tag[0])
        for colour, variable in ((_INK, "ink"), (_QUIET, "quiet"), (_RULE, "rule")):
            short = short.replace(colour, f"var(--{variable})")
        return re.sub(r"\d+\.\d+", lambda number: f"{float(number[0]):.4g}", " ".join(short.split()))

    text = re.sub(r">\s+<", "><", re.sub(r"<[^>]*>", shorten, text))
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


@_style()
def to_image(figure: Figure) -> Image.Image:
    """The figure as RGBA pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.array(canvas.buffer_rgba()))


def save_png(figure: Figure, path: Path) -> None:
    """Write the figure to a PNG file."""
    to_image(figure).save(path)


def tile(figures: Sequence[Figure]) -> Image.Image:
    """Figures of one size, two in a row."""
    images = [to_image(figure) for figure in figures]
    width, height = images[0].size
    tiled = Image.new("RGB", (2 * width, math.ceil(len(images) / 2) * height), "white")
    for index, image in enumerate(images):
        tiled.paste(image, (index % 2 * width, index // 2 * height))
    return tiled


# A run: curves of its stages, errors of its checkpoint.


@_style()
def stage_curves(histories: Sequence[Sequence[EpochRow]], selected_on: str) -> dict[str, Figure]:
    """Title -> figure: accuracy, losses, learning rate and entropies of a stage over its epochs.

    Args:
        histories: the epochs of each repeat; all repeats have the same colours.
        selected_on: the images that select the best epoch, ``test`` or ``held_out``.
    """
    lines: dict[str, Callable[[EpochRow], dict[str, float]]] = {
        "Accuracy, %": lambda row: {"training": row.train_top1, selected_on: row.top1},
        "Classification loss": lambda row: {"training": row.classification, selected_on: row.loss},
        "Alignment loss, not multiplied by alpha": lambda row: {"alignment": row.alignment},
        "Learning rate": lambda row: {"learning rate": row.learning_rate},
        "Entropy of the attention (1: uniform, 0: all on one entry)": lambda row: row.entropies,
    }
    figures = {}
    for title, read in lines.items():
        labels = list(read(histories[0][0]))
        figure, ((ax,),) = _panels(1, 1, width=5, height=2.8)
        shown = False  # all values are 0 for the alignment loss of a method without alignment
        for number, label in enumerate(labels):
            for repeat, history in enumerate(histories):
                points = [(row.epoch, value) for row in history if math.isfinite(value := read(row)[label])]
                shown |= any(value for _, value in points)
                ax.plot(
                    [epoch for epoch, _ in points],
                    [value for _, value in points],
                    color=f"C{number}",
                    marker="." if len(points) == 1 else "",
                    drawstyle="steps-mid" if title == "Learning rate" else "default",
                    label="" if repeat else label,
                    clip_on=False,
                )
        if not shown:
            continue
        ax.set(title=title, xlabel="epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ax.grid(axis="y", clip_on=False)
        if title.startswith("Entropy"):
            ax.set_ylim(0, 1)
        if len(labels) > 1:
            figure.legend(loc="outside lower center", ncols=min(len(labels), 4))
        figures[title] = figure
    return figures


@_style()
def confusion_matrix(confusion: Confusion) -> Figure:
    """Number of images of each true and predicted class, darker for a larger fraction of the true class."""
    index = {name: number for number, name in enumerate(confusion.totals)}
    labelled = len(index) <= _MAX_LABELLED
    cell = 20 if labelled else 5  # points
    figure = Figure(figsize=(cell * len(index) / 72, cell * len(index) / 72))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.scatter(
        [index[predicted] for _, predicted in confusion.counts],
        [index[true] for true, _ in confusion.counts],
        s=cell**2,
        marker="s",
        # At most 0.7, so that the contrast to the counts is at least 4.5.
        color=[to_rgba(_BLUE, 0.7 * count / confusion.totals[true]) for (true, _), count in confusion.counts.items()],
        linewidths=0,
        clip_on=False,
        urls=[
            printable(f"{true} classified as {predicted}: {count} of {confusion.totals[true]}")
            for (true, predicted), count in confusion.counts.items()
        ],
    )
    ax.set(xlim=(-0.5, len(index) - 0.5), ylim=(len(index) - 0.5, -0.5), xlabel="predicted", ylabel="true")
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    ax.spines[:].set_visible(True)
    if labelled:
        names = [_short(name) for name in index]
        ax.set_xticks(range(len(names)), names, rotation=90)
        ax.set_yticks(range(len(names)), names)
        for (true, predicted), count in confusion.counts.items():
            ax.text(index[predicted], index[true], str(count), ha="center", va="center")
    else:
        ax.set(xticks=[], yticks=[])
    # The names are outside the axes: enlarge the figure until it contains them.
    bounds = figure.get_tightbbox().padded(0.05)
    ax.set_position((-bounds.x0 / bounds.width, -bounds.y0 / bounds.height, *(figure.get_size_inches() / bounds.size)))
    figure.set_size_inches(bounds.size)
    return figure


@_style()
def class_accuracies(accuracies: Sequence[ClassAccuracy]) -> Figure:
    """A bar for each class, the first class on top."""
    figure, ((ax,),) = _panels(1, 1, width=5, height=0.18 * len(accuracies))
    bars = ax.barh(range(len(accuracies)), [accuracy.top1 for accuracy in accuracies], color=_BLUE)
    ax.bar_label(bars, fmt="%.1f", padding=3)
    ax.set_yticks(range(len(accuracies)), [_short(accuracy.name) for accuracy in accuracies])
    ax.set(xlim=(0, 100), ylim=(len(accuracies) - 0.5, -0.5), title="Top-1 of each class, %")
    ax.set_xticks([])
    return figure


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= _MAX_LETTERS else f"{name[: _MAX_LETTERS - 1]}…"


def _panels(rows: int, columns: int, *, width: float, height: float) -> tuple[Figure, list[list[Axes]]]:
    """A grid of axes; ``width`` and ``height`` of each in inches."""
    figure = Figure(figsize=(width * columns, height * rows + 0.4), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False).tolist()


# Images: attention and activations of a checkpoint, examples of errors.


class Captioned(NamedTuple):
    """An image, and the two lines of its caption."""

    image: Image.Image
    title: str
    detail: str = ""


@_style()
def image_rows(rows: Sequence[Sequence[Captioned]]) -> Figure:
    """Images of ``SIDE`` pixels in rows, the caption above each."""
    width = max(map(len, rows)) * (SIDE + _GAP) + _GAP
    height = len(rows) * (SIDE + _CAPTION + _GAP) + _GAP
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    for row, images in enumerate(rows, start=1):
        for column, (image, title, detail) in enumerate(images):
            x, y = _GAP + column * (SIDE + _GAP), height - row * (SIDE + _CAPTION + _GAP)
            square = ImageOps.pad(image.convert("RGBA"), (SIDE, SIDE), color=(0, 0, 0, 0))
            figure.figimage(np.asarray(square), x, y)
            caption = f"{_short(title)}\n{_short(detail)}"
            figure.text(x / width, (y + SIDE + 2) / height, caption, va="bottom", fontsize=7)
    return figure


def attention_rows(
    images: Sequence[Image.Image], attention: Sequence[LayerAttention]
) -> dict[str, list[list[Captioned]]]:
    """``spatial`` or ``channel``, as the attention is -> a row for each image: the image, the attention of each layer.

    The caption of spatial attention contains its minimum and maximum in multiples of uniform
    attention, the caption of channel attention its entropy.
    """
    kinds: dict[str, list[list[Captioned]]] = {}
    for layer, kind, weights in attention:
        rows = kinds.setdefault(kind, [[Captioned(image.resize((SIDE, SIDE)), "image")] for image in images])
        for row, own in zip(rows, weights, strict=True):
            if kind == "spatial":
                relative = own.numpy() * own.numel()
                grey = row[0].image.convert("L").convert("RGB")
                image = Image.blend(grey, heat_map(relative, 0, 2), 0.6)
                row.append(Captioned(image, layer, f"{relative.min():.2f} to {relative.max():.2f}"))
            else:
                image = to_image(sorted_weights(own.numpy()))
                row.append(Captioned(image, layer, f"entropy {entropy(own[None]).item():.3f}"))
    return kinds


def activation_rows(images: Sequence[Image.Image], maps: Mapping[str, Tensor]) -> list[list[Captioned]]:
    """The same channel of one layer in several networks (Figure 2 of the paper), a row for each image.

    The channel is the one with the largest spatial variance in the first network. All maps of a row
    have one colour scale.

    Args:
        maps: title of a network -> its maps of the images, (B, C, H, W).
    """
    rows = []
    channels = next(iter(maps.values())).flatten(2).var(dim=2, correction=0).argmax(dim=1).tolist()
    for index, (image, channel) in enumerate(zip(images, channels, strict=True)):
        values = {title: of_network[index, channel].numpy() for title, of_network in maps.items()}
        low, high = min(map(np.min, values.values())), max(map(np.max, values.values()))
        rows.append(
            [
                Captioned(image, "image", f"channel {channel}"),
                *(Captioned(heat_map(map_, low, high), title) for title, map_ in values.items()),
            ]
        )
    return rows


def heat_map(values: np.ndarray, low: float, high: float) -> Image.Image:
    """(H, W) values as an image of ``SIDE`` pixels, from dark blue (``low``) to yellow (``high``)."""
    colours = colormaps["cividis"]((values - low) / ((high - low) or 1), bytes=True)
    return Image.fromarray(colours).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)


@_style()
def sorted_weights(weights: np.ndarray) -> Figure:
    """(N,) weights in descending order as bars; the line is the uniform weight."""
    figure = Figure(figsize=(SIDE / _DPI, SIDE / _DPI), dpi=_DPI, facecolor="none")
    ax = figure.add_axes((0, 0, 1, 1))
    ax.stairs(np.sort(weights)[::-1], fill=True, color=_BLUE)
    ax.axhline(1 / len(weights), color=_QUIET)
    ax.set(xlim=(0, len(weights)), ylim=(0, max(weights.max(), 2 / len(weights))))
    ax.axis("off")
    return figure


# A grid of runs. These functions return None if there is nothing to plot.


class Accuracies(NamedTuple):
    """Top-1 of one method: last epoch, best epoch, and published; None where there is no value."""

    network: str
    dataset: str
    method: str
    last: Spread | None
    best: Spread | None
    published: Spread | None


@_style()
def accuracy_panels(rows: Sequence[Accuracies], selected_on: str) -> Figure | None:
    """A panel for each network and data set: accuracies of all methods.

    Args:
        selected_on: the images that selected the best epochs; empty: ``test``.
    """
    shown = [row for row in rows if row.last or row.published]
    if not shown:
        return None
    networks, datasets, methods = (list(dict.fromkeys(names)) for names in list(zip(*shown, strict=True))[:3])
    figure, axes = _panels(len(networks), len(datasets), width=4.5, height=0.8 + 0.3 * len(methods))
    for panel_row, network in zip(axes, networks, strict=True):
        for ax, dataset in zip(panel_row, datasets, strict=True):
            ax.set(title=f"{network}, {dataset}", xlabel="top-1, %", ylim=(len(methods) - 0.5, -0.5))
            ax.set_yticks(range(len(methods)), methods)
            ax.grid(axis="x")
    for row in shown:
        ax, y = axes[networks.index(row.network)][datasets.index(row.dataset)], methods.index(row.method)
        markers = ((row.last, -0.2, "o", "C0"), (row.best, 0.0, "s", "C1"), (row.published, 0.2, "D", "black"))
        for value, shift, marker, colour in markers:
            if value:
                ax.errorbar(value.mean, y + shift, xerr=value.deviation, fmt=marker, color=colour, markersize=4)
    figure.suptitle(f"circle: last epoch, square: best epoch on {selected_on or 'test'}, diamond: published")
    return figure


@_style()
def loss_curves(panels: Mapping[str, Mapping[str, Sequence[Sequence[Mapping[str, float]]]]]) -> Figure | None:
    """Cross-entropy (training and test) and total loss (training) over the epochs of all stages, mean of the seeds.

    Args:
        panels: title -> method -> the epochs of each seed, as columns of ``log.txt`` -> value.
    """
    if not panels:
        return None
    figure, axes = _panels(len(panels), 2, width=4.5, height=3.5)
    for (cross_entropy, total), (title, methods) in zip(axes, panels.items(), strict=True):
        for number, (method, seeds) in enumerate(methods.items()):
            for ax, column, linestyle in (
                (cross_entropy, "clc_loss", "-"),
                (cross_entropy, "val_loss", "--"),
                (total, "train_total_loss", "-"),
            ):
                means = {}
                for epoch in range(max(map(len, seeds))):
                    values = [history[epoch].get(column, math.nan) for history in seeds if epoch < len(history)]
                    if finite := [value for value in values if math.isfinite(value)]:
                        means[epoch + 1] = fmean(finite)
                ax.plot(list(means), list(means.values()), linestyle, color=f"C{number}", label=method)
        cross_entropy.set(title=title, xlabel="epoch", ylabel="cross-entropy")
        total.set(title=title, xlabel="epoch", ylabel="total loss", yscale="log")
        for ax in (cross_entropy, total):
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        total.yaxis.set_major_formatter(LogFormatter())  # the default is a formula
        total.yaxis.set_minor_formatter(LogFormatter())
        total.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle("solid: training, dashed: test; mean of the seeds, all stages in order")
    return figure


@_style()
def images_per_class(
    measured: Mapping[str, Mapping[str, Mapping[float, Sequence[float]]]],
    published: Mapping[str, Mapping[str, Mapping[float, float]]],
) -> Figure | None:
    """A panel for each network: accuracy of the best epoch over the number of training images per class.

    Args:
        measured: network -> method -> training images per class -> top-1 of each seed, in percent.
        published: the same with one top-1; networks and methods may be missing.
    """
    if not measured:
        return None
    figure, axes = _panels(1, len(measured), width=max(4.5, 7 / len(measured)), height=4)
    for ax, (network, methods) in zip(axes[0], measured.items(), strict=True):
        for number, (method, points) in enumerate(methods.items()):
            spreads = {images: spread(values) for images, values in sorted(points.items())}
            means, deviations = [s.mean for s in spreads.values()], [s.deviation for s in spreads.values()]
            ax.errorbar(list(spreads), means, yerr=deviations, fmt="o-", color=f"C{number}", label=method)
            marks = published.get(network, {}).get(method, {})
            ax.plot(list(marks), list(marks.values()), "D", color=f"C{number}", fillstyle="none")
        ax.set(title=f"{network}; diamonds: published", xlabel="training images per class", ylabel="best top-1, %")
        ax.legend()
    return figure
