"""Image folders ``<root>/{train,test}/<class>/*``, optionally also ``val``: paths, labels and class names."""

import difflib
import hashlib
import itertools
import os
import random
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from afa.data.class_folders import VALIDATION, check_layout, first_few
from afa.data.images import FORMATS
from afa.data.walk import Walk, find_copies
from afa.errors import DataError


@dataclass(frozen=True)
class ImageFolder:
    """Images below ``root`` with their labels: ``labels[i]`` is the index in ``classes`` of the image ``paths[i]``.

    ``notes`` are lines for the user about the folder; ``linked``: an image may have several paths; ``skipped``: names
    of bad images, relative to ``root``.
    """

    root: Path
    paths: tuple[Path, ...] = field(repr=False)
    labels: tuple[int, ...] = field(repr=False)
    classes: tuple[str, ...] = field(repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False, compare=False)
    linked: bool = field(default=False, repr=False, compare=False)
    skipped: tuple[str, ...] = field(default=(), repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def class_images(self) -> list[int]:
        """Number of images of each class."""
        counts = Counter(self.labels)
        return [counts[label] for label in range(len(self.classes))]

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the relative paths and sizes in bytes of the files, in order.

        Raises:
            DataError: files that do not exist, one line each.
        """
        digest, problems, above = hashlib.sha256(), [], f"{self.root}/"
        for path in self.paths:
            try:
                # A name contains no "\0" and a size no "\n", so no two lists give the same bytes.
                name, size = os.fsencode(str(path).removeprefix(above)), path.stat().st_size
                digest.update(name + b"\0%d\n" % size)
            except OSError as error:
                problems.append(f"{path}: {error.strerror}")
        if problems:
            raise DataError(problems)
        return digest.hexdigest()

    def relabelled(self, classes: Sequence[str]) -> "ImageFolder":
        """The same images with the labels of other ``classes``, which must contain those of the folder.

        Raises:
            DataError: they do not.
        """
        if unknown := set(self.classes) - set(classes):
            known = first_few(classes)
            raise DataError(f"{self.root}: the checkpoint has no class {first_few(unknown)} (its classes: {known})")
        number = {name: label for label, name in enumerate(classes)}
        labels = tuple(number[self.classes[label]] for label in self.labels)
        return replace(self, labels=labels, classes=tuple(classes))

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
        if not splits and not any((root / name).exists() for name in ("train", "test")):
            problems.append(f"{root}: if its folders are classes, prepare=from_folder archive={root} splits them")
        raise DataError(problems)
    train, test = splits
    _check_links(train, test)
    if train.classes != test.classes:
        name = test.root.name
        only = {"train": set(train.classes) - set(test.classes), name: set(test.classes) - set(train.classes)}
        # Names that look the same may differ in spaces or in the Unicode form of an accent.
        looks = [{unicodedata.normalize("NFC", each.strip()) for each in classes} for classes in only.values()]
        shown: Callable[[str], str] = ascii if looks[0] & looks[1] else str
        names = "; ".join(f"only in {k}: {first_few(map(shown, classes))}" for k, classes in only.items() if classes)
        raise DataError(f"{root}: train and {name} have different classes; {names}")
    if len(train.classes) == 1:
        raise DataError(f"{root}: a single class, {train.classes[0]}; at least two are needed")
    return train, test


def scan_held_out(root: Path, classes: Sequence[str]) -> ImageFolder:
    """List the images of a validation folder, labelled by ``classes``, which may contain more than the folder.

    Raises:
        DataError: as ``scan_split``; or the folder has other classes.
    """
    found = scan_split(root)
    others = set(found.classes) - set(classes)
    if others:
        raise DataError(f"{root}: has classes that train does not have: {first_few(others)}")
    labels = [classes.index(name) for name in found.classes]
    return replace(found, labels=tuple(labels[label] for label in found.labels), classes=tuple(classes))


def missing_classes(folder: ImageFolder) -> str:
    """A line about the classes without an image; empty if there is none."""
    present = set(folder.labels)
    missing = {name for label, name in enumerate(folder.classes) if label not in present}
    counts = f"{len(missing)} of the {len(folder.classes)} classes have no image"
    return f"{folder.root}: {counts}: {first_few(missing)}" if missing else ""


def scan_split(root: Path) -> ImageFolder:
    """List the images of the class folders in ``root``: classes in the order of names, images of relative paths.

    As in torchvision's ImageFolder, nested folders belong to their class, and links are followed.
    ``Walk`` decides which files are images.

    Raises:
        DataError: folders that are missing, unreadable, without images or not classes, and images that are in
            several classes; one line each.
    """
    if not root.is_dir():
        raise DataError(_explain_missing(root))
    walk = Walk()
    folders, loose = walk.list_folder(root)
    walk.ignored["next to the class folders"] += len(loose)
    if not folders and not walk.problems:
        raise DataError(f"{root}: no class folder in it; expected {root / '<class>' / '*'}")
    images: dict[Path, list[Path]] = {}
    for folder in folders:
        before, known = Counter(walk.ignored), len(walk.problems)
        images[folder] = walk.find_images(folder)
        if not images[folder] and len(walk.problems) == known:
            others = first_few(walk.ignored - before)
            contents = f"; ignored files: {others}" if others else ""
            walk.problems.append(f"{folder}: no image in this class ({', '.join(FORMATS)}){contents}")
    if walk.problems:
        raise DataError(walk.problems)
    found = ImageFolder(
        root,
        tuple(itertools.chain(*images.values())),
        tuple(label for label, own in enumerate(images.values()) for _ in own),
        tuple(folder.name for folder in folders),
        notes=(*walk.describe(root), *check_layout(root, images)),
        linked=walk.linked,
    )
    _check_links(found)
    return found


def _check_links(*folders: ImageFolder) -> None:
    """Raise DataError if an image is in several classes, by a link or a hard link."""
    if not any(folder.linked for folder in folders):
        return
    first: dict[tuple[int, int], tuple[str, Path]] = {}
    twice = []
    for folder in folders:
        for path, label in zip(folder.paths, folder.labels, strict=True):
            try:
                status = path.stat()
            except OSError:  # reported when the image is read
                continue
            name = folder.classes[label]
            other, before = first.setdefault((status.st_dev, status.st_ino), (name, path))
            if other != name:
                twice.append(f"{before} and {path}")
    if twice:
        raise DataError(f"one file in two classes, by a link: {twice[0]} ({len(twice)} such files); remove the links")


def describe_copies(splits: Mapping[str, ImageFolder]) -> list[str]:
    """A line for each two splits (name -> images) that have images in common."""
    lines = []
    for (name, folder), (other, rest) in itertools.combinations(splits.items(), 2):
        if copies := find_copies(folder.paths, rest.paths):
            lines.append(
                f"{folder.root}: {len(copies)} of the {len(folder)} {name} images are also {other} images, so the "
                f"{name} accuracy is too high; for example {' and '.join(map(str, copies[0]))}"
            )
    return lines


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
        key = f"{seed}/{name}".encode(errors="surrogateescape")  # the name may not be UTF-8
        held.update(random.Random(key).sample(own, count))
    return folder.subset([index for index in range(len(folder)) if index not in held]), folder.subset(sorted(held))


def without(folder: ImageFolder, bad: Collection[Path]) -> ImageFolder:
    """``folder`` without the images ``bad``, in the same order and with the same classes.

    Raises:
        DataError: classes that have no other image, one line each.
    """
    bad = set(bad)
    rest = folder.subset([index for index, path in enumerate(folder.paths) if path not in bad])
    if lost := set(folder.labels) - set(rest.labels):
        raise DataError([f"{folder.root / folder.classes[label]}: all its images are bad" for label in sorted(lost)])
    return replace(rest, skipped=tuple(sorted(path.relative_to(folder.root).as_posix() for path in bad)))


def _explain_missing(folder: Path) -> str:
    """The reason for which ``folder`` cannot be read, the folders next to it, and the one that is probably meant."""
    if folder.exists():
        return f"{folder}: not a folder"
    if not folder.parent.is_dir():
        return f"{folder}: no such folder; {folder.parent} does not exist either"
    walk = Walk()
    found, _ = walk.list_folder(folder.parent)
    if walk.problems:
        return f"{folder}: no such folder; {walk.problems[0]}"
    siblings = [path.name for path in found]
    by_lower = {name.lower(): name for name in siblings}
    close = difflib.get_close_matches(folder.name.lower(), by_lower, n=1)
    meant = f", did you mean '{by_lower[close[0]]}'?" if close else ""
    if deeper := [path for path in found if (path / folder.name).is_dir()]:
        meant = f", but {deeper[0] / folder.name}: use target_data_dir={folder.parent} target_dataset={deeper[0].name}"
    return f"{folder}: no such folder{meant} (next to it: {first_few(siblings) if siblings else 'no folder'})"
