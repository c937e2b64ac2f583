"""Decode each image once and keep its pixels in memory (``disk_cache.py``: on disk)."""

import contextlib
import os
import re
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from afa.data.images import MakeCanvas, read_canvas
from afa.errors import DataError

_CHUNK = 32  # images per task: few enough for a steady progress bar, enough to hide the cost of a task
_MEMINFO = Path("/proc/meminfo")


def available_memory() -> int | None:
    """Bytes that programs can still allocate, including what the page cache would release; None if unknown."""
    with contextlib.suppress(OSError):  # only Linux has this file
        if match := re.search(r"^MemAvailable:\s+(\d+) kB$", _MEMINFO.read_text(), re.MULTILINE):
            return 1024 * int(match[1])
    with contextlib.suppress(AttributeError, OSError, ValueError):  # macOS has no such value
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def load_canvases(
    paths: Sequence[Path], make_canvas: MakeCanvas, *, workers: int, on_progress: Callable[[int], None] | None = None
) -> tuple[np.ndarray, dict[int, str]]:
    """Decode all images into memory; a bad image does not stop the others. Arguments as in ``decode``.

    Returns:
        uint8 (N - bad, ...), the good images in the order of ``paths``; and for each bad image
        its index in ``paths`` -> one line with path and reason.
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
    paths: Sequence[Path], make_canvas: MakeCanvas, *, workers: int, on_progress: Callable[[int], None] | None = None
) -> Generator[np.ndarray | str]:
    """Yield the canvas of each image in the order of ``paths``; for a bad image, one line with path and reason.

    Args:
        paths: the image files.
        make_canvas: RGB image -> uint8 array, of the same shape for all images.
        workers: number of threads (Pillow releases the interpreter's lock while it decodes and resizes).
        on_progress: called in this thread with the number of finished images; its exceptions stop the work.
    """

    def read(start: int) -> list[np.ndarray | str]:
        results: list[np.ndarray | str] = []
        for path in paths[start : start + _CHUNK]:
            try:
                results.append(read_canvas(path, make_canvas))
            except DataError as error:
                results.append(str(error))
        return results

    starts = range(0, len(paths), _CHUNK)
    executor = ThreadPoolExecutor(max(workers, 1))
    try:
        for start, results in zip(starts, executor.map(read, starts), strict=True):
            yield from results
            if on_progress is not None:
                on_progress(start + len(results))
    finally:
        executor.shutdown(cancel_futures=True)  # otherwise Ctrl-C would wait for all images
