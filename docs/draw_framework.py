"""Draw `framework.png`, the overview of the method's two stages.

Run `python docs/draw_framework.py`. The script requires matplotlib and imports nothing from this project.
The same versions of matplotlib and Pillow write identical bytes.

All lengths are in pixels of the README, where GitHub shows the image about 830 pixels wide. The file has twice this
resolution. The y axis points downwards, and each panel has its own coordinates.
"""

from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Polygon
from matplotlib.path import Path as Line
from PIL import Image

OUTPUT = Path(__file__).resolve().parents[1] / "framework.png"
WIDTH, PANEL, BAND, FOOTER = 830, 398, 54, 66
PIXELS_PER_INCH = 100
POINT = 72 / PIXELS_PER_INCH  # matplotlib measures text and lines in points
DOT: dict[str, Any] = {"markersize": 7 * POINT, "markeredgewidth": 0, "zorder": 3}
TEXT, MATH, FORMULA = 12, 16, 18  # subscripts have 0.7 of the size: at least 11 px

# Tints of the Okabe-Ito palette, which colour-blind readers can distinguish, also in greyscale.
INK, MUTED, LINE = "#26323d", "#55626e", "#5b6873"
Colours = tuple[str, str]  # face, edge
SOURCE: Colours = ("#d3dee9", "#5f7f9c")
TARGET: Colours = ("#fbdcb4", "#c8740a")
ATTENTION: Colours = ("#e3f3ed", "#1b8466")
LOSS: Colours = ("#f6e6f0", "#a2568a")
LOSS_INK, ATTENTION_INK, SOURCE_INK, TARGET_INK = "#7c3c69", "#116149", "#3f5f7d", "#a35b00"  # dark enough for text
PLAIN, FRAME = ("#ffffff", "#5b6873"), ("#ffffff", "#d3d9df")

BLOCKS = (184, 276, 368, 460)  # x of the centres of the four blocks
TAPS = (230, 322, 414, 506)  # x of the aligned layer at the end of each block
ATTENTION_Y, SOURCE_Y, DIFFERENCE_Y, TARGET_Y, TOTAL_Y = 84, 174, 232, 298, 363
IMAGES_X, CLASSIFIER_X, LOSS_Y, LOSS_HEIGHT = 34, 567, 146, 204
PENALTY, ENTROPY, ALIGNMENT = (537, 114), (660, 100), (772, 92)  # terms of the total loss: centre and width
MODULE_RIGHT, LOSS_LEFT, LOSS_RIGHT = 534, 572, 818  # the attentive module and the difference end at MODULE_RIGHT


class Stage(NamedTuple):
    """Content that differs between the two panels."""

    title: str
    attention: str
    steps: tuple[str, ...]  # boxes of the attentive module
    weight: str
    loss: str
    summed_over: str
    source_note: str
    target_note: str


STAGE_ONE = Stage(
    title="Stage one: spatial attention (AST)",
    attention="Spatial attention: one module for each aligned layer, trained",
    steps=("mean over\nchannels", "FC\nHW → H", "ReLU", "FC\nH → HW", "softmax over\nHW positions"),
    weight="$A$",
    loss=r"$\frac{1}{2}\,\sum_j\,(HW)^2\,A_j^2\;\Vert d_j\Vert^2$",
    summed_over="positions j",
    source_note="pre-trained",
    target_note="starts as the source, with a new classifier",
)
STAGE_TWO = Stage(
    title="Stage two: channel attention (ACT)",
    attention="Channel attention: one module for each aligned layer, trained",
    steps=("flatten to\nC by HW", "FC\nHW → H", "ReLU", "FC\nH → 1", "+ bias per\nchannel", "softmax over\nC channels"),
    weight="$a$",
    loss=r"$\frac{1}{2}\,\sum_c\,C\,a_c\;\Vert d_c\Vert^2$",
    summed_over="channels c",
    source_note="stage-one target",
    target_note="starts as the stage-one target, classifier included",
)


