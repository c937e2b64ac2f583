"""Decoded images on disk: one memory-mapped file per split, shared by all runs and their processes.

``<name>.npy`` contains the canvases, ``<name>.json`` describes what they were made from. One process at a
time writes the files, while the others wait. It removes the JSON file first and writes it last.
"""

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import PIL
from numpy.lib import format as npy
from PIL import Image

from afa.data.images import MakeCanvas, decode, read_canvas
from afa.errors import DataError
from afa.files import locked, read_json, replace_file

_ADVICE = "choose another cache_dir=<folder>, or cache=memory, or cache=none"


class DiskCache:
    """The canvases of some images in a file, whose name is a function of the image paths and the recipe.

    Args:
        folder: folder of the file; created if necessary.
        title: the file's name begins with it.
        paths, make_canvas: as in ``decode``.
        recipe: everything except the image that the pixels of a canvas depend on.
    """

    def __init__(
        self, folder: Path, title: str, *, paths: Sequence[Path], make_canvas: MakeCanvas, recipe: str
    ) -> None:
        self._paths, self._make_canvas = [path.absolute() for path in paths], make_canvas
        self._recipe = f"{recipe}, Pillow {PIL.__version__}"
        name = hashlib.sha256("\0".join([self._recipe, *map(str, self._paths)]).encode(errors="surrogateescape"))
        self.path = folder / f"{title}-{name.hexdigest()[:16]}.npy"
        self._description = self.path.with_suffix(".json")
        self._shape = make_canvas(Image.new("RGB", (64, 64))).shape

    def open(
        self, *, workers: int, on_progress: Callable[[int], None], log: Callable[[str], None], keep_if_bad: bool
    ) -> tuple[np.ndarray, dict[int, str]]:
        """Map the canvases, read-only; decode and write them first if necessary. Returns the same as ``load_canvases``.

        Args:
            workers, on_progress: as in ``decode``; called with 0 while another process writes the file.
            log: called with a line that states the size before the file is written.
            keep_if_bad: False: if an image is bad, no file is kept, because the caller will raise an error.

        Raises:
            DataError: the folder cannot be written, or the disk is too small; one line.
        """
        if (found := self._read()) is not None:
            return found
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with locked(self.path.with_suffix(".lock"), wait=lambda: on_progress(0)):
                return self._read() or self._build(workers, on_progress, log, keep_if_bad)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be written: {error.strerror}; {_ADVICE}") from None

    def _fingerprint(self) -> str:
        """SHA-256 (hex) of the recipe and of the path, size and modification time of each image."""
        digest = hashlib.sha256(self._recipe.encode())
        for path in self._paths:
            try:
                status = path.stat()
                state = b"%d %d" % (status.st_size, status.st_mtime_ns)
            except OSError:
                state = b"missing"
            digest.update(os.fsencode(path) + b"\0" + state + b"\n")
        return digest.hexdigest()

    def _read(self) -> tuple[np.ndarray, dict[int, str]] | None:
        """The stored canvases and bad images; None if they are missing or damaged, or if an image has changed."""
        try:
            made_from, bad = read_json(
                self._description,
                lambda values: (values["made_from"], {int(index): line for index, line in values["bad"].items()}),
            )
            if made_from != self._fingerprint():
                return None
            pixels = npy.open_memmap(self.path, mode="r")
            good = [path for index, path in enumerate(self._paths) if index not in bad]
            if pixels.dtype != np.uint8 or pixels.shape != (len(good), *self._shape):
                return None
            for row in {0, len(good) // 2, len(good) - 1} if good else ():  # compare a sample with the files
                if not np.array_equal(pixels[row], read_canvas(good[row], self._make_canvas)):
                    return None
        except Exception:  # NumPy raises many types on a damaged header
            return None
        return pixels, bad

    def _build(
        self, workers: int, on_progress: Callable[[int], None], log: Callable[[str], None], keep_if_bad: bool
    ) -> tuple[np.ndarray, dict[int, str]]:
        size, free = len(self._paths) * math.prod(self._shape), shutil.disk_usage(self.path.parent).free
        images = f"{len(self._paths)} decoded images"
        if size > free:
            raise DataError(
                f"{self.path.parent}: {images} need {size / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free; {_ADVICE}"
            )
        log(f"writing {images}, {size / 1e6:,.0f} MB, to {self.path}")
        made_from, bad = self._fingerprint(), dict[int, str]()

        def write(temporary: Path) -> None:
            # Written, not mapped: on a full disk, writing to a map kills the process (SIGBUS).
            results = decode(self._paths, self._make_canvas, workers=workers, on_progress=on_progress)
            with temporary.open("wb") as file, contextlib.closing(results):
                header = {"descr": "|u1", "fortran_order": False, "shape": (len(self._paths), *self._shape)}
                npy.write_array_header_1_0(file, header)
                for index, result in enumerate(results):
                    if isinstance(result, str):
                        bad[index] = result
                    else:
                        file.write(result.tobytes())
                file.seek(0)  # the header has room for any number of rows, so its length stays the same
                header["shape"] = (len(self._paths) - len(bad), *self._shape)
                npy.write_array_header_1_0(file, header)

        self._description.unlink(missing_ok=True)
        replace_file(self.path, write)
        pixels = npy.open_memmap(self.path, mode="r")
        if bad and not keep_if_bad:
            self.path.unlink()
        else:
            description = json.dumps({"recipe": self._recipe, "made_from": made_from, "bad": bad}, indent=1)
            replace_file(self._description, lambda temporary: temporary.write_text(description))
        return pixels, bad
