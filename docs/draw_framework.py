"""Draw `framework.png`, the overview of the method: one drawing of the networks, and what differs between its stages.

Run `python docs/draw_framework.py`. The script requires matplotlib and imports nothing from this project.
The same versions of matplotlib and Pillow write identical bytes.

All lengths are in pixels of a drawing of 900 by 450; GitHub shows it about 830 pixels wide. The file has twice this
resolution. The y axis points downwards. The attention map and its bars are sketches, not results.
"""

from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Polygon
from matplotlib.path import Path as Line
from PIL import Image

OUTPUT = Path(__file__).resolve().parents[1] / "framework.png"
WIDTH, HEIGHT = 900, 450
PIXELS_PER_INCH = 100
POINT = 72 / PIXELS_PER_INCH  # matplotlib measures text and lines in points
DOT: dict[str, Any] = {"markersize": 8 * POINT, "markeredgewidth": 0, "zorder": 3}
TEXT, MATH, FORMULA = 12.5, 16, 18  # subscripts have 0.7 of the size: at least 11 px

# Tints of the Okabe-Ito palette, which colour-blind readers can distinguish, also in greyscale.
INK, MUTED, LINE = "#26323d", "#55626e", "#5b6873"
Colours = tuple[str, str]  # face, edge
SOURCE: Colours = ("#d3dee9", "#5f7f9c")
TARGET: Colours = ("#fbdcb4", "#c8740a")
SPATIAL: Colours = ("#e3f3ed", "#1b8466")
CHANNEL: Colours = ("#e9e6f8", "#6a55b5")
LOSS: Colours = ("#f6e6f0", "#a2568a")
SPATIAL_INK, CHANNEL_INK = "#116149", "#4c3a94"  # dark enough for text
LOSS_INK, SOURCE_INK, TARGET_INK = "#7c3c69", "#3f5f7d", "#a35b00"
PLAIN, FRAME = ("#ffffff", "#5b6873"), ("#ffffff", "#d3d9df")

BLOCKS = (122, 186, 250, 314)  # x of the centres of the four blocks
TAPS = (154, 218, 282, 346)  # x of the aligned layer at the end of each block
IMAGES_X, CLASSIFIER_X, RIGHT = 34, 394, 436  # RIGHT: end of the drawing of the networks
SOURCE_Y, DIFFERENCE_Y, TARGET_Y, TOTAL_Y, BOTTOM = 104, 182, 260, 356, 396
PENALTY, ENTROPY, ALIGNMENT = (130, 110), (257, 98), (380, 98)  # terms of the total loss: centre and width
COLUMN = 212  # width of the column of a stage


class Stage(NamedTuple):
    """Content of the column of a stage; all other steps are the same in both."""

    title: str
    left: float
    colours: Colours
    ink: str
    source: str
    classifier: str
    picture: str
    module: str
    loss: str
    summed_over: str


