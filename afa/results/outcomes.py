"""Results of training: one epoch, one stage, mean and deviation over seeds; numbers and tables as text."""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

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
"""Column of ``log.txt``, named as in the authors' release -> attribute of EpochRow."""

_ENTROPY = "entropy_"


@dataclass(frozen=True, kw_only=True)
class EpochRow:
    """Metrics of one epoch: means of the loss and its terms over the training images, accuracies in percent.

    Attributes:
        epoch: counted from 1.
        alignment, head_penalty: not multiplied by alpha and gamma.
        entropies: name of an attention -> its normalised entropy: 1 is uniform, 0 has all mass on one entry.
        loss, top1, top5, balanced: on the images that select the best epoch; NaN if ``test_every`` skips the epoch.
            ``balanced`` is the mean of the accuracies of the classes; NaN in runs of version 0.1.0.
    """

    epoch: int
    learning_rate: float
    classification: float
    head_penalty: float
    alignment: float
    total: float
    train_top1: float
    entropies: dict[str, float] = field(default_factory=dict)
    images_per_second: float
    loss: float = math.nan
    top1: float = math.nan
    top5: float = math.nan
    balanced: float = math.nan

    @property
    def is_scored(self) -> bool:
        """True if the network was tested after this epoch."""
        return not math.isnan(self.top1)

    def describe(self, selected_on: str, *, is_best: bool) -> str:
        """Text of about 75 characters, for a line that starts with the stage and the epoch; accuracies are in percent.

        ``train`` and the name of the images in ``selected_on`` are top-1.
        """
        scored = f", {selected_on} {self.top1:.1f}, balanced {self.balanced:.1f}" if self.is_scored else ""
        losses = f"cls {self.classification:.3g}, align {self.alignment:.3g}"
        return f"{losses}, train {self.train_top1:.1f}{scored} %" + (" (best)" if is_best else "")

    def to_dict(self) -> dict[str, float]:
        """The form in checkpoints: each entropy has its own key, ``entropy_<name>``."""
        stored: dict[str, float] = {}
        for name, value in vars(self).items():
            stored |= {_ENTROPY + key: e for key, e in value.items()} if name == "entropies" else {name: value}
        return stored

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "EpochRow":
        """The inverse of ``to_dict``. Raises TypeError if a key is unknown or missing."""
        values = {name: value for name, value in stored.items() if not name.startswith(_ENTROPY)}
        entropies = {name.removeprefix(_ENTROPY): stored[name] for name in stored if name not in values}
        return cls(**values, entropies=entropies)


class Score(NamedTuple):
    """Accuracies of one checkpoint in percent: on the images that select the best epoch, and on the test images.

    ``test_balanced`` is the balanced accuracy, the mean over the classes; None in runs of version 0.1.0.
    """

    epoch: int
    selection_top1: float
    test_loss: float
    test_top1: float
    test_top5: float
    test_balanced: float | None = None


class StageResult(NamedTuple):
    """Result of one stage of one repeat.

    ``best`` is the epoch with the highest top-1 on ``selected_on`` (``test``, as published,
    or ``held_out``); ``last`` is the last epoch, which is not selected. ``steps`` of training are those of all epochs
    together; results of earlier versions have 0. ``inputs`` are the digests of what is not in the settings.
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
    steps: int = 0
    inputs: dict[str, str] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**self._asdict(), "best": self.best._asdict(), "last": self.last._asdict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "StageResult":
        """The inverse of ``to_dict``. Raises KeyError, TypeError or ValueError for other values."""
        scores = {name: Score(**values[name]) for name in ("best", "last")}
        result = cls(**{**values, **scores, "inputs": dict(values.get("inputs") or {})})
        accuracies = [top1 for score in scores.values() for top1 in (score.selection_top1, score.test_top1)]
        if not all(map(math.isfinite, accuracies)):
            raise ValueError("accuracies that are not finite")
        others = [value for score in scores.values() for value in (score.epoch, score.test_loss, score.test_top5)]
        math.fsum([*others, result.epochs, result.images_per_second, result.seconds, result.steps])  # numbers only
        return result


class ClassScore(NamedTuple):
    """Numbers of images of one class: those of the class, those classified as it, and those of which both are true.

    Accuracies are in percent; NaN if they are not defined.
    """

    name: str
    images: int
    predicted: int
    correct: int

    @property
    def recall(self) -> float:
        """Of the images of the class, those that are classified as it: the accuracy of the class."""
        return 100 * self.correct / self.images if self.images else math.nan

    @property
    def precision(self) -> float:
        """Of the images classified as the class, those that are of it."""
        return 100 * self.correct / self.predicted if self.predicted else math.nan

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 if no image is correct."""
        total = self.images + self.predicted
        return 200 * self.correct / total if total else math.nan


def class_scores(true: Sequence[str], predicted: Sequence[str], classes: Iterable[str]) -> list[ClassScore]:
    """The score of each of the ``classes``, from the class of each image and the class that it is classified as."""
    images, guesses = Counter(true), Counter(predicted)
    correct = Counter(one for one, other in zip(true, predicted, strict=True) if one == other)
    return [ClassScore(name, images[name], guesses[name], correct[name]) for name in classes]


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


def balanced_spread(scores: Sequence[Score]) -> Spread | None:
    """Mean and deviation of the balanced accuracy; None if it is not known of all scores."""
    known = [score.test_balanced for score in scores if score.test_balanced is not None]
    return spread(known) if len(known) == len(scores) else None


def format_seconds(seconds: float) -> str:
    """A duration in a readable unit: ``40 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def format_bytes(count: int) -> str:
    """A size in decimal units: ``27 MB``, ``1.3 GB``."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns of text, two spaces apart, with a rule under the header."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]]
    return "\n".join(line.rstrip() for line in [lines[0], "-" * len(lines[0]), *lines[1:]])


def format_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table whose columns are also aligned as text."""
    cells = [[cell.replace("|", "/") for cell in row] for row in [header, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    return [f"| {' | '.join(map(str.ljust, row, widths))} |" for row in cells]


def results_table(repeats: Sequence[Sequence[StageResult]]) -> str:
    """Two rows for each stage, over all ``repeats``: the best and the last epoch with their test accuracies."""
    rows = []
    for stage in zip(*repeats, strict=True):
        best_epochs = ", ".join(str(result.best.epoch) for result in stage)
        speed = f"{statistics.median(result.images_per_second for result in stage):.0f}"
        seconds = f"{sum(result.seconds for result in stage):.0f} s"
        for which, row in (
            ("best", [stage[0].method, f"best on {stage[0].selected_on}: {best_epochs}", speed, seconds]),
            ("last", ["", f"last: {stage[0].epochs}", "", ""]),
        ):
            scores = [getattr(result, which) for result in stage]
            accuracies = [spread([score.test_top1 for score in scores]), balanced_spread(scores) or "unknown"]
            rows.append([*row[:2], *map(str, accuracies), *row[2:]])
    return format_table(["stage", "epoch", "test top-1 %", "balanced %", "images/s", "time"], rows)
