"""Downloads the files of published data sets, checks their sizes and digests, and unpacks them safely."""

import hashlib
import shutil
import stat
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from afa.data.published import Archive
from afa.errors import DataError, one_line
from afa.files import locked
from afa.results.journal import Progress
from afa.results.outcomes import format_bytes

_BLOCK = 2**20
_TIMEOUT = 60  # seconds without data
_MOST_EXPANSION, _SMALL = 20, 100 * 2**20  # an archive of images grows by less when it is unpacked: factor, bytes


def find_archives(archives: Sequence[Archive], source: Path, *, fetch: bool) -> list[Path]:
    """Paths of the files, after a check of size and digest; ``fetch`` downloads missing ones.

    Args:
        source: the folder of the files, or one of them. A single file may have any name.

    Raises:
        DataError: files are missing, one line each with address and path, or not the published ones.
    """
    if source.is_file() and len(archives) == 1:
        check_archive(archives[0], source)
        return [source]
    folder = source.parent if source.is_file() else source
    paths, missing = {folder / archive.name: archive for archive in archives}, []
    for path, archive in paths.items():
        if fetch and not path.exists():
            download(archive, folder)
        if not path.is_file():
            missing.append(f"{path}: no such file; download {archive.url} to this path")
    if missing:
        raise DataError([*missing, "download=true downloads the missing files"])
    for path, archive in paths.items():
        check_archive(archive, path)
    return list(paths)


def download(archive: Archive, folder: Path) -> Path:
    """Download a file into ``folder``. Until it is complete, its name ends in ``.part``; a later call resumes it.

    Raises:
        DataError: the download failed; the message states the path to save the file to.
    """
    path = folder / archive.name
    partial, lock = path.with_name(f"{path.name}.part"), path.with_name(f".{path.name}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(lock, wait=lambda: None, remove=True):
            if not path.exists():  # another process may have downloaded it
                _resume(archive, partial)
                partial.rename(path)
    except (OSError, HTTPException, ValueError) as error:
        raise DataError(
            f"{archive.url}: the download failed ({one_line(error)}); "
            f"repeat the command to resume it, or save the file as {path}"
        ) from None
    return path


def _resume(archive: Archive, partial: Path) -> None:
    done = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(archive.url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and done:  # the requested range is empty: the file is complete
            return
        raise
    with response:
        resumed = response.status == 206
        done = done if resumed else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else archive.size
        with (
            partial.open("ab" if resumed else "wb") as file,
            Progress(f"downloading {archive.name}", total, done, unit="bytes") as bar,
        ):
            while block := response.read(_BLOCK):
                file.write(block)
                bar.update(len(block))
    if length and partial.stat().st_size != total:
        raise OSError(f"ended after {partial.stat().st_size:,} of {total:,} bytes")


def check_archive(archive: Archive, path: Path) -> None:
    """Compare size and digest with the published ones. Raises DataError if they differ; it states both values."""
    size = path.stat().st_size
    if archive.size and size != archive.size:
        raise DataError(f"{path}: {size:,} bytes, but {archive.size:,} are published; download {archive.url} again")
    if not archive.digest:
        return
    name, _, published = archive.digest.partition(":")
    digest = hashlib.new(name, usedforsecurity=False)
    with path.open("rb") as file, Progress(f"checking {path.name}", size, unit="bytes") as bar:
        while block := file.read(_BLOCK):
            digest.update(block)
            bar.update(len(block))
    if digest.hexdigest() != published:
        difference = f"its {name} is {digest.hexdigest()}, but {published} is published"
        raise DataError(f"{path}: {difference}; download {archive.url} again")


def unpack(path: Path, folder: Path) -> None:
    """Unpack a tar archive, compressed or not, or a zip file. Files that an interrupted call has unpacked are kept.

    Only regular files and folders are accepted, and no path that leaves ``folder``.

    Raises:
        DataError: the archive is damaged, contains a link or a path outside, or the disk is too small. If it contains
            far more data than an archive of images, ``folder`` is removed.
    """
    if not hasattr(tarfile, "data_filter"):
        raise DataError("this Python cannot unpack archives safely; version 3.11.4 or newer is needed")
    size, free = path.stat().st_size, shutil.disk_usage(folder).free
    if size > free:
        raise DataError(f"{folder}: {format_bytes(free)} are free, {path.name} needs {format_bytes(size)}")
    try:
        with path.open("rb") as file, Progress(f"unpacking {path.name}", size, unit="bytes") as bar:
            is_zip = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            (_unpack_zip if is_zip else _unpack_tar)(file, path, folder, bar)
    except tarfile.FilterError as error:
        raise DataError(f"{path}: refused: {one_line(error)}") from None
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError) as error:
        raise DataError(f"{path}: damaged or incomplete archive: {one_line(error)}; download it again") from None


def _unpack_tar(file: BinaryIO, path: Path, folder: Path, bar: Progress) -> None:
    with tarfile.open(fileobj=file) as tar:
        done = unpacked = 0
        for member in tar:
            unpacked += member.size
            _check_size(unpacked, member.size, path, folder)
            if not (member.isfile() or member.isdir()):
                raise DataError(f"{path}: refused: {member.name} is a link or a device, not an image or a folder")
            if not (member.isfile() and _is_unpacked(folder / member.name, member.size)):
                tar.extract(member, folder, set_attrs=False, filter="data")
            bar.update(file.tell() - done)
            done = file.tell()


def _unpack_zip(file: BinaryIO, path: Path, folder: Path, bar: Progress) -> None:
    unpacked = 0
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            unpacked += member.file_size
            _check_size(unpacked, member.file_size, path, folder)
            name, kind = PurePosixPath(member.filename), stat.S_IFMT(member.external_attr >> 16)
            if name.is_absolute() or ".." in name.parts or kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise DataError(f"{path}: refused: {member.filename} is a link, or is outside the folder")
            if member.is_dir() or not _is_unpacked(folder / name, member.file_size):
                archive.extract(member, folder)
            bar.update(member.compress_size)


def _check_size(unpacked: int, member: int, path: Path, folder: Path) -> None:
    """Raise DataError if the next member is too large. Images are compressed already; a few zeros can fill a disk."""
    most = _MOST_EXPANSION * path.stat().st_size + _SMALL
    free = shutil.disk_usage(folder).free
    if unpacked > most:
        shutil.rmtree(folder, ignore_errors=True)
        raise DataError(f"{path}: refused: unpacks to more than {format_bytes(most)}; an archive of images is smaller")
    if member > free:
        raise DataError(f"{folder}: {format_bytes(free)} are free, a file in {path.name} needs {format_bytes(member)}")


def _is_unpacked(target: Path, size: int) -> bool:
    return target.is_file() and target.stat().st_size == size
