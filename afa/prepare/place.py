"""A split put in its place: whole or not at all, with links to the images where the file system has them."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from afa.errors import DataError
from afa.results.journal import Progress


class Placed(NamedTuple):
    """An image and its place below the data set's folder, for example ``train/tulip/001.jpg``."""

    image: Path
    place: Path


def place_images(images: Sequence[Placed], folder: Path) -> None:
    """Make ``folder`` with all images in it; until all are there it has another name.

    Raises:
        DataError: images that are missing, two for one place, or a folder that cannot be written.
    """
    _check(images)
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        if partial.exists():  # a try that was cut short
            shutil.rmtree(partial)
        with Progress(f"placing {folder.name}", len(images)) as bar:
            for image, place in images:
                target = partial / place
                target.parent.mkdir(parents=True, exist_ok=True)
                _link(image, target)
                bar.update(1)
        partial.rename(folder)
    except OSError as error:
        raise DataError(f"{error.filename or folder}: cannot be written: {error.strerror}") from None


def _check(images: Sequence[Placed]) -> None:
    missing = [image for image, _ in images if not image.is_file()]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise DataError(f"listed and not there: {', '.join(map(str, missing[:5]))}{more}; is the archive whole?")
    places = [place for _, place in images]
    if len(set(places)) < len(places):
        twice = next(place for place in places if places.count(place) > 1)
        raise DataError(f"{twice}: listed twice")


def _link(image: Path, target: Path) -> None:
    try:
        os.link(os.path.realpath(image), target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(image, target)
