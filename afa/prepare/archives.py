"""The owners' files: found, checked against what is published of them, and unpacked safely."""

import hashlib
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from afa.data.catalogue import Archive
from afa.errors import DataError, one_line
from afa.results.figures import format_bytes
from afa.results.journal import Progress

_BLOCK = 2**22


def find_archives(archives: Sequence[Archive], folder: Path) -> list[Path]:
    """The files in ``folder``.

    Raises:
        DataError: files that are missing, one line each: where they are from and where to put them.
    """
    missing = [archive for archive in archives if not (folder / archive.name).is_file()]
    if missing:
        lines = [f"{folder / archive.name}: no such file; fetch {archive.url} and put it there" for archive in missing]
        raise DataError([*lines, "download=true fetches what is missing"])
    return [folder / archive.name for archive in archives]


def check_archive(archive: Archive, path: Path) -> None:
    """Compare size and digest with the published ones.

    Raises:
        DataError: they differ; both values are named.
    """
    size = path.stat().st_size
    if archive.size and size != archive.size:
        raise DataError(f"{path}: {size:,} bytes, published are {archive.size:,}; fetch it again from {archive.url}")
    if not archive.digest:
        return
    kind, _, wanted = archive.digest.partition(":")
    digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file, Progress(f"checking {path.name}", size, unit="bytes") as bar:
        while block := file.read(_BLOCK):
            digest.update(block)
            bar.update(len(block))
    if digest.hexdigest() != wanted:
        raise DataError(f"{path}: its {kind} is {digest.hexdigest()}, published is {wanted}; fetch it again")


def unpack(path: Path, folder: Path) -> None:
    """Unpack a tar archive, compressed or not; goes on where an earlier try was cut short.

    Only plain files and folders are taken, and none whose path leaves ``folder``.

    Raises:
        DataError: the archive is damaged, holds a link or a path outside, or the disk is too small.
    """
    if not hasattr(tarfile, "data_filter"):
        raise DataError("this Python cannot unpack archives safely; 3.11.4 or newer is needed")
    free = shutil.disk_usage(folder).free
    if path.stat().st_size > free:
        raise DataError(f"{folder}: {format_bytes(free)} free, {path.name} takes {format_bytes(path.stat().st_size)}")
    try:
        with (
            path.open("rb") as file,
            tarfile.open(fileobj=file) as tar,
            Progress(f"unpacking {path.name}", path.stat().st_size, unit="bytes") as bar,
        ):
            done = 0
            for member in _plain_members(tar, path):
                place = folder / member.name
                if not (member.isfile() and place.is_file() and place.stat().st_size == member.size):
                    tar.extract(member, folder, set_attrs=False, filter="data")
                bar.update(file.tell() - done)
                done = file.tell()
    except tarfile.FilterError as error:
        raise DataError(f"{path}: refused: {one_line(error)}") from None
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise DataError(f"{path}: not a whole archive: {one_line(error)}; fetch it again") from None


def _plain_members(tar: tarfile.TarFile, path: Path) -> Iterator[tarfile.TarInfo]:
    for member in tar:
        if not (member.isfile() or member.isdir()):
            raise DataError(f"{path}: refused: {member.name} is a link or a device; an archive of images holds none")
        yield member
