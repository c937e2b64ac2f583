"""Decoded-once pixels: every image read and resized a single time, kept in memory (``store.py``: on the disk)."""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from afa.data.images import read_canvas
from afa.errors import DataError

_CHUNK = 32  # images a task: small enough for a progress line, large enough for the bookkeeping not to count


def load_canvases(
    paths: Sequence[Path],
    make_canvas: Callable[[Image.Image], np.ndarray],
    *,
    workers: int,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[np.ndarray, dict[int, str]]:
    """Read all images; none that is bad stops the others. Arguments as in ``decode``.

    Returns:
        uint8 (N - bad, ...), the good images in the order of ``paths``, and for the bad ones
        their index in ``paths`` -> the line that names path and reason.
    """
    canvases = np.empty(0, np.uint8)
    bad: dict[int, str] = {}
    for index, result in enumerate(decode(paths, make_canvas, workers=workers, on_progress=on_progress)):
        if isinstance(result, str):
            bad[index] = result
            continue
        if not canvases.size:
            canvases = np.empty((len(paths), *result.shape), np.uint8)
        canvases[index - len(bad)] = result
    return canvases[: len(paths) - len(bad)], bad


def decode(
    paths: Sequence[Path],
    make_canvas: Callable[[Image.Image], np.ndarray],
    *,
    workers: int,
    on_progress: Callable[[int], None] | None = None,
) -> Generator[np.ndarray | str]:
    """The canvas of each image in the order of ``paths``, or for a bad one the line that names path and reason.

    Args:
        paths: the image files.
        make_canvas: RGB image -> uint8 array of one shape for all images.
        workers: threads (Pillow decodes and resizes outside the interpreter's lock).
        on_progress: called in this thread with the number of images done; what it raises stops the reading.
    """

    def read(start: int) -> list[np.ndarray | str]:
        return [_read(path, make_canvas) for path in paths[start : start + _CHUNK]]

    starts = range(0, len(paths), _CHUNK)
    executor = ThreadPoolExecutor(max(workers, 1))
    try:
        for start, results in zip(starts, executor.map(read, starts), strict=True):
            yield from results
            if on_progress is not None:
                on_progress(start + len(results))
    finally:
        executor.shutdown(cancel_futures=True)  # else Ctrl-C would wait for all images


def _read(path: Path, make_canvas: Callable[[Image.Image], np.ndarray]) -> np.ndarray | str:
    try:
        return read_canvas(path, make_canvas)
    except DataError as error:
        return str(error)