STAGE_ONE = Stage(
    title="Stage one: AST",
    left=458,
    colours=SPATIAL,
    ink=SPATIAL_INK,
    source="the pre-trained network",
    classifier="the classifier is new",
    picture="attention $A$:\none weight for\neach position",
    module="mean over channels, FC, ReLU, FC,\nsoftmax over the positions",
    loss=r"$\frac{1}{2}\,\sum_j\,(HW)^2\,A_j^2\;\Vert d_j\Vert^2$",
    summed_over="positions j",
)
STAGE_TWO = Stage(
    title="Stage two: ACT",
    left=684,
    colours=CHANNEL,
    ink=CHANNEL_INK,
    source="the target of stage one",
    classifier="with the classifier of stage one",
    picture="attention $a$:\none weight for\neach channel",
    module="each map: FC, ReLU, FC, + bias,\nsoftmax over the channels",
    loss=r"$\frac{1}{2}\,\sum_c\,C\,a_c\;\Vert d_c\Vert^2$",
    summed_over="channels c",
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
        box(axes, x, y, size=(38, 32), colours=colours, text=str(number))
        if number < len(BLOCKS):
            arrow(axes, (tap, y), (x + 45, y))
        axes.plot(tap, y, "o", color=colours[1], **DOT)


def draw_networks(axes: Axes) -> None:
    """Draw the frozen source above the trained target, and the difference of their maps, which both stages share."""
    box(axes, (6 + RIGHT) / 2, (6 + BOTTOM) / 2, size=(RIGHT - 6, BOTTOM - 6), colours=FRAME)
    write(axes, 18, 26, "Both stages: two networks, the same images", size=15, ha="left", weight="bold")
    draw_images(axes, IMAGES_X, DIFFERENCE_Y)
    write(axes, IMAGES_X, DIFFERENCE_Y + 25, "images", bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    rows = ((-20, SOURCE_Y, SOURCE), (19, TARGET_Y, TARGET))
    for start, y, colours in rows:
        arrow(axes, (IMAGES_X, DIFFERENCE_Y + start), (IMAGES_X, y), (BLOCKS[0] - 19, y))
        draw_network(axes, y, colours=colours)
    left = BLOCKS[0] - 19
    write(axes, left, SOURCE_Y - 32, "Source", ha="left", weight="bold", color=SOURCE_INK)
    write(axes, left + 56, SOURCE_Y - 32, "\N{SNOWFLAKE}", size=17, ha="left", color=SOURCE[1])
    write(axes, left + 76, SOURCE_Y - 32, "frozen, four blocks", ha="left")
    write(axes, left, TARGET_Y + 31, "Target", ha="left", weight="bold", color=TARGET_INK)
    write(axes, left + 56, TARGET_Y + 31, "trained, starts as the source", ha="left")
    for tap in TAPS:
        arrow(axes, (tap, SOURCE_Y), (tap, DIFFERENCE_Y - 15), colour=SOURCE[1])
        arrow(axes, (tap, TARGET_Y), (tap, DIFFERENCE_Y + 15), colour=TARGET[1])
        write(axes, tap - 15, SOURCE_Y + 35, "$F_s$", size=MATH)
        write(axes, tap - 15, TARGET_Y - 35, "$F_t$", size=MATH)
    middle = (left + CLASSIFIER_X) / 2 + 16
    box(axes, middle, DIFFERENCE_Y, size=(2 * (RIGHT - 12 - middle), 30), colours=PLAIN)
    write(axes, middle - 76, DIFFERENCE_Y, "$d = F_t - F_s$", size=MATH)
    write(axes, middle - 16, DIFFERENCE_Y, "at each aligned layer", ha="left")


def draw_objective(axes: Axes) -> None:
    """Draw the classifier of the target and the three terms of the total loss."""
    top, bus = TOTAL_Y - 16, TARGET_Y + 54
    arrow(axes, (TAPS[-1], TARGET_Y), (CLASSIFIER_X - 33, TARGET_Y))
    box(axes, CLASSIFIER_X, TARGET_Y, size=(66, 32), colours=TARGET, text="classifier")
    for x, start, text in ((ENTROPY[0], CLASSIFIER_X + 14, "logits"), (PENALTY[0], CLASSIFIER_X - 14, "weights")):
        y = bus if text == "logits" else bus - 10
        arrow(axes, (start, TARGET_Y + 16), (start, y), (x, y), (x, top))
        write(axes, x + 6, top - 11, text, ha="left", color=MUTED)
    write(axes, 68, TOTAL_Y, "total =", ha="right", weight="bold", size=13)
    terms = ((PENALTY, "β · head penalty"), (ENTROPY, "cross-entropy"), (ALIGNMENT, "α · alignment"))  # noqa: RUF001
    for number, ((x, width), text) in enumerate(terms):
        box(axes, x, TOTAL_Y, size=(width, 32), colours=LOSS, text=text)
        if number:
            write(axes, x - width / 2 - 9, TOTAL_Y, "+", size=14)


def draw_map(axes: Axes, x: float, y: float, side: float) -> None:
    """Draw an attention over 7 x 7 positions: the same image as at the input of the networks, under a grid."""
    rows, columns = np.mgrid[0:7, 0:7]
    weights = np.exp(-((rows - 3.6) ** 2 + (columns - 2.4) ** 2) / 5) + 0.5 * np.exp(
        -((rows - 1) ** 2 + (columns - 5) ** 2) / 2
    )
    axes.imshow(weights, extent=(x, x + side, y + side, y), cmap="YlGn", vmin=-0.2, zorder=2)
    for step in np.linspace(0, side, 8):
        axes.plot(
            (x + step, x + step), (y, y + side), (x, x + side), (y + step, y + step), color="white", lw=0.5, zorder=3
        )


def draw_bars(axes: Axes, x: float, y: float, side: float) -> None:
    """Draw an attention over 12 channels as bars, and the line of uniform attention."""
    weights = np.array([3, 7, 4, 2, 9, 5, 3, 6, 2, 4, 8, 3]) / 10
    step = side / len(weights)
    axes.bar(
        x + step * (np.arange(len(weights)) + 0.5), -side * weights, 0.75 * step, y + side, color=CHANNEL[1], zorder=2
    )
    axes.plot((x, x + side), (y + side, y + side), color=CHANNEL_INK, linewidth=POINT)
    axes.plot((x, x + side), (y + side * (1 - weights.mean()),) * 2, "--", color=MUTED, linewidth=POINT, zorder=3)


def draw_stage(axes: Axes, stage: Stage) -> None:
    """Draw the column of a stage: where the source comes from, the attention, and the alignment loss."""
    left, middle, side = stage.left, stage.left + COLUMN / 2, 76
    box(axes, middle, (6 + BOTTOM) / 2, size=(COLUMN, BOTTOM - 6), colours=stage.colours)
    write(axes, middle, 26, stage.title, size=15, weight="bold", color=stage.ink)
    write(axes, middle, 52, "the source is")
    write(axes, middle, 69, stage.source, weight="bold", color=stage.ink)
    write(axes, middle, 87, stage.classifier, color=MUTED, size=11.5)
    draw = draw_map if stage is STAGE_ONE else draw_bars
    draw(axes, left + 16, 106, side)
    write(axes, left + 106, 144, stage.picture, ha="left", color=stage.ink)
    write(axes, middle, 212, f"from $F_s$, by a trained module:\n{stage.module}", color=MUTED, size=11.5)
    write(axes, middle, 260, "alignment loss", weight="bold", color=LOSS_INK)
    box(axes, middle, 304, size=(COLUMN - 20, 62), colours=("#ffffff", LOSS[1]))
    write(axes, middle, 304, stage.loss, size=FORMULA)
    write(axes, middle, 365, f"sum over {stage.summed_over} and layers,\nmean over the batch", color=MUTED, size=11.5)


def draw_inference(axes: Axes) -> None:
    """Draw the network that inference uses."""
    y = (BOTTOM + HEIGHT) / 2 + 2
    box(axes, WIDTH / 2, y, size=(WIDTH - 8, 44), colours=FRAME)
    write(axes, 18, y, "At inference: the target alone, no attention", size=13, ha="left", weight="bold")
    draw_images(axes, 452, y)
    arrow(axes, (476, y), (520, y))
    box(axes, 575, y, size=(110, 30), colours=TARGET, text="four blocks")
    arrow(axes, (630, y), (675, y))
    box(axes, 715, y, size=(80, 30), colours=TARGET, text="classifier")
    arrow(axes, (755, y), (800, y))
    write(axes, 808, y, "class", ha="left")


def draw_figure() -> Figure:
    figure = Figure(figsize=(WIDTH / PIXELS_PER_INCH, HEIGHT / PIXELS_PER_INCH), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    draw_networks(axes)
    draw_objective(axes)
    draw_stage(axes, STAGE_ONE)
    draw_stage(axes, STAGE_TWO)
    draw_inference(axes)
    # The stages take maps and differences and give the loss; stage two takes the target of stage one.
    arrow(axes, (TAPS[-1], SOURCE_Y), (STAGE_ONE.left, SOURCE_Y), colour=SOURCE[1])
    arrow(axes, (RIGHT - 12, DIFFERENCE_Y), (STAGE_ONE.left, DIFFERENCE_Y))
    arrow(axes, (STAGE_ONE.left, TOTAL_Y), (ALIGNMENT[0] + ALIGNMENT[1] / 2, TOTAL_Y), colour=LOSS[1])
    write(axes, RIGHT + 10, SOURCE_Y - 14, "$F_s$", size=MATH)
    write(axes, RIGHT + 10, DIFFERENCE_Y - 14, "$d$", size=MATH)
    arrow(axes, (STAGE_ONE.left + COLUMN - 10, 26), (STAGE_TWO.left + 22, 26), colour=TARGET[1], width=5)
    axes.set(xlim=(0, WIDTH), ylim=(HEIGHT, 0), xticks=(), yticks=(), frame_on=False, aspect="auto")
    return figure


def main() -> None:
    drawn = BytesIO()
    with rc_context({"font.family": "DejaVu Sans", "mathtext.fontset": "dejavusans"}):  # fonts that matplotlib contains
        draw_figure().savefig(drawn, format="png", dpi=2 * PIXELS_PER_INCH)
    # A palette reduces the file to a third; saving it again removes the version of matplotlib from it.
    Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(OUTPUT, optimize=True)


if __name__ == "__main__":
    main()