def write(axes: Axes, x: float, y: float, text: str, *, size: float = TEXT, **style: Any) -> None:
    defaults: dict[str, Any] = {"color": INK, "ha": "center", "va": "center", "linespacing": 1.25}
    axes.text(x, y, text, fontsize=size * POINT, **(defaults | style))


def box(axes: Axes, x: float, y: float, *, size: tuple[float, float], colours: Colours, text: str = "") -> None:
    """Draw a rounded box around its centre."""
    corner = (x - size[0] / 2, y - size[1] / 2)
    look: dict[str, Any] = {"facecolor": colours[0], "edgecolor": colours[1], "linewidth": 1.2 * POINT}
    axes.add_patch(FancyBboxPatch(corner, *size, boxstyle="round,pad=0,rounding_size=5", **look))
    write(axes, x, y, text)


def arrow(axes: Axes, *points: tuple[float, float], colour: str = LINE, width: float = 1.4) -> None:
    """Draw a line through the points, with an arrowhead at the last one."""
    style = f"-|>,head_length={4 + 1.6 * width},head_width={1.2 + width}"
    look: dict[str, Any] = {"color": colour, "linewidth": width * POINT, "mutation_scale": POINT, "joinstyle": "miter"}
    axes.add_patch(FancyArrowPatch(path=Line(points), arrowstyle=style, **look))


def draw_images(axes: Axes, x: float, y: float) -> None:
    """Draw a small stack of images."""
    for shift in (6, 3, 0):
        box(axes, x + shift - 3, y - shift + 2, size=(34, 28), colours=PLAIN)
    hills = ((-17, 13), (-8, -1), (-1, 7), (4, 2), (11, 13))
    axes.add_patch(Polygon([(x + dx, y + dy) for dx, dy in hills], facecolor="#9aa7b3", edgecolor="none"))
    axes.add_patch(Circle((x + 5, y - 5), 2.6, facecolor="#e0a030", edgecolor="none"))


def draw_network(axes: Axes, y: float, *, colours: Colours) -> None:
    """Draw the path of the images through the four blocks, with a dot at each aligned layer."""
    axes.plot((BLOCKS[0], TAPS[-1]), (y, y), color=LINE, linewidth=1.4 * POINT, zorder=1)
    for number, (x, tap) in enumerate(zip(BLOCKS, TAPS, strict=True), start=1):
        box(axes, x, y, size=(58, 34), colours=colours, text=f"block {number}")
        if number < len(BLOCKS):
            arrow(axes, (tap, y), (x + 63, y))
        axes.plot(tap, y, "o", color=colours[1], **DOT)


def draw_networks(axes: Axes, stage: Stage) -> None:
    """Draw the frozen source above the trained target. Both take the same images."""
    middle, left = (SOURCE_Y + TARGET_Y) / 2 + 2, IMAGES_X + 10
    draw_images(axes, IMAGES_X, middle)
    write(axes, IMAGES_X + 24, middle + 1, "images", ha="left")
    rows = (  # the spaces leave room for the snowflake
        (-20, SOURCE_Y, "Source network", "     frozen", stage.source_note, SOURCE, SOURCE_INK),
        (19, TARGET_Y, "Target network", "trained", stage.target_note, TARGET, TARGET_INK),
    )
    for number, (start, y, name, state, note, colours, ink) in enumerate(rows):
        arrow(axes, (IMAGES_X, middle + start), (IMAGES_X, y), (BLOCKS[0] - 29, y))
        draw_network(axes, y, colours=colours)
        write(axes, left, y - 13, name, ha="left", weight="bold", color=ink)
        write(axes, left, y + 14, state, ha="left")
        write(axes, left, y + 30, note, ha="left", color=MUTED)
        axes.plot(left + 3 + 11 * number, TOTAL_Y, "o", color=colours[1], **DOT)
    write(axes, left - 1, SOURCE_Y + 14, "\N{SNOWFLAKE}", size=17, ha="left", color=SOURCE[1])
    write(axes, left + 25, TOTAL_Y, "aligned layer, its map tapped", ha="left", color=MUTED)


