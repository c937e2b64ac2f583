"""What a run says: lines on the terminal and in ``experiment.log``, and progress."""

import os
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 5.0  # where the output is no terminal


class Progress:
    """A bar on a terminal; elsewhere one plain line every few seconds. Gone when done.

    ``between`` is called after each update: there the work may be stopped.
    """

    def __init__(self, title: str, total: int, done: int, unit: str, between: Callable[[], None]) -> None:
        self._title, self._total, self._unit, self._between = title, total, unit, between
        self._done, self._before = done, done
        self._started = self._last_line = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=done, desc=title, unit=f" {unit}", leave=False, dynamic_ncols=True)

    def update(self, count: int) -> None:
        """``count`` more are done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            rate = (self._done - self._before) / (self._last_line - self._started)
            print(f"{self._title}: {self._done}/{self._total} {self._unit}, {rate:.0f}/s", flush=True)
        self._between()

    def show(self, text: str) -> None:
        """Figures beside the bar."""
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()


class Journal:
    """Lines of a run, with their time in ``path``; opened for appending, so a resumed run goes on in the same file.

    ``between`` is called between pieces of work, see ``Progress``.
    """

    def __init__(self, path: Path, between: Callable[[], None] = lambda: None) -> None:
        self._file = path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
        self._between = between

    def position(self) -> int:
        """Length of the file so far, in bytes."""
        return self._file.tell()

    def cut(self, position: int) -> None:
        """Take back what was written after ``position``."""
        self._file.truncate(min(position, self._file.tell()))
        self._file.seek(0, os.SEEK_END)

    def say(self, text: str) -> None:
        """To the terminal and the file; several lines are kept as they are."""
        tqdm.write(text)
        sys.stdout.flush()
        for line in text.splitlines():
            self.note(line)

    def note(self, line: str) -> None:
        """To the file only."""
        self._file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {line}\n")

    def progress(self, title: str, total: int, done: int = 0, unit: str = "images") -> Progress:
        """A bar over ``total`` images, of which ``done`` are done already."""
        return Progress(title, total, done, unit, self._between)
