"""Image folders ``<root>/{train,test}/<class>/*``, optionally also ``val``: paths, labels and class names."""

import difflib
import hashlib
import itertools
import os
import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from afa.errors import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
VALIDATION = ("val", "valid", "validation")
"""Names of a folder with validation images."""


@dataclass(frozen=True)
class ImageFolder:
    """Images below ``root`` with their labels: ``labels[i]`` is the index in ``classes`` of the image ``paths[i]``."""

    root: Path
    paths: tuple[Path, ...] = field(repr=False)
    labels: tuple[int, ...] = field(repr=False)
    classes: tuple[str, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.paths)

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the relative paths and sizes in bytes of the files, in order.

        Raises:
            DataError: files that do not exist, one line each.
        """
        digest, problems = hashlib.sha256(), []
        for path in self.paths:
            try:
                # A name contains no "\0" and a size no "\n", so no two lists give the same bytes.
                name, size = os.fsencode(path.relative_to(self.root).as_posix()), path.stat().st_size
                digest.update(name + b"\0%d\n" % size)
            except OSError as error:
                problems.append(f"{path}: {error.strerror}")
        if problems:
            raise DataError(problems)
        return digest.hexdigest()

    def subset(self, indices: Sequence[int]) -> "ImageFolder":
        """The images at ``indices``, with all classes."""
        paths, labels = tuple(self.paths[i] for i in indices), tuple(self.labels[i] for i in indices)
        return ImageFolder(self.root, paths, labels, self.classes)


class Layout(NamedTuple):
    """Folders of a data set; ``held_out`` is None if it has no validation folder, or if this is its test folder."""

    train: Path
    test: Path
    held_out: Path | None


def find_layout(root: Path) -> Layout:
    """The folders of the data set in ``root``; without ``test``, the validation folder contains the test images.

    Raises:
        DataError: there are several validation folders.
    """
    train, test = root / "train", root / "test"
    found = [root / name for name in VALIDATION if (root / name).is_dir()]
    if len(found) > 1:
        raise DataError(f"{root}: has the folders {', '.join(path.name for path in found)}; keep one of them")
    if found and not test.exists():
        return Layout(train, found[0], None)
    return Layout(train, test, found[0] if found else None)


def scan_dataset(root: Path) -> tuple[ImageFolder, ImageFolder]:
    """List the training and the test images of the data set in ``root``, which must have the same classes.

    Raises:
        DataError: all problems of both folders, one line each.
    """
    if not root.is_dir():
        expected = f"expected {root / 'train' / '<class>' / '*'} and {root / 'test' / '<class>' / '*'}"
        raise DataError(f"{_explain_missing(root)}; {expected}")
    splits, problems = [], []
    for path in find_layout(root)[:2]:
        try:
            splits.append(scan_split(path))
        except DataError as error:
            problems += error.lines
    if problems:
        raise DataError(problems)
    train, test = splits
    if train.classes != test.classes:
        name = test.root.name
        only = {"train": set(train.classes) - set(test.classes), name: set(test.classes) - set(train.classes)}
        names = "; ".join(f"only in {name}: {_first_few(classes)}" for name, classes in only.items() if classes)
        raise DataError(f"{root}: train and {name} have different classes; {names}")
    return train, test


def scan_held_out(root: Path, classes: Sequence[str]) -> ImageFolder:
    """List the images of a validation folder, labelled by ``classes``, which may contain more than the folder.

    Raises:
        DataError: as ``scan_split``; or the folder has other classes.
    """
    found = scan_split(root)
    others = set(found.classes) - set(classes)
    if others:
        raise DataError(f"{root}: has classes that train does not have: {_first_few(others)}")
    labels = [classes.index(name) for name in found.classes]
    return ImageFolder(root, found.paths, tuple(labels[label] for label in found.labels), tuple(classes))


def missing_classes(folder: ImageFolder) -> str:
    """A line about the classes without an image; empty if there is none."""
    missing = {name for label, name in enumerate(folder.classes) if label not in set(folder.labels)}
    counts = f"{len(missing)} of the {len(folder.classes)} classes have no image"
    return f"{folder.root}: {counts}: {_first_few(missing)}" if missing else ""


def scan_split(root: Path) -> ImageFolder:
    """List the images of the class folders in ``root``: classes in the order of names, images of relative paths.

    As in torchvision's ImageFolder, nested folders belong to their class, and links are followed.
    Hidden names are skipped. An image is recognised by its extension, in upper or lower case.

    Raises:
        DataError: folders that are missing, unreadable or without images, one line each.
    """
    if not root.is_dir():
        raise DataError(_explain_missing(root))
    try:
        classes = _subfolders(root)
    except OSError as error:
        raise DataError(f"{root}: cannot be read: {error.strerror}") from None
    if not classes:
        raise DataError(f"{root}: no class folder in it; expected {root / '<class>' / '*'}")
    problems: list[str] = []
    images = [_find_images(root / name, problems) for name in classes]
    if problems:
        raise DataError(problems)
    labels = tuple(label for label, found in enumerate(images) for _ in found)
    return ImageFolder(root, tuple(itertools.chain(*images)), labels, tuple(classes))


def hold_out(folder: ImageFolder, fraction: float, seed: int) -> tuple[ImageFolder, ImageFolder]:
    """Split ``folder``, class by class, into the remaining and the held-out images. Both keep its order.

    Of the ``n`` images of a class, ``round(fraction * n)`` are held out, but at least 1 and at most ``n - 1``.

    Raises:
        DataError: classes with a single image, one line each.
    """
    members: dict[str, list[int]] = {name: [] for name in folder.classes}
    for index, label in enumerate(folder.labels):
        members[folder.classes[label]].append(index)
    if single := [folder.root / name for name, own in members.items() if len(own) < 2]:
        raise DataError([f"{path}: a single image; at least 2 are needed to hold one out" for path in single])
    held: set[int] = set()
    for name, own in members.items():
        count = min(max(round(fraction * len(own)), 1), len(own) - 1)
        # Each class has its own generator: another image in one class does not change the choice in the others.
        held.update(random.Random(f"{seed}/{name}").sample(own, count))
    return folder.subset([index for index in range(len(folder)) if index not in held]), folder.subset(sorted(held))


def without(folder: ImageFolder, bad: Collection[Path]) -> ImageFolder:
    """``folder`` without the images ``bad``, in the same order and with the same classes.

    Raises:
        DataError: classes that have no other image, one line each.
    """
    bad = set(bad)
    rest = folder.subset([index for index, path in enumerate(folder.paths) if path not in bad])
    if lost := set(folder.labels) - set(rest.labels):
        raise DataError([f"{folder.root / folder.classes[label]}: no good image is left" for label in sorted(lost)])
    return rest


def _subfolders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _find_images(folder: Path, problems: list[str]) -> list[Path]:
    """The images below a class folder in the order of paths; appends to ``problems`` if there are none."""
    before = len(problems)
    found: list[Path] = []
    others: set[str] = set()
    seen: set[str] = set()

    def note(error: OSError) -> None:
        problems.append(f"{error.filename}: cannot be read: {error.strerror}")

    for parent, folders, files in os.walk(folder, followlinks=True, onerror=note):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        real = os.path.realpath(parent)
        if real in seen:  # a link to a parent folder would be followed forever
            folders.clear()
            continue
        seen.add(real)
        for name in (name for name in files if not name.startswith(".")):
            if name.lower().endswith(EXTENSIONS):
                found.append(Path(parent, name))
            else:
                others.add(Path(name).suffix or name)
    if not found and len(problems) == before:
        contents = f"; it contains {_first_few(others)} files" if others else ""
        problems.append(f"{folder}: no image in this class ({' '.join(EXTENSIONS)}){contents}")
    return sorted(found, key=str)  # Path objects would sort by their components


def _explain_missing(folder: Path) -> str:
    """Why ``folder`` is not a folder, which folders are next to it, and which of them may be meant."""
    if folder.exists():
        return f"{folder}: not a folder"
    if not folder.parent.is_dir():
        return f"{folder}: no such folder; {folder.parent} does not exist either"
    try:
        siblings = _subfolders(folder.parent)
    except OSError as error:
        return f"{folder}: no such folder; {folder.parent} cannot be read: {error.strerror}"
    by_lower = {name.lower(): name for name in siblings}
    close = difflib.get_close_matches(folder.name.lower(), by_lower, n=1)
    meant = f", did you mean '{by_lower[close[0]]}'?" if close else ""
    return f"{folder}: no such folder{meant} (next to it: {_first_few(siblings) if siblings else 'no folder'})"


def _first_few(names: Iterable[str], limit: int = 5) -> str:
    ordered = sorted(names)
    more = len(ordered) - limit
    return ", ".join(ordered[:limit]) + (f" and {more} more" if more > 0 else "")