def draw_attention(axes: Axes, stage: Stage) -> None:
    """Draw the attentive module as a chain of boxes. It only reads the maps of the source."""
    left, width = IMAGES_X + 10, MODULE_RIGHT - IMAGES_X - 10
    box(axes, left + width / 2, ATTENTION_Y, size=(width, 80), colours=ATTENTION)
    write(axes, left + 12, ATTENTION_Y - 26, stage.attention, ha="left", color=ATTENTION_INK)
    widths = [23 + 5.8 * max(map(len, text.splitlines())) for text in stage.steps]
    gap = (width - 24 - sum(widths)) / (len(widths) - 1)
    x, y = left + 12.0, ATTENTION_Y + 10
    for number, (text, step) in enumerate(zip(stage.steps, widths, strict=True)):
        box(axes, x + step / 2, y, size=(step, 42), colours=("#ffffff", ATTENTION[1]), text=text)
        if number:
            arrow(axes, (x - gap, y), (x, y), colour=ATTENTION[1])
        x += step + gap


def draw_alignment(axes: Axes, stage: Stage) -> None:
    """Draw the maps of both networks, their difference and the attention weights, which enter the alignment loss."""
    for tap in TAPS:
        arrow(axes, (tap, SOURCE_Y), (tap, ATTENTION_Y + 40), colour=SOURCE[1])
        arrow(axes, (tap, SOURCE_Y), (tap, DIFFERENCE_Y - 16), colour=SOURCE[1])
        arrow(axes, (tap, TARGET_Y), (tap, DIFFERENCE_Y + 16), colour=TARGET[1])
        write(axes, tap + 15, SOURCE_Y - 32, "$F_s$", size=MATH)
        write(axes, tap + 15, TARGET_Y - 32, "$F_t$", size=MATH)
    middle = (TAPS[0] + TAPS[-1]) / 2
    box(axes, middle, DIFFERENCE_Y, size=(2 * (MODULE_RIGHT - middle), 32), colours=PLAIN)
    write(axes, middle - 80, DIFFERENCE_Y, "$d = F_t - F_s$", size=MATH)
    write(axes, middle - 16, DIFFERENCE_Y, "at each aligned layer", ha="left")
    for y, symbol, colour in ((ATTENTION_Y, stage.weight, ATTENTION[1]), (DIFFERENCE_Y, "$d$", LINE)):
        arrow(axes, (MODULE_RIGHT, y), (LOSS_LEFT, y), colour=colour)
        write(axes, (MODULE_RIGHT + LOSS_LEFT) / 2 - 2, y - 13, symbol, size=MATH)
    x = (LOSS_LEFT + LOSS_RIGHT) / 2
    box(axes, x, LOSS_Y, size=(LOSS_RIGHT - LOSS_LEFT, LOSS_HEIGHT), colours=LOSS)
    write(axes, x, LOSS_Y - 74, "Alignment loss", weight="bold", color=LOSS_INK)
    write(axes, x, LOSS_Y - 16, stage.loss, size=FORMULA)
    notes = f"summed over the {stage.summed_over},\nadded up over the aligned layers,\nmean over the batch"
    write(axes, x, LOSS_Y + 58, notes, color=MUTED)


