"""Lines over epochs as coordinates of an SVG picture; the template draws them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from afa.results.figures import Row

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, _TOP, _BOTTOM = 44, 8, 8, 24
_COLOURS = ("#2563eb", "#d97706", "#059669", "#9333ea", "#dc2626", "#0891b2", "#65a30d", "#db2777")


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where it is, and what it says."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """One curve: ``points`` as an SVG polyline has them."""

    name: str
    colour: str
    points: str


@dataclass(frozen=True)
class Chart:
    """A picture of ``WIDTH`` x ``HEIGHT`` units; ``legend`` names each colour once."""

    title: str
    lines: list[Line]
    across: list[Tick]
    up: list[Tick]

    @property
    def legend(self) -> dict[str, str]:
        return {line.name: line.colour for line in self.lines}


CHARTS: dict[str, dict[str, str]] = {
    "Accuracy, %": {"train_top1": "training", "top1": "{selected_on}"},
    "Classification loss": {"classification": "training", "loss": "{selected_on}"},
    "Alignment, without alpha": {"alignment": "alignment"},
    "Learning rate": {"learning_rate": "learning rate"},
}
"""Title -> figure of an epoch's row -> its name in the legend."""


def stage_charts(histories: Sequence[Sequence[Row]], selected_on: str) -> list[Chart]:
    """The curves of a stage, those of all repeats in the same colours.

    Args:
        histories: one a repeat, each a row an epoch.
        selected_on: the split that was scored after each epoch.
    """
    first = histories[0][0]
    entropies = {name: name.removeprefix("entropy_") for name in first if name.startswith("entropy_")}
    wanted = {**CHARTS, "Entropy of the attention: 1 uniform, 0 collapsed": entropies}
    charts = []
    for title, names in wanted.items():
        shown = {name: label.format(selected_on=selected_on) for name, label in names.items()}
        values = [row[name] for history in histories for row in history for name in shown]
        if any(value and math.isfinite(value) for value in values):  # a method without alignment has only zeros
            charts.append(_chart(title, histories, shown))
    return charts


def _chart(title: str, histories: Sequence[Sequence[Row]], names: dict[str, str]) -> Chart:
    epochs = max(row["epoch"] for history in histories for row in history)
    values = [row[name] for history in histories for row in history for name in names if math.isfinite(row[name])]
    marks = _round_marks(min(values), max(values))
    low, high = min(marks[0], *values), max(marks[-1], *values)

    def x(epoch: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * ((epoch - 1) / (epochs - 1) if epochs > 1 else 0.5)

    def y(value: float) -> float:
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * (value - low) / (high - low)

    def points(history: Sequence[Row], name: str) -> str:
        shown = (row for row in history if math.isfinite(row[name]))
        return " ".join(f"{x(row['epoch']):.1f},{y(row[name]):.1f}" for row in shown)

    lines = [
        Line(label, colour, points(history, name))
        for history in histories
        for (name, label), colour in zip(names.items(), _COLOURS * len(names), strict=False)
    ]
    steps = sorted({1, *(round(mark) for mark in _round_marks(1, epochs) if 1 <= mark <= epochs)})
    across = [Tick(x(epoch), str(epoch)) for epoch in steps]
    return Chart(title, lines, across, [Tick(y(mark), f"{mark:.6g}") for mark in marks])


def _round_marks(low: float, high: float) -> list[float]:
    """Three to six round numbers around ``low`` .. ``high``."""
    if high - low < 1e-9 * max(abs(high), 1e-9):
        low, high = low - (abs(low) / 2 or 1), high + (abs(high) / 2 or 1)
    power = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= (high - low) / 4)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * count for count in range(first, last + 1)]
