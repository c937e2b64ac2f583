"""Writes, locks, renames and hashes files. A file is written completely or not at all. Needs no torch."""

import contextlib
import csv
import errno
import fcntl
import hashlib
import io
import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from afa.errors import AFAError, BusyError, ConfigError

T = TypeVar("T")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")
LOCK = ".lock"
"""Name of the lock file in the folder of a run."""


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` with a temporary path next to ``path``, then rename the file that it created to ``path``.

    At any time, also if an error occurs or the process dies, ``path`` is the complete old file or the
    complete new one. After an error the temporary file is removed.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        write(temporary)
        _sync(temporary)  # otherwise a power failure could leave an empty file under the new name
        temporary.replace(path)
        _sync(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write or replace a file in UTF-8; bytes of file names that are not UTF-8 become ``\\udc..`` escapes.

    Raises:
        AFAError: the file cannot be written; the old one is intact.
    """
    write_parts(path, [text])


def write_parts(path: Path, parts: Iterable[str]) -> None:
    """As ``write_text``, for a text that need not fit into memory."""
    _write(path, (part.encode("utf-8", errors="backslashreplace") for part in parts))


def write_bytes(path: Path, content: bytes) -> None:
    """Write or replace a file. Raises as ``write_text``."""
    _write(path, [content])


def _write(path: Path, parts: Iterable[bytes]) -> None:
    # A library that writes a file itself may fail again, or abort, when it is destroyed.
    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.writelines(parts)

    try:
        replace_file(path, write)
    except OSError as error:
        raise AFAError(f"{path}: cannot be written: {error.strerror}") from None


def append_bytes(path: Path, content: bytes) -> None:
    """Add to the end of a file, which is created if necessary. Raises as ``write_bytes``."""
    try:
        with open_regular(path, "ab") as file:
            file.write(content)
    except OSError as error:
        raise AFAError(f"{path}: cannot be written: {error.strerror}") from None


def open_regular(path: Path, mode: str = "rb") -> io.BufferedIOBase:
    """Open a file. A pipe or a device, on which a program would wait for ever, is refused.

    Raises:
        OSError: it cannot be opened, or is not a regular file.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "is a folder" if path.is_dir() else "not a regular file", str(path))
    return cast(io.BufferedIOBase, path.open(mode))


def read_text(path: Path, encoding: str = "utf-8", errors: str = "strict") -> str:
    """The text of a file. Raises OSError as ``open_regular``, or UnicodeDecodeError."""
    with open_regular(path) as file:
        return file.read().decode(encoding, errors)


def user_path(text: str, key: str = "") -> Path:
    """The path in a setting, whose key begins the error message; ``~`` is the home folder, as in a shell.

    Raises:
        ConfigError: there is no home folder.
    """
    path = Path(text)
    try:
        return path.expanduser() if text.startswith("~") else path
    except RuntimeError:
        where = f"{key}: {text}" if key else text
        raise ConfigError(f"{where}: no home folder is known (HOME is not set); write the path without ~") from None


def write_json(path: Path, values: Any) -> None:
    """Write or replace a JSON file. Raises as ``write_text``."""
    write_text(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def write_json_list(path: Path, values: dict[str, Any], key: str, items: Iterable[Any]) -> None:
    """Write or replace a JSON file of ``values`` and, as ``key``, the ``items``, one in a line. Raises as above."""

    def parts() -> Iterator[str]:
        yield json.dumps(values, indent=1, ensure_ascii=False).removesuffix("\n}") + f",\n {json.dumps(key)}: ["
        for index, item in enumerate(items):
            yield f"{',' if index else ''}\n  {json.dumps(item, ensure_ascii=False)}"
        yield "\n ]\n}\n"

    write_parts(path, parts())


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write or replace a CSV file. Raises as ``write_text``.

    Text that a spreadsheet would take for a formula begins with an apostrophe, which ``read_csv`` removes.
    """
    writer = csv.writer(_Lines())
    write_parts(path, (writer.writerow(row) for row in itertools.chain([header], (map(_as_text, row) for row in rows))))


class _Lines:
    """A file for ``csv.writer``, whose ``writerow`` then returns the line."""

    def write(self, line: str) -> str:
        return line


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a file that ``write_csv`` wrote. Raises OSError, ValueError or csv.Error if it is damaged."""
    header, *rows = csv.reader(io.StringIO(read_text(path), newline=""))
    marked = tuple(f"'{start}" for start in _FORMULA)
    cells = ([cell[1:] if cell.startswith(marked) else cell for cell in row] for row in rows)
    return [dict(zip(header, row, strict=True)) for row in cells]


def _as_text(cell: object) -> str:
    text = "" if cell is None else str(cell)
    with contextlib.suppress(ValueError):
        float(text)
        return text
    return f"'{text}" if text.startswith(_FORMULA) else text


def read_json(path: Path, build: Callable[[Any], T]) -> T:
    """Read a file of ``write_json``; ``build`` converts its plain values.

    Raises:
        AFAError: the file was modified since.
    """
    try:
        return build(json.loads(read_text(path)))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise AFAError(modified(path)) from None


def modified(path: Path) -> str:
    """A line about a file of a run with other content than the run wrote."""
    return f"{path}: modified or incomplete; remove it, and the same command restores it from the checkpoints"


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file's content."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def locked(path: Path, *, wait: Callable[[], object] | None = None, remove: bool = False) -> Iterator[None]:
    """Hold an exclusive lock on the file ``path``, which is created if necessary.

    It excludes other processes, not other threads of this one; the system releases it when the
    process dies. While another process holds it, ``wait`` is called every 0.2 seconds. ``remove`` removes the file
    at the end.

    Raises:
        BlockingIOError: another process holds the lock, and ``wait`` is None.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open_regular(path, "wb"))
        while True:
            try:
                # Not flock: the workers of a killed run inherit such a lock and outlive the run by some seconds.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(file.fileno()).st_nlink:
                    break
                file = stack.enter_context(open_regular(path, "wb"))  # the previous holder removed the file
                continue
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):  # POSIX allows either for a lock that is held
                    text = f"this file system cannot lock files ({error.strerror})"
                    raise OSError(error.errno, text, str(path)) from None
                if wait is None:
                    raise BlockingIOError(f"{path} is locked") from None
            wait()
            time.sleep(0.2)
        try:
            yield
        finally:
            if remove:
                path.unlink(missing_ok=True)


def claim_folder(folder: Path) -> contextlib.ExitStack:
    """Create the folder of a run if necessary, and lock it until the result is closed.

    Raises:
        BusyError: another process holds the lock.
        AFAError: the folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder / LOCK))
        except BlockingIOError:
            advice = "wait for it, or choose another exp_id=<name>"
            raise BusyError(f"{folder}: another run is using this folder; {advice}") from None
        except OSError as error:
            raise AFAError(f"{folder}: cannot be written: {error.strerror}; choose another outpath=<folder>") from None
        return stack.pop_all()


def keep_old(path: Path) -> Path | None:
    """Rename ``path`` if it exists to ``<stem>.old-1<suffix>``, ``-2``, ...; return its new path or raise AFAError."""
    return _rename_old(path, path.stem, path.suffix) if path.exists() else None


def move_aside(folder: Path) -> Path:
    """Rename the folder of an old run to ``<name>.old-1``, ``-2``, ... and return its new path.

    Raises:
        BusyError: a run is using it.
        AFAError: it cannot be renamed.
    """
    with claim_folder(folder):
        return _rename_old(folder, folder.name, "")


def _rename_old(path: Path, stem: str, suffix: str) -> Path:
    candidates = (path.with_name(f"{stem}.old-{number}{suffix}") for number in itertools.count(1))
    old = next(candidate for candidate in candidates if not candidate.exists())
    try:
        return path.rename(old)
    except OSError as error:
        raise AFAError(f"{path}: cannot be renamed to {old.name}: {error.strerror}") from None
