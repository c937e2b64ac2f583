"""The walk over folders of images, used by training, prediction, visualization and ``prepare``. Needs no torch."""

import itertools
import os
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from afa.data.images import FORMATS, is_image
from afa.errors import printable
from afa.files import sha256

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_CHUNK = 64
_THREADS = 16  # on a network file system, each file takes a millisecond to open
_COPIES = ("~", "_original", ".bak", ".orig", ".tmp", ".part", ".partial", ".download", ".crdownload")
"""Ends of the names of copies and of incomplete downloads, whose content is that of an image."""
_SYSTEM_FOLDERS = {
    "__macosx": "macOS",
    "_macosx": "macOS",
    "network trash folder": "macOS",
    "@eadir": "Synology",
    "#recycle": "Synology",
    "#snapshot": "Synology",
    "@tmp": "Synology",
    "~snapshot": "NetApp",
    "@recycle": "QNAP",
    "@recently-snapshot": "QNAP",
    "@__thumb": "QNAP",
    "$recycle.bin": "Windows",
    "recycler": "Windows",
    "system volume information": "Windows",
    "_vti_cnf": "FrontPage",
    "lost+found": "Linux",
    "__pycache__": "Python",
}
"""Lower-case name of a folder that a system creates next to images -> the system."""


@dataclass
class Walk:
    """Lists the images in folders, and counts everything else.

    Attributes:
        ignored: kind of file -> number of such files.
        problems: a line for each folder that cannot be read.
        linked: whether an image may be reached by several paths.
    """

    ignored: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    linked: bool = False

    def find_images(self, folder: Path) -> list[Path]:
        """The images below ``folder`` in the order of their paths. Links are followed, each folder is visited once.

        Hidden names are ignored. A file is an image if its name has one of ``EXTENSIONS``, or by its content.
        """
        found: list[Path] = []
        visited: set[tuple[int, int]] = set()  # a link to a visited folder would be followed forever
        above = {_identity(parent) for parent in (*folder.absolute().parents, *folder.resolve().parents)}
        pending = [folder]
        while pending:
            current = pending.pop()
            identity = _identity(current)
            if identity in above:
                self.problems.append(f"{current}: a link to a folder above it; remove it")
            elif identity not in visited:
                visited.add(identity)
                folders, images = self.list_folder(current)
                pending += reversed(folders)
                found += images
        return sorted(found, key=str)  # Path objects would sort by their components

    def list_folder(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """The folders in ``folder`` that may contain images, and the images in it, in the order of names."""
        try:
            with os.scandir(folder) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except OSError as error:
            self.problems.append(f"{folder}: cannot be read: {error.strerror}")
            return [], []
        folders, images = [], []
        for entry in entries:
            if not _is_folder(entry):
                images += [folder / entry.name] if self.accept(entry) else []  # faster than Path(entry)
            elif is_ignored(entry.name):
                system = _SYSTEM_FOLDERS.get(entry.name.casefold())
                kind = f"in {entry.name}{f' (of {system})' if system else ''}"
                self.ignored[kind] += sum(len(files) for _, _, files in os.walk(entry))
            else:
                self.linked |= entry.is_symlink()
                folders.append(folder / entry.name)
        return folders, images

    def accept(self, file: Path | os.DirEntry[str]) -> bool:
        """Whether a file is an image; counts it otherwise."""
        name = file.name
        try:
            status = file.stat()
        except OSError:
            status = None  # a broken link, which is reported when the image is read
        if name.startswith("."):
            kind = ".DS_Store" if name == ".DS_Store" else "hidden"
        elif status and not stat.S_ISREG(status.st_mode):
            kind = "special (a pipe or a device)"
        elif name.lower().endswith(EXTENSIONS) or (not name.endswith(_COPIES) and is_image(Path(file))):
            self.linked |= file.is_symlink() or (status is not None and status.st_nlink > 1)
            return True
        else:
            kind = os.path.splitext(name)[1].lower() or "without an extension"  # noqa: PTH122 (a name, not a path)
        self.ignored[kind] += 1
        return False

    def describe(self, folder: Path | str) -> tuple[str, ...]:
        """A line about the files that were ignored, if there are any."""
        ignored = +self.ignored
        kinds = [f"{count} {kind}" for kind, count in ignored.most_common()]
        more = [f"{len(kinds) - 8} other kinds"] if len(kinds) > 8 else []
        listed = printable(f"{folder}: {ignored.total()} files ignored: {', '.join([*kinds[:8], *more])}")
        return (f"{listed}; images are {', '.join(FORMATS)} files",) if ignored else ()


def find_copies(paths: Sequence[Path], others: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Pairs of files with the same content: one of ``paths``, and one of ``others``."""
    remaining = [list(paths), list(others)]
    # Cheap keys first: only files that agree so far are read. Sizes: cached since the walk, so threads would only wait
    # for the interpreter's lock.
    for key, threads in ((_size, 1), (_end, _THREADS), (sha256, _THREADS)):
        found = [_keys(key, own, threads) for own in remaining]
        common = set(found[0].values()) & set(found[1].values())
        remaining = [[path for path, value in own.items() if value in common] for own in found]
    originals = {value: path for path, value in found[1].items()}
    return [(path, originals[value]) for path, value in found[0].items() if value in common]


def _keys(key: Callable[[Path], Any], paths: Sequence[Path], threads: int) -> dict[Path, Any]:
    """The key of each path. Each call of a thread has a chunk of paths, as a call takes longer than a key."""
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    with ThreadPoolExecutor(threads) as executor:
        keys = executor.map(lambda chunk: [key(path) for path in chunk], chunks)
        return dict(zip(paths, itertools.chain.from_iterable(keys), strict=True))


def _size(path: Path) -> int:
    return path.stat().st_size


def _end(path: Path) -> int:
    """Hash of the last bytes of a file: equal for equal files, and cheaper than their SHA-256."""
    file = os.open(path, os.O_RDONLY)
    try:
        return hash(os.pread(file, 4096, max(os.fstat(file).st_size - 4096, 0)))
    finally:
        os.close(file)


def is_ignored(name: str) -> bool:
    """Whether the files in a folder of this name are never images of a data set."""
    return name.startswith(".") or name.casefold() in _SYSTEM_FOLDERS


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
