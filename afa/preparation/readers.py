"""READERS: for each published data set, a function that lists the images of its unpacked archives."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from afa.errors import DataError, one_line
from afa.files import read_text

Entry = tuple[str, Path]
"""Class name, and path of an image."""


class Listing(NamedTuple):
    """Images of each split, and the number of other files that were skipped."""

    train: list[Entry]
    test: list[Entry]
    skipped: int = 0
    val: Sequence[Entry] = ()


class Choice(NamedTuple):
    """Choice of the user: at most ``per_class`` training images of a class (0: all), and the classes."""

    per_class: int = 0
    subset: str = "all"


def read_stanford_dogs(root: Path, choice: Choice) -> Listing:
    """``Images/<class>/*.jpg``; the lists are MATLAB files with cells ``<class>/<file>.jpg``."""
    try:
        from scipy.io import loadmat  # type: ignore[import-untyped]
    except ImportError:
        raise DataError("the lists of this data set are MATLAB files: pip install scipy") from None
    splits = []
    for path in (root / "train_list.mat", root / "test_list.mat"):
        try:
            files = [str(cell[0]) for cell in loadmat(path)["file_list"].ravel()]
        except Exception as error:  # on damaged bytes SciPy raises many types
            raise DataError(f"{path}: does not contain a list of images: {one_line(error)}") from None
        splits.append(_entries(root / "Images", files))
    return Listing(train=splits[0], test=splits[1])


def read_cub(root: Path, choice: Choice) -> Listing:
    """``images.txt`` has number and path of each image; ``train_test_split.txt`` number, and 1 for training images."""
    base = root / "CUB_200_2011"
    paths = dict(line.split(maxsplit=1) for line in _lines(base / "images.txt"))
    is_train = dict(line.split(maxsplit=1) for line in _lines(base / "train_test_split.txt"))
    if set(paths) != set(is_train):
        raise DataError(f"{base}: images.txt and train_test_split.txt do not list the same images")
    splits = ([path for number, path in paths.items() if is_train[number] == flag] for flag in "10")
    train, test = (_entries(base / "images", split) for split in splits)
    return Listing(train, test)


def read_indoor(root: Path, choice: Choice) -> Listing:
    """``Images/<class>/*``: all images of the lists, as many have a wrong extension or none."""
    train, test = (_entries(root / "Images", _lines(root / f"{split}Images.txt")) for split in ("Train", "Test"))
    return Listing(train, test)


def read_caltech(root: Path, choice: Choice) -> Listing:
    """``<class>/<class number>_<image number>.jpg``: training images 1 to ``choice.per_class``, test images 61 to 80.

    There is no official split; this one is in common use. Files with other names are skipped.
    """
    base = root / "256_ObjectCategories"
    train: list[Entry] = []
    test: list[Entry] = []
    skipped = 0
    for path in sorted(path for path in base.rglob("*") if path.is_file()):
        folder = path.parent.name
        match = re.fullmatch(r"(\d{3})_(\d{4})\.jpg", path.name)
        if path.parent.parent != base or not match or not folder.startswith(f"{match[1]}."):
            skipped += 1
        elif int(match[2]) <= choice.per_class:
            train.append((folder, path))
        elif 61 <= int(match[2]) <= 80:
            test.append((folder, path))
    return Listing(train, test, skipped)


def read_food(root: Path, choice: Choice) -> Listing:
    """``images/<class>/<id>.jpg``; ``meta/train.txt`` and ``meta/test.txt`` list ``<class>/<id>``."""
    base = root / "food-101"
    lists = (_lines(base / f"meta/{split}.txt") for split in ("train", "test"))
    train, test = (_entries(base / "images", [f"{line}.jpg" for line in lines]) for lines in lists)
    return Listing(train, test)


_PRODUCE = 20
"""Training images that each class of the subset produce has at least."""


def find_groceries(folder: Path) -> Path | None:
    """The folder with the lists of the Grocery Store data set: ``folder``, ``dataset`` in it, or in a folder in it."""
    lists = (path for pattern in ("", "dataset/", "*/dataset/") for path in sorted(folder.glob(f"{pattern}train.txt")))
    return next((path.parent for path in lists), None)


def read_groceries(root: Path, choice: Choice) -> Listing:
    """``{train,test,val}.txt`` list ``<split>/<category>/.../<class>/<file>``, in most commits with two numbers."""
    base = find_groceries(root) or root
    listed = {split: _grocery_paths(base, split) for split in ("train", "test", "val")}
    if choice.subset == "produce":
        sizes = Counter(path.parent.name for path in listed["train"])
        listed = {
            split: [path for path in paths if path.parts[1] != "Packages" and sizes[path.parent.name] >= _PRODUCE]
            for split, paths in listed.items()
        }
    of_class: dict[str, list[Entry]] = {}
    train, test, val = ([(path.parent.name, base / path) for path in paths] for paths in listed.values())
    for entry in train:
        of_class.setdefault(entry[0], []).append(entry)
    first = [entry for entries in of_class.values() for entry in entries[: choice.per_class or None]]
    return Listing(first, test, val=val)


def _grocery_paths(base: Path, split: str) -> list[PurePosixPath]:
    paths = []
    for line in _lines(base / f"{split}.txt"):
        path = PurePosixPath(line.partition(",")[0].strip())
        if len(path.parts) < 4 or path.parts[0] != split or ".." in path.parts:
            raise DataError(f"{base / split}.txt: contains {line!r}; expected {split}/<category>/.../<class>/<file>")
        paths.append(path)
    return paths


READERS: dict[str, Callable[[Path, Choice], Listing]] = {
    "stanford_dogs": read_stanford_dogs,
    "cub_200_2011": read_cub,
    "mit_indoor_67": read_indoor,
    "caltech_256": read_caltech,
    "food_101": read_food,
    "grocery_store": read_groceries,
}


def _entries(folder: Path, listed: Iterable[str]) -> list[Entry]:
    """The images ``<class>/<file>`` of a list, below ``folder``.

    Raises:
        DataError: a line has another form; so no list can refer to a file outside ``folder``.
    """
    entries = []
    for line in listed:
        parts = PurePosixPath(line).parts
        if len(parts) != 2 or ".." in parts or parts[0] == "/":
            raise DataError(f"{folder}: a list of the data set contains {line!r}; expected <class>/<file>")
        entries.append((parts[0], folder / parts[0] / parts[1]))
    return entries


def _lines(path: Path) -> list[str]:
    try:
        # Names that are not UTF-8 match those of the unpacked files, which tarfile decodes in the same way.
        text = read_text(path, errors="surrogateescape")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; it is one of the data set's files") from None
    return [line.strip() for line in text.splitlines() if line.strip()]
