"""Which classes a checkpoint takes for which, from ``predictions.csv``."""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from afa.errors import AFAError


class Prediction(NamedTuple):
    """One test image: its file, its class, and the likeliest class with its probability."""

    path: Path
    true: str
    predicted: str
    probability: float


class Pair(NamedTuple):
    """Images of class ``true`` that were taken for ``predicted``, the most certain first."""

    true: str
    predicted: str
    images: list[Prediction]
    of: int


class ClassFigures(NamedTuple):
    """Test images of a class, and how many were right."""

    name: str
    images: int
    correct: int

    @property
    def top1(self) -> float:
        """In percent."""
        return 100 * self.correct / self.images


@dataclass(frozen=True)
class Confusion:
    """All predictions of a checkpoint on the test images."""

    predictions: Sequence[Prediction]

    @cached_property
    def classes(self) -> list[str]:
        """In the order of the labels, which is by name; of a data set every class has test images."""
        return sorted({prediction.true for prediction in self.predictions})

    @cached_property
    def counts(self) -> Counter[tuple[str, str]]:
        """(true, predicted) -> images."""
        return Counter((prediction.true, prediction.predicted) for prediction in self.predictions)

    def per_class(self) -> list[ClassFigures]:
        """The classes, the hardest first."""
        images = Counter(prediction.true for prediction in self.predictions)
        figures = [ClassFigures(name, images[name], self.counts[name, name]) for name in self.classes]
        return sorted(figures, key=lambda one: (one.top1, one.name))

    def most_confused(self, pairs: int) -> list[Pair]:
        """The commonest mistakes, at most ``pairs`` of them."""
        images = Counter(prediction.true for prediction in self.predictions)
        mistakes = Counter({pair: count for pair, count in self.counts.items() if pair[0] != pair[1]})
        found = []
        for true, predicted in (pair for pair, _ in mistakes.most_common(pairs)):
            own = [p for p in self.predictions if (p.true, p.predicted) == (true, predicted)]
            found.append(Pair(true, predicted, sorted(own, key=lambda p: -p.probability), images[true]))
        return found


def read_predictions(path: Path) -> Confusion:
    """What ``write_predictions`` wrote.

    Raises:
        AFAError: the file is gone or altered.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return Confusion(
            [Prediction(Path(row["path"]), row["true"], row["top1"], float(row["probability1"])) for row in rows]
        )
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        raise AFAError(f"{path}: gone or altered; the same command with overwrite=true makes it again") from None
