"""Decoded-once pixels on the disk: a file a split, mapped into memory, shared by all runs and their processes.

The file: the canvases one after the other; a JSON object that says what they are and what
they were made from; the length of that object in 8 bytes. It is written beside and renamed
when it is whole, by one process at a time: the others wait for it.
"""

import contextlib
import fcntl
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image

from afa.data.cache import decode
from afa.data.images import read_canvas
from afa.errors import DataError

MakeCanvas = Callable[[Image.Image], np.ndarray]
_SECONDS_BETWEEN_LOOKS = 0.2  # at whether another process is done
_MEND = "choose another cache_dir=<folder>, or cache=memory, or cache=none"


class Store:
    """The canvases of some images in ``folder``, under a name that images and recipe decide.

    Args:
        folder: where all stores are; made if need be.
        title: begins the file's name.
        paths: the image files.
        make_canvas: RGB image -> uint8 array of one shape for all images.
        recipe: all that the pixels of a canvas depend on beside the image.
    """

    def __init__(
        self, folder: Path, title: str, *, paths: Sequence[Path], make_canvas: MakeCanvas, recipe: str
    ) -> None:
        self._paths, self._make_canvas = [path.absolute() for path in paths], make_canvas
        self._recipe = f"{recipe}, Pillow {PIL.__version__}"
        name = hashlib.sha256("\0".join([self._recipe, *map(str, self._paths)]).encode(errors="surrogateescape"))
        self.path = folder / f"{title}-{name.hexdigest()[:16]}.pixels"
        self._shape = make_canvas(Image.new("RGB", (64, 64))).shape

    @property
    def size(self) -> int:
        """Bytes of all canvases."""
        return len(self._paths) * math.prod(self._shape)

    def open(
        self, *, workers: int, on_progress: Callable[[int], None], say: Callable[[str], None], keep_if_bad: bool
    ) -> tuple[np.ndarray, dict[int, str]]:
        """The canvases, read-only, and the bad images, as from ``load_canvases``; built if need be.

        Args:
            workers, on_progress: see ``decode``; while another process builds, called with 0.
            say: told the file's size before it is written.
            keep_if_bad: False leaves no file where an image is bad; there is nothing then to go on with.

        Raises:
            DataError: the folder cannot be used, or the disk has not the room; one line.
        """
        found = self._read()
        if found is None:
            with _naming(self.path), self._locked(lambda: on_progress(0)):
                found = self._read() or self._build(workers, on_progress, say, keep_if_bad)
        return found

    def _made_from(self) -> str:
        """Digest of the recipe and of all files' names, sizes and times."""
        digest = hashlib.sha256(self._recipe.encode())
        for path in self._paths:
            state = b"gone"
            with contextlib.suppress(OSError):
                status = path.stat()
                state = b"%d %d" % (status.st_size, status.st_mtime_ns)
            digest.update(os.fsencode(path) + b"\0" + state + b"\n")
        return digest.hexdigest()

    def _read(self) -> tuple[np.ndarray, dict[int, str]] | None:
        """What the file holds; None where there is none that is whole and of these images as they are now."""
        try:
            about = _read_about(self.path)
            if about["made_from"] != self._made_from() or tuple(about["shape"][1:]) != self._shape:
                return None
            pixels = _map(self.path, tuple(about["shape"]))
            bad = {int(index): line for index, line in about["bad"].items()}
            return (pixels, bad) if self._agrees(pixels, bad) else None
        except (OSError, ValueError, KeyError, TypeError, DataError):
            return None

    def _agrees(self, pixels: np.ndarray, bad: dict[int, str]) -> bool:
        """Whether the first, the middle and the last canvas are what their files give."""
        good = [index for index in range(len(self._paths)) if index not in bad]
        return len(good) == len(pixels) and all(
            np.array_equal(pixels[row], read_canvas(self._paths[good[row]], self._make_canvas))
            for row in sorted({0, len(good) // 2, len(good) - 1} if good else ())
        )

    def _build(
        self, workers: int, on_progress: Callable[[int], None], say: Callable[[str], None], keep_if_bad: bool
    ) -> tuple[np.ndarray, dict[int, str]]:
        free = shutil.disk_usage(self.path.parent).free
        if self.size > free:
            raise DataError(
                f"{self.path.parent}: {len(self._paths)} decoded images take {self.size / 1e6:,.0f} MB, "
                f"free are {free / 1e6:,.0f} MB; {_MEND}"
            )
        say(f"writing {len(self._paths)} decoded images, {self.size / 1e6:,.0f} MB, to {self.path}")
        made_from, bad = self._made_from(), dict[int, str]()
        temporary = self.path.with_name(f"{self.path.name}.tmp")
        try:
            # Written, not mapped: a disk that fills ends the program on a page of a map, and is an error here.
            with (
                temporary.open("wb") as file,
                contextlib.closing(
                    decode(self._paths, self._make_canvas, workers=workers, on_progress=on_progress)
                ) as results,
            ):
                for index, result in enumerate(results):
                    if isinstance(result, str):
                        bad[index] = result
                    else:
                        file.write(result.tobytes())
                shape = (len(self._paths) - len(bad), *self._shape)
                _write_about(file, {"shape": shape, "bad": bad, "made_from": made_from, "recipe": self._recipe})
            if bad and not keep_if_bad:
                return np.empty((0, *self._shape), np.uint8), bad
            temporary.replace(self.path)
        finally:
            temporary.unlink(missing_ok=True)
        return _map(self.path, shape), bad

    @contextlib.contextmanager
    def _locked(self, while_waiting: Callable[[], None]) -> Generator[None]:
        """Alone in building this file. The system frees the lock of a process that dies."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_name(f"{self.path.name}.lock").open("w") as lock:
            while True:
                try:
                    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except (BlockingIOError, PermissionError):  # POSIX leaves open which of the two
                    while_waiting()
                    time.sleep(_SECONDS_BETWEEN_LOOKS)
            yield


def _map(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The canvases as an array of which only what is looked at is read; none at all cannot be mapped."""
    return np.memmap(path, np.uint8, mode="r", shape=shape) if math.prod(shape) else np.empty(shape, np.uint8)


def _write_about(file: Any, about: dict[str, Any]) -> None:
    text = json.dumps(about).encode()
    file.write(text + len(text).to_bytes(8, "little"))
    file.flush()
    os.fsync(file.fileno())


def _read_about(path: Path) -> dict[str, Any]:
    """The JSON object. Raises ValueError, KeyError or TypeError where the file is none of these, or not whole."""
    with path.open("rb") as file:
        end = file.seek(-8, os.SEEK_END)
        length = int.from_bytes(file.read(8), "little")
        if length > end:
            raise ValueError("torn")
        file.seek(end - length)
        about = json.loads(file.read(length))
    if math.prod(about["shape"]) + length + 8 != end + 8:
        raise ValueError("torn")
    return about


@contextlib.contextmanager
def _naming(path: Path) -> Generator[None]:
    """An error of the system as one line with the path in it."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}; {_MEND}") from None
