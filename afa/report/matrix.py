"""The confusion matrix as squares of an SVG picture; the template draws them."""

from collections import Counter
from dataclasses import dataclass

from afa.report.charts import Tick
from afa.report.confusion import Confusion

CELL = 20  # units of the picture a class
_LABELLED = 30  # with more classes names would be too small to read; they are in the tips alone
_LETTERS = 18
_MARGIN = 100


@dataclass(frozen=True)
class Cell:
    """Images of one class taken for one class; ``part`` of the class's images, ``said`` when pointed at."""

    x: float
    y: float
    part: float
    count: int
    said: str


@dataclass(frozen=True)
class Matrix:
    """A picture of ``side`` x ``side`` units: names in a margin, then the cells that are not empty."""

    margin: int
    classes: int
    labels: list[Tick]
    cells: list[Cell]

    @property
    def cell(self) -> int:
        return CELL

    @property
    def inner(self) -> int:
        return CELL * self.classes

    @property
    def side(self) -> int:
        return self.margin + self.inner

    @property
    def widest(self) -> int:
        """Pixels on a screen: names at most half as large again as the text."""
        return min(3 * self.side // 2, 900)


def draw_matrix(confusion: Confusion) -> Matrix:
    """Rows are the true classes, columns what they were taken for."""
    classes = confusion.classes
    labelled = len(classes) <= _LABELLED
    margin = _MARGIN if labelled else 1
    start = {name: margin + CELL * place for place, name in enumerate(classes)}
    labels = [Tick(start[name] + CELL / 2, _short(name)) for name in classes] if labelled else []
    images = Counter(prediction.true for prediction in confusion.predictions)
    cells = [
        Cell(
            x=start[predicted],
            y=start[true],
            part=round(count / images[true], 3),
            count=count,
            said=f"{true} taken for {predicted}: {count} of {images[true]}",
        )
        for (true, predicted), count in confusion.counts.items()
    ]
    return Matrix(margin, len(classes), labels, cells)


def _short(name: str) -> str:
    return name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"
