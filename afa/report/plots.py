"""All plots: matplotlib figures, described once and rendered as SVG for the page of a run and as PNG files."""

import io
import math
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, product, zip_longest
from typing import Any, NamedTuple

import numpy as np
from cycler import cycler
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
from afa.report.confusion import Confusion
from afa.results.outcomes import ClassScore, EpochRow, Spread, spread

SIDE = 320  # pixels of an image in a row of images
_GAP, _CAPTION, _DPI = 12, 52, 200  # pixels between these images and of their captions; pixels per inch
_MAX_LABELLED = 30  # with more classes, names and counts would be too small to read
_MAX_LETTERS = 27  # of a name, more would not fit above an image
_INK, _QUIET, _RULE, _BLUE = "#1c2430", "#5b6676", "#d9dee6", "#2563eb"
LINES = ("#2f6fe4", "#d97706", "#0d9488", "#c0399f", "#6d7f14", "#8b5cf6", "#dc4c3e", "#0e8bb0")
"""Colours of lines, with a contrast of at least 3 to the light and the dark background of the page."""

_STYLE: dict[Any, Any] = {
    "figure.dpi": _DPI,
    "axes.prop_cycle": cycler(color=LINES),
    "font.size": 8,
    "axes.titlesize": 9,
    "text.parse_math": False,  # names may contain "$"
    "svg.fonttype": "none",  # text remains text
    "svg.hashsalt": "afa",
    "text.color": _INK,
    **dict.fromkeys(("axes.labelcolor", "xtick.color", "ytick.color"), _QUIET),
    **dict.fromkeys(("axes.edgecolor", "grid.color"), _RULE),
    "axes.axisbelow": True,
    **dict.fromkeys(("figure.constrained_layout.w_pad", "figure.constrained_layout.h_pad"), 0.06),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size", "ytick.minor.size"), 0),
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
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer := io.StringIO(), format="svg", transparent=True, metadata=no_metadata)
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


@_style()
def titled(image: Image.Image, title: str, note: str = "") -> Image.Image:
    """The image under a title and a note, on white. Both are broken into lines that fit its width.

    An image that is narrower than four inches gets a margin at its right.
    """
    width = max(image.width, 4 * _DPI)
    inch = width / _DPI
    lines = [(line, 10, _INK) for line in textwrap.wrap(printable(title), int(11 * inch))]
    lines += [(line, 8, _QUIET) for line in textwrap.wrap(printable(note), int(15 * inch))]
    top = sum(1.5 * size for _, size, _ in lines) / 72 + 0.12
    figure = Figure(figsize=(inch, top), dpi=_DPI, facecolor="white")
    y = 0.06
    for text, size, colour in lines:
        figure.text(0.06 / inch, 1 - y / top, text, va="top", fontsize=size, color=colour)
        y += 1.5 * size / 72
    heading = to_image(figure)
    whole = Image.new("RGB", (width, heading.height + image.height), "white")
    whole.paste(heading, (0, 0))
    whole.paste(image, (0, heading.height), image if image.mode == "RGBA" else None)
    return whole


