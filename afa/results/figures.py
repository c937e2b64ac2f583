"""The figures a run leaves: rows of an epoch, results of a stage, mean and deviation over seeds, tables as text."""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

Row = dict[str, float]
"""An epoch's figures by name; ``epoch`` counts from 1, accuracies are in percent."""

LOG_COLUMNS = {
    "epoch": "epoch",
    "clc_loss": "classification",
    "classifier_loss": "head_penalty",
    "feature_loss": "alignment",
    "train_total_loss": "total",
    "train_top1_acc": "train_top1",
    "val_loss": "loss",
    "val_top1_acc": "top1",
}
"""Column of ``log.txt``, named as in the authors' release -> name in a row; alpha and gamma are in the total alone."""


class Spread(NamedTuple):
    """Mean and sample standard deviation (n - 1; 0 for one value) over ``n`` seeds."""

    mean: float
    deviation: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.deviation:.2f} (n={self.n})" if self.n > 1 else f"{self.mean:.2f}"


def spread(values: Sequence[float]) -> Spread:
    """Mean and deviation of at least one value."""
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0, len(values))


class Score(NamedTuple):
    """One checkpoint: the epoch it is from, its top-1 on the split it was selected on, and on the test images."""

    epoch: int
    selection_top1: float
    test_loss: float
    test_top1: float
    test_top5: float


class StageResult(NamedTuple):
    """What one stage of one repeat came to.

    ``best`` has the highest top-1 of all epochs on ``selected_on`` (``test``, as
    published, or ``held_out``); ``last`` is the last epoch, not selected at all.
    """

    method: str
    seed: int
    epochs: int
    selected_on: str
    best: Score
    last: Score
    images_per_second: float
    seconds: float
    folder: str
    start: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**self._asdict(), "best": self.best._asdict(), "last": self.last._asdict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "StageResult":
        """The inverse of ``to_dict``."""
        return cls(**{**values, "best": Score(**values["best"]), "last": Score(**values["last"])})


def format_seconds(seconds: float) -> str:
    """A time as one would say it: ``40 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def format_bytes(count: int) -> str:
    """A size as disks are sold: ``27 MB``, ``1.3 GB``."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns of text, two spaces apart, with a rule under the header."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]]
    return "\n".join(line.rstrip() for line in [lines[0], "-" * len(lines[0]), *lines[1:]])


def results_table(repeats: Sequence[Sequence[StageResult]]) -> str:
    """A row a stage: accuracies of the best and the last epoch, over the repeats, and speed."""
    rows = []
    for stage in zip(*repeats, strict=True):
        best_epochs = ", ".join(str(result.best.epoch) for result in stage)
        rows.append(
            [
                stage[0].method,
                str(spread([result.best.test_top1 for result in stage])),
                f"{best_epochs} of {stage[0].epochs}",
                str(spread([result.last.test_top1 for result in stage])),
                f"{statistics.median(result.images_per_second for result in stage):.0f}",
                f"{sum(result.seconds for result in stage):.0f} s",
            ]
        )
    header = ["stage", f"best top-1 % (on {repeats[0][0].selected_on})", "at epoch", "last top-1 %", "images/s", "time"]
    return format_table(header, rows)
