"""Image folders: ``<root>/{train,test}/<class>/*`` -> paths, labels, class names."""

import difflib
import hashlib
import os
import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from afa.errors import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_SHOWN = 5  # names listed in one line of an error


@dataclass(frozen=True)
class ImageFolder:
    """Images with their labels.

    ``labels[i]`` is the index in ``classes`` of the image ``paths[i]``; every path is below ``root``.
    """

    root: Path
    paths: tuple[Path, ...] = field(repr=False)
    labels: tuple[int, ...] = field(repr=False)
    classes: tuple[str, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.paths)

    def fingerprint(self) -> str:
        """SHA-256 (hex) over the relative paths and the sizes of the files in bytes, in order.

        Raises:
            DataError: files that are gone, one line each.
        """
        digest, problems = hashlib.sha256(), []
        for path in self.paths:
            try:
                size = path.stat().st_size
            except OSError as error:
                problems.append(f"{path}: {error.strerror}")
                continue
            # Neither "\0" nor "\n" with a size before it can be part of a name, so no two lists give the same bytes.
            digest.update(os.fsencode(path.relative_to(self.root).as_posix()) + b"\0%d\n" % size)
        if problems:
            raise DataError(problems)
        return digest.hexdigest()


def scan_dataset(root: Path) -> tuple[ImageFolder, ImageFolder]:
    """The folders ``<root>/train`` and ``<root>/test``, with the same classes.

    Raises:
        DataError: every problem of both folders, one line each.
    """
    if not root.is_dir():
        layout = f"expected {root / 'train' / '<class>' / '*'} and {root / 'test' / '<class>' / '*'}"
        raise DataError(f"{_missing(root)}; {layout}")
    splits, problems = [], []
    for name in ("train", "test"):
        try:
            splits.append(scan_split(root / name))
        except DataError as error:
            problems += error.lines
    if problems:
        raise DataError(problems)
    train, test = splits
    if train.classes != test.classes:
        only = {"train": set(train.classes) - set(test.classes), "test": set(test.classes) - set(train.classes)}
        sides = "; ".join(f"only in {name}: {_few(classes)}" for name, classes in only.items() if classes)
        raise DataError(f"{root}: train and test differ in their classes; {sides}")
    return train, test


def scan_split(root: Path) -> ImageFolder:
    """The images of the class folders in ``root``: classes by name, images by relative path.

    Nested folders belong to their class, links are followed, hidden names skipped, as
    far as torchvision's ImageFolder goes; an image is told by its ending, in any case.

    Raises:
        DataError: a folder that is missing, unreadable, or empty; one line each.
    """
    if not root.is_dir():
        raise DataError(_missing(root))
    problems: list[str] = []
    classes = _class_names(root, problems)
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = _images(root / name, problems)
        paths += found
        labels += [label] * len(found)
    if problems:
        raise DataError(problems)
    return ImageFolder(root, tuple(paths), tuple(labels), tuple(classes))


def hold_out(folder: ImageFolder, fraction: float, seed: int) -> tuple[ImageFolder, ImageFolder]:
    """Split ``folder`` a class at a time into what stays and what is held out, order kept.

    Each class gives ``round(fraction * n)`` of its ``n`` images, at least one, and keeps at least one.

    Raises:
        DataError: classes of a single image, one line each.
    """
    members: list[list[int]] = [[] for _ in folder.classes]
    for index, label in enumerate(folder.labels):
        members[label].append(index)
    single = [name for name, own in zip(folder.classes, members, strict=True) if len(own) < 2]
    if single:
        raise DataError([f"{folder.root / name}: a single image; holding one out needs at least 2" for name in single])
    held: set[int] = set()
    for name, own in zip(folder.classes, members, strict=True):
        count = min(max(round(fraction * len(own)), 1), len(own) - 1)
        # A stream a class: an image more in one class leaves the choice in all others as it is.
        held.update(random.Random(f"{seed}/{name}").sample(own, count))
    stays = [index for index in range(len(folder)) if index not in held]
    return _subset(folder, stays), _subset(folder, sorted(held))


def without(folder: ImageFolder, bad: Collection[Path]) -> ImageFolder:
    """``folder`` less the images ``bad``, order and classes kept.

    Raises:
        DataError: classes of which no image is left, one line each.
    """
    bad = set(bad)
    rest = _subset(folder, [index for index, path in enumerate(folder.paths) if path not in bad])
    lost = set(folder.labels) - set(rest.labels)
    if lost:
        raise DataError([f"{folder.root / folder.classes[label]}: no good image is left" for label in sorted(lost)])
    return rest


def _subset(folder: ImageFolder, indices: Sequence[int]) -> ImageFolder:
    paths = tuple(folder.paths[index] for index in indices)
    return ImageFolder(folder.root, paths, tuple(folder.labels[index] for index in indices), folder.classes)


def _class_names(root: Path, problems: list[str]) -> list[str]:
    try:
        names = _folders_in(root)
    except OSError as error:
        problems.append(f"{root}: cannot be read: {error.strerror}")
        return []
    if not names:
        problems.append(f"{root}: no class folder in it; expected {root / '<class>' / '*'}")
    return names


def _folders_in(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _images(folder: Path, problems: list[str]) -> list[Path]:
    """The images below a class folder by relative path; a problem where there is none."""
    before = len(problems)
    found: list[Path] = []
    others: set[str] = set()
    seen: set[str] = set()

    def note(error: OSError) -> None:
        problems.append(f"{error.filename}: cannot be read: {error.strerror}")

    for parent, folders, files in os.walk(folder, followlinks=True, onerror=note):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        real = os.path.realpath(parent)
        if real in seen:  # a link back to a folder above would be walked for ever
            folders.clear()
            continue
        seen.add(real)
        for name in files:
            if name.startswith("."):
                continue
            if name.lower().endswith(EXTENSIONS):
                found.append(Path(parent, name))
            else:
                others.add(Path(name).suffix or name)
    if not found and len(problems) == before:
        beside = f"; it holds {_few(others)} files" if others else ""
        problems.append(f"{folder}: no image in this class ({' '.join(EXTENSIONS)}){beside}")
    return sorted(found, key=str)  # a path by itself would sort part by part


def _missing(folder: Path) -> str:
    """Why ``folder`` is none, what is there beside it, and which of that may be meant."""
    if folder.exists():
        return f"{folder}: not a folder"
    if not folder.parent.is_dir():
        return f"{folder}: no such folder; {folder.parent} does not exist either"
    try:
        beside = _folders_in(folder.parent)
    except OSError as error:
        return f"{folder}: no such folder; {folder.parent} cannot be read: {error.strerror}"
    by_lower = {name.lower(): name for name in beside}
    close = difflib.get_close_matches(folder.name.lower(), by_lower, n=1)
    meant = f", did you mean '{by_lower[close[0]]}'?" if close else ""
    return f"{folder}: no such folder{meant} (beside it: {_few(beside) if beside else 'no folder'})"


def _few(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = len(ordered) - _SHOWN
    return ", ".join(ordered[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
