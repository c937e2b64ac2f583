"""Errors of a checkpoint on the test images, read from ``predictions.csv``."""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from afa.data.images import read_image
from afa.errors import AFAError, DataError
from afa.files import read_csv
from afa.results.outcomes import ClassScore, class_scores


class ClassifiedImage(NamedTuple):
    """A test image: its class, and the most likely class with its probability."""

    path: Path
    true: str
    predicted: str
    probability: float

    def read(self, side: int, background: str, grey_range: str) -> Image.Image | None:
        """The image as ``read_image`` reads it, at most ``side`` pixels wide and high; None if this fails."""
        try:
            image = read_image(self.path, background, grey_range)
        except DataError:
            return None
        image.thumbnail((side, side))
        return image


@dataclass(frozen=True)
class Confusion:
    """All predictions of a checkpoint on the test images."""

    predictions: Sequence[ClassifiedImage]

    @cached_property
    def totals(self) -> Counter[str]:
        """Class -> number of its test images, sorted by name, which is the order of the labels."""
        names = sorted({name for image in self.predictions for name in (image.true, image.predicted)})
        counts = Counter(image.true for image in self.predictions)
        return Counter({name: counts[name] for name in names})

    @cached_property
    def counts(self) -> Counter[tuple[str, str]]:
        """(true, predicted) -> number of images."""
        return Counter((image.true, image.predicted) for image in self.predictions)

    def per_class(self) -> list[ClassScore]:
        """Score of each class that has images, the lowest recall first."""
        true, predicted = ([getattr(image, name) for image in self.predictions] for name in ("true", "predicted"))
        return sorted(class_scores(true, predicted, set(true)), key=lambda score: (score.recall, score.name))

    def most_confused(self, limit: int) -> list[list[ClassifiedImage]]:
        """The images of the ``limit`` most frequent pairs of different classes, the most confident images first."""
        errors: dict[tuple[str, str], list[ClassifiedImage]] = {}
        for image in self.predictions:
            if image.true != image.predicted:
                errors.setdefault((image.true, image.predicted), []).append(image)
        pairs = sorted(errors.values(), key=len, reverse=True)[:limit]
        return [sorted(images, key=lambda image: -image.probability) for images in pairs]


def read_predictions(path: Path) -> Confusion:
    """Read a file that ``write_predictions`` wrote.

    Raises:
        AFAError: the file is missing or damaged.
    """
    try:
        images = [
            ClassifiedImage(Path(row["path"]), row["true"], row["top1"], float(row["probability1"]))
            for row in read_csv(path)
        ]
    except (OSError, ValueError, KeyError, csv.Error):
        raise AFAError(f"{path}: missing or damaged; run the same command with overwrite=true to write it") from None
    return Confusion(images)