def tile(figures: Sequence[Figure]) -> Image.Image:
    """Figures of one size, two in a row."""
    images = [to_image(figure) for figure in figures]
    width, height = images[0].size
    tiled = Image.new("RGB", (2 * width, math.ceil(len(images) / 2) * height), "white")
    for index, image in enumerate(images):
        tiled.paste(image, (index % 2 * width, index // 2 * height))
    return tiled


@_style()
def stage_curves(histories: Sequence[Sequence[EpochRow]], selected_on: str) -> dict[str, Figure]:
    """Title -> figure: accuracy, losses, learning rate and entropies of a stage over the epochs of all repeats.

    ``selected_on``: the images that select the best epoch, ``test`` or ``held_out``.
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
        drawstyle = "steps-mid" if title == "Learning rate" else "default"
        figure, ((ax,),) = _panels(1, 1, width=4, height=2.4)
        for (number, label), (repeat, history) in product(enumerate(labels), enumerate(histories)):
            points = [(row.epoch, value) for row in history if math.isfinite(value := read(row)[label])]
            (line,) = ax.plot(*np.reshape(points, (-1, 2)).T, color=f"C{number}", drawstyle=drawstyle, clip_on=False)
            is_sparse = 0 < len(points) < max(len(history), 2)  # test_every: not every epoch has a value
            line.set(label="" if repeat else label, marker="." if is_sparse else "")
        if not any(np.any(line.get_ydata()) for line in ax.lines):
            continue  # all values are 0 for the alignment loss of a method without alignment
        ax.set(title=title, xlabel="epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ax.grid(axis="y", clip_on=False)
        if title.startswith("Entropy"):
            ax.set_ylim(0, 1)
        if len(labels) > 1:
            figure.legend(loc="outside lower center", ncols=min(len(labels), 4), handlelength=1.2, columnspacing=1.2)
        figures[title] = figure
    return figures


@_style()
def confusion_matrix(confusion: Confusion) -> Figure:
    """Number of images of each true and predicted class, darker for a larger fraction of the true class."""
    names, totals = list(confusion.totals), confusion.totals
    cells = [(names.index(true), names.index(guess), true, guess, n) for (true, guess), n in confusion.counts.items()]
    labelled = len(names) <= _MAX_LABELLED
    side = 20 if labelled else 5  # points
    figure = Figure(figsize=(side * len(names) / 72, side * len(names) / 72))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.scatter(
        [column for _, column, *_ in cells],
        [row for row, *_ in cells],
        s=side**2,
        marker="s",
        # At most 0.7, so that the contrast to the counts is at least 4.5.
        color=[to_rgba(_BLUE, 0.7 * n / totals[true]) for *_, true, _, n in cells],
        linewidths=0,
        clip_on=False,
        urls=[printable(f"{true} classified as {guess}: {n} of {totals[true]}") for *_, true, guess, n in cells],
    )
    ax.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5), xlabel="predicted", ylabel="true")
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    ax.spines[:].set_visible(True)
    ax.set(xticks=[], yticks=[])
    if labelled:
        ax.set_xticks(range(len(names)), map(_short, names), rotation=90)
        ax.set_yticks(range(len(names)), map(_short, names))
        for row, column, *_, count in cells:
            ax.text(column, row, str(count), ha="center", va="center")
    # The names are outside the axes: enlarge the figure until it contains them.
    bounds = figure.get_tightbbox().padded(0.05)
    ax.set_position((-bounds.x0 / bounds.width, -bounds.y0 / bounds.height, *(figure.get_size_inches() / bounds.size)))
    figure.set_size_inches(bounds.size)
    return figure


@_style()
def class_accuracies(scores: Sequence[ClassScore]) -> Figure:
    """A bar for each class, the first class on top."""
    figure, ((ax,),) = _panels(1, 1, width=5, height=0.18 * len(scores))
    bars = ax.barh(range(len(scores)), [score.recall for score in scores], color=_BLUE)
    ax.bar_label(bars, fmt="%.1f", padding=3)
    ax.set_yticks(range(len(scores)), [_short(score.name) for score in scores])
    ax.set(xlim=(0, 100), ylim=(len(scores) - 0.5, -0.5), xticks=[], title="Top-1 of each class, %")
    return figure


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= _MAX_LETTERS else f"{name[: _MAX_LETTERS - 1]}…"


def _panels(rows: int, columns: int, *, width: float, height: float) -> tuple[Figure, list[list[Axes]]]:
    """A grid of axes; ``width`` and ``height`` of each in inches."""
    figure = Figure(figsize=(width * columns, height * rows + 0.4), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False).tolist()


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
            figure.figimage(np.asarray(ImageOps.pad(image.convert("RGBA"), (SIDE, SIDE), color=(0, 0, 0, 0))), x, y)
            caption = f"{_short(title)}\n{_short(detail)}"
            figure.text(x / width, (y + SIDE + 2) / height, caption, va="bottom", fontsize=7)
    return figure


def attention_rows(
    images: Sequence[Image.Image], attention: Sequence[LayerAttention]
) -> dict[str, list[list[Captioned]]]:
    """``spatial`` or ``channel``, as the attention is -> a row for each image: the image, the attention of each layer.

    Colours and heights are from 0 to 2 times uniform attention, in all images and layers. The caption contains the
    lowest and the highest weight in this unit, for channel attention also the entropy.
    """
    kinds: dict[str, list[list[Captioned]]] = {}
    for layer, kind, weights in attention:
        rows = kinds.setdefault(kind, [[Captioned(image.resize((SIDE, SIDE)), "image")] for image in images])
        for row, own in zip(rows, weights, strict=True):
            relative = own.numpy() * own.numel()
            detail = f"{relative.min():.2f} to {relative.max():.2f}"
            if kind == "spatial":
                image = Image.blend(row[0].image.convert("L").convert("RGB"), heat_map(relative, 0, 2), 0.6)
            else:
                image = to_image(sorted_weights(relative))
                detail += f", entropy {entropy(own[None]).item():.3f}"
            row.append(Captioned(image, layer, detail))
    return kinds


def activation_rows(images: Sequence[Image.Image], maps: Mapping[tuple[str, str], Tensor]) -> list[list[Captioned]]:
    """The same channel of one layer in several networks (Figure 2 of the paper), a row for each image.

    The channel has the largest spatial variance in the first network; all maps of a row have one colour scale.
    ``maps``: the two lines of the caption of a network -> its maps of the images, (B, C, H, W).
    """
    rows = []
    channels = next(iter(maps.values())).flatten(2).var(dim=2, correction=0).argmax(dim=1).tolist()
    for index, (image, channel) in enumerate(zip(images, channels, strict=True)):
        values = np.stack([of_network[index, channel] for of_network in maps.values()])
        coloured = (heat_map(of_network, values.min(), values.max()) for of_network in values)
        of_networks = (Captioned(picture, *caption) for picture, caption in zip(coloured, maps, strict=True))
        rows.append([Captioned(image, "image", f"channel {channel}"), *of_networks])
    return rows


def heat_map(values: np.ndarray, low: float, high: float) -> Image.Image:
    """(H, W) values as an image of ``SIDE`` pixels, from dark blue (``low``) to yellow (``high``)."""
    colours = colormaps["cividis"]((values - low) / ((high - low) or 1), bytes=True)
    return Image.fromarray(colours).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)


@_style()
def sorted_weights(weights: np.ndarray) -> Figure:
    """(N,) weights as multiples of the uniform weight, in descending order, as bars from 0 to 2; higher bars are cut.

    The line is the uniform weight.
    """
    figure = Figure(figsize=(SIDE / _DPI, SIDE / _DPI), dpi=_DPI, facecolor="none")
    ax = figure.add_axes((0, 0, 1, 1))
    ax.stairs(np.sort(weights)[::-1], fill=True, color=_BLUE, antialiased=True)
    ax.axhline(1, color=_QUIET)
    ax.set(xlim=(0, len(weights)), ylim=(0, 2))
    ax.axis("off")
    return figure


@_style()
def accuracy_panels(accuracies: Mapping[tuple[str, str, str], Sequence[Spread | None]], selected_on: str) -> Figure:
    """A panel for each network and data set: accuracies of all methods.

    Args:
        accuracies: network, data set, method -> top-1 at the last epoch, at the best epoch, and published, in percent.
        selected_on: the images that selected the best epochs.
    """
    networks, datasets, methods = (list(dict.fromkeys(names)) for names in zip(*accuracies, strict=True))
    figure, axes = _panels(len(networks), len(datasets), width=4.5, height=0.8 + 0.3 * len(methods))
    markers = ((-0.2, "o", "C0"), (0.0, "s", "C1"), (0.2, "D", "black"))
    for ax, panel in zip(chain(*axes), product(networks, datasets), strict=True):
        ax.set(title=", ".join(panel), xlabel="top-1, %", ylim=(len(methods) - 0.5, -0.5))
        ax.set_yticks(range(len(methods)), methods)
        ax.grid(axis="x")
        for (y, method), (index, (shift, marker, colour)) in product(enumerate(methods), enumerate(markers)):
            if value := accuracies.get((*panel, method), (None,) * 3)[index]:
                ax.errorbar(value.mean, y + shift, xerr=value.deviation, fmt=marker, color=colour, markersize=4)
    legend = f"circle: last epoch, square: best epoch on {selected_on}"
    legend += ", diamond: published" if any(values[2] for values in accuracies.values()) else ""
    figure.suptitle(textwrap.fill(legend, 54 * len(datasets)), fontsize=9)
    return figure


@_style()
def loss_curves(panels: Mapping[str, Mapping[str, Sequence[Sequence[Mapping[str, float]]]]]) -> Figure:
    """Cross-entropy (training and test) and total loss (training) over the epochs of all stages, mean of the seeds.

    ``panels``: title -> method -> the epochs of each seed, as columns of ``log.txt`` -> value.
    """
    figure, axes = _panels(len(panels), 2, width=4.5, height=3.5)
    for (cross_entropy, total), (title, methods) in zip(axes, panels.items(), strict=True):
        lines = ((cross_entropy, "clc_loss", "-"), (cross_entropy, "val_loss", "--"), (total, "train_total_loss", "-"))
        for number, (method, seeds) in enumerate(methods.items()):
            for ax, column, linestyle in lines:
                means = {}
                for epoch, rows in enumerate(zip_longest(*seeds, fillvalue={}), 1):
                    if finite := [value for row in rows if math.isfinite(value := row.get(column, math.nan))]:
                        means[epoch] = spread(finite).mean
                ax.plot(list(means), list(means.values()), linestyle, color=f"C{number}", label=method)
        cross_entropy.set(title=title, xlabel="epoch", ylabel="cross-entropy")
        total.set(title=title, xlabel="epoch", ylabel="total loss", yscale="log")
        for ax in (cross_entropy, total):
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        total.yaxis.set(major_formatter=LogFormatter(), minor_formatter=LogFormatter())  # the default is a formula
        total.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle("solid: training, dashed: test; mean of the seeds, all stages in order")
    return figure


@_style()
def images_per_class(
    measured: Mapping[str, Mapping[str, Mapping[float, Sequence[float]]]],
    published: Mapping[tuple[str, str, float], float],
) -> Figure:
    """A panel for each network: accuracy of the best epoch over the number of training images per class.

    Args:
        measured: network -> method -> training images per class -> top-1 of each seed, in percent.
        published: network, method, training images per class -> top-1 in percent.
    """
    figure, axes = _panels(1, len(measured), width=max(4.5, 7 / len(measured)), height=4)
    for ax, (network, methods) in zip(axes[0], measured.items(), strict=True):
        for number, (method, points) in enumerate(methods.items()):
            sizes = sorted(points)
            means, deviations, _ = zip(*(spread(points[size]) for size in sizes), strict=True)
            ax.errorbar(sizes, means, yerr=deviations, fmt="o-", color=f"C{number}", label=method)
            marks = [published.get((network, method, size), math.nan) for size in sizes]
            ax.plot(sizes, marks, "D", color=f"C{number}", fillstyle="none")
        ax.set(title=f"{network}; diamonds: published", xlabel="training images per class", ylabel="best top-1, %")
        ax.legend()
    return figure
