"""The page's curves, matrix and lists as pictures of their own, with Pillow alone."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

from afa.data.images import read_image
from afa.errors import DataError, printable
from afa.report.charts import HEIGHT, LEFT, RIGHT, WIDTH, Chart
from afa.report.confusion import ClassFigures, Pair
from afa.report.heat import grid
from afa.report.matrix import Matrix

_INK, _QUIET, _RULE, _PAPER, _BLUE = "#1c2430", "#5b6676", "#d9dee6", "#ffffff", (37, 99, 235)
_SCALE = 2  # pixels a unit of a chart or a matrix
_FONT = ImageFont.load_default(size=10 * _SCALE)
_ROW, _NAMES = 24, 320  # pixels of the list of classes
_SIDE = 128  # of an example


def draw_charts(charts: Sequence[Chart]) -> Image.Image:
    """Curves, two in a row."""
    pictures = [(_draw_chart(chart), chart.title) for chart in charts]
    return grid([pictures[start : start + 2] for start in range(0, len(pictures), 2)])


def _draw_chart(chart: Chart) -> Image.Image:
    image = Image.new("RGB", (WIDTH * _SCALE, (HEIGHT + 20) * _SCALE), _PAPER)
    draw = ImageDraw.Draw(image)
    for tick in chart.up:
        y = tick.at * _SCALE
        draw.line([(LEFT * _SCALE, y), ((WIDTH - RIGHT) * _SCALE, y)], fill=_RULE)
        draw.text(((LEFT - 4) * _SCALE, y), tick.text, fill=_QUIET, font=_FONT, anchor="rm")
    for tick in chart.across:
        draw.text((tick.at * _SCALE, (HEIGHT - 8) * _SCALE), tick.text, fill=_QUIET, font=_FONT, anchor="mm")
    for line in chart.lines:
        points = [tuple(_SCALE * float(number) for number in point.split(",")) for point in line.points.split()]
        draw.line(points, fill=line.colour, width=3)
        for x, y in points if len(points) == 1 else ():
            draw.ellipse([x - 4, y - 4, x + 4, y + 4], fill=line.colour)
    x = float(LEFT * _SCALE)
    for name, colour in chart.legend.items():
        draw.text((x, (HEIGHT + 4) * _SCALE), name, fill=colour, font=_FONT)
        x += _FONT.getlength(name) + 8 * _SCALE
    return image


def draw_matrix_picture(matrix: Matrix) -> Image.Image:
    """The confusion matrix; with many classes the colours alone."""
    scale = _SCALE if matrix.labels else 0.5  # else 120 classes would fill a wall
    side = round((matrix.side + 4) * scale)
    image = Image.new("RGB", (side, side), _PAPER)
    draw = ImageDraw.Draw(image)
    for label in matrix.labels:
        text, edge = printable(label.text), (matrix.margin - 4) * scale
        draw.text((edge, label.at * scale), text, fill=_QUIET, font=_FONT, anchor="rm")
        name = Image.new("RGB", (round(edge), round(14 * scale)), _PAPER)
        ImageDraw.Draw(name).text((0, 7 * scale), text, fill=_QUIET, font=_FONT, anchor="lm")
        image.paste(name.rotate(90, expand=True), (round((label.at - 7) * scale), 0))
    for cell in matrix.cells:
        colour = tuple(round(255 + (tone - 255) * cell.part) for tone in _BLUE)
        box = [cell.x * scale, cell.y * scale, (cell.x + matrix.cell) * scale - 1, (cell.y + matrix.cell) * scale - 1]
        draw.rectangle(box, fill=colour)
        if matrix.labels:
            middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
            ink = _PAPER if cell.part > 0.5 else _QUIET
            draw.text(middle, str(cell.count), fill=ink, font=_FONT, anchor="mm")
    start, end = matrix.margin * scale, (matrix.margin + matrix.inner) * scale
    draw.rectangle([start - 1, start - 1, end, end], outline=_RULE)
    return image


def draw_per_class(figures: Sequence[ClassFigures]) -> Image.Image:
    """A bar a class, the hardest first."""
    image = Image.new("RGB", (_NAMES + 420, _ROW * len(figures) + 8), _PAPER)
    draw = ImageDraw.Draw(image)
    for place, one in enumerate(figures):
        y = 4 + _ROW * (place + 0.5)
        name = printable(one.name)
        draw.text((_NAMES - 8, y), name if len(name) <= 28 else f"{name[:27]}…", fill=_INK, font=_FONT, anchor="rm")
        draw.rectangle([_NAMES, y - 8, _NAMES + 3 * one.top1, y + 8], fill=_BLUE)
        draw.text((_NAMES + 3 * one.top1 + 6, y), f"{one.top1:.1f} %", fill=_QUIET, font=_FONT, anchor="lm")
    return image


def draw_pairs(pairs: Sequence[Pair], examples: int) -> Image.Image:
    """A row a pair of classes, the images that were taken for the other class, as far as they can be read now."""
    rows = []
    for pair in pairs:
        row = []
        for image in pair.images[:examples]:
            try:
                picture = read_image(image.path)
            except DataError:
                picture = Image.new("RGB", (_SIDE, _SIDE), _RULE)
            canvas = Image.new("RGB", (2 * _SIDE, _SIDE), _PAPER)
            canvas.paste(ImageOps.contain(picture, (2 * _SIDE, _SIDE)), (0, 0))
            row.append((canvas, f"{pair.true} taken for {pair.predicted}"))
        rows.append(row)
    return grid(rows)