def draw_objective(axes: Axes) -> None:
    """Draw the classifier of the target and the three terms of the total loss."""
    half, top = 37, TOTAL_Y - 16
    arrow(axes, (TAPS[-1], TARGET_Y), (CLASSIFIER_X - half, TARGET_Y))
    box(axes, CLASSIFIER_X, TARGET_Y, size=(2 * half, 38), colours=TARGET, text="classifier")
    arrow(axes, (CLASSIFIER_X, TARGET_Y + 19), (CLASSIFIER_X, top))
    write(axes, CLASSIFIER_X - 8, TARGET_Y + 32, "weights", ha="right", color=MUTED)
    arrow(axes, (CLASSIFIER_X + half, TARGET_Y), (ENTROPY[0], TARGET_Y), (ENTROPY[0], top))
    write(axes, ENTROPY[0] - 3, TARGET_Y - 12, "logits", ha="right", color=MUTED)
    arrow(axes, (ALIGNMENT[0], LOSS_Y + LOSS_HEIGHT / 2), (ALIGNMENT[0], top))
    write(axes, 470, TOTAL_Y, "total  =", ha="right", weight="bold", size=13)
    terms = ((PENALTY, "β · head penalty"), (ENTROPY, "cross-entropy"), (ALIGNMENT, "α · alignment"))  # noqa: RUF001
    for number, ((x, width), text) in enumerate(terms):
        box(axes, x, TOTAL_Y, size=(width, 32), colours=LOSS, text=text)
        if number:
            write(axes, x - width / 2 - 8, TOTAL_Y, "+", size=14)


def draw_stage(axes: Axes, stage: Stage) -> None:
    box(axes, WIDTH / 2, PANEL / 2, size=(WIDTH - 6, PANEL - 6), colours=FRAME)
    write(axes, 16, 22, stage.title, size=15, ha="left", weight="bold")
    draw_alignment(axes, stage)
    draw_attention(axes, stage)
    draw_networks(axes, stage)
    draw_objective(axes)


def draw_band(axes: Axes) -> None:
    """Draw the band between the stages: what stage two takes from stage one."""
    arrow(axes, (60, 1), (60, BAND - 1), colour=TARGET[1], width=5)
    text = "The target of stage one becomes the source (its backbone, frozen)\nand the start of the target of stage two"
    write(axes, 84, BAND / 2, text, size=13, ha="left")


def draw_inference(axes: Axes) -> None:
    """Draw the network that inference uses."""
    y = FOOTER / 2
    box(axes, WIDTH / 2, y, size=(WIDTH - 6, FOOTER - 12), colours=FRAME)
    write(axes, 16, y, "At inference: the target alone, no attention", size=13, ha="left", weight="bold")
    draw_images(axes, 432, y)
    arrow(axes, (455, y), (490, y))
    box(axes, 545, y, size=(110, 34), colours=TARGET, text="four blocks")
    arrow(axes, (600, y), (635, y))
    box(axes, 675, y, size=(80, 34), colours=TARGET, text="classifier")
    arrow(axes, (715, y), (750, y))
    write(axes, 758, y, "class", ha="left")


def draw_figure() -> Figure:
    heights = (PANEL, BAND, PANEL, FOOTER)
    figure = Figure(figsize=(WIDTH / PIXELS_PER_INCH, sum(heights) / PIXELS_PER_INCH), facecolor="white")
    edges = {"left": 0, "right": 1, "bottom": 0, "top": 1, "hspace": 0}
    panels = figure.subplots(len(heights), height_ratios=heights, gridspec_kw=edges)
    for axes, height in zip(panels, heights, strict=True):
        axes.set(xlim=(0, WIDTH), ylim=(height, 0), xticks=(), yticks=(), frame_on=False)
    draw_stage(panels[0], STAGE_ONE)
    draw_band(panels[1])
    draw_stage(panels[2], STAGE_TWO)
    draw_inference(panels[3])
    return figure


def main() -> None:
    drawn = BytesIO()
    with rc_context({"font.family": "DejaVu Sans", "mathtext.fontset": "dejavusans"}):  # fonts that matplotlib contains
        draw_figure().savefig(drawn, format="png", dpi=2 * PIXELS_PER_INCH)
    # A palette reduces the file to a third; saving it again removes the version of matplotlib from it.
    Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(OUTPUT, optimize=True)


if __name__ == "__main__":
    main()
