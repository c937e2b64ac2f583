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

from afa.results.figures import format_seconds

_SECONDS_BETWEEN_LINES = 5.0  # where the output is no terminal


class Progress:
    """A bar on a terminal; elsewhere one plain line every few seconds; nothing if ``quiet``. Gone when done.

    ``between`` is called after each update: there the work may be stopped. ``later`` is
    what comes after this bar, in its units, and counts for the time that is left.
    """

    def __init__(
        self,
        title: str,
        total: int,
        done: int = 0,
        between: Callable[[], None] = lambda: None,
        *,
        unit: str = "images",
        later: int = 0,
        quiet: bool = False,
    ) -> None:
        self._title, self._total, self._unit, self._between = title, total, unit, between
        self._done, self._before, self._later, self._quiet = done, done, later, quiet
        self._started = self._last_line = time.monotonic()
        self._text = ""
        self._bar = None
        if sys.stderr.isatty() and not quiet:
            self._bar = tqdm(total=total, initial=done, desc=title, unit=f" {unit}", leave=False, dynamic_ncols=True)

    def update(self, count: int) -> None:
        """``count`` more are done."""
        self._done += count
        now = time.monotonic()
        if self._bar is not None:
            self._bar.set_postfix_str(self._figures(now), refresh=False)
            self._bar.update(count)
        elif now - self._last_line >= _SECONDS_BETWEEN_LINES and not self._quiet:
            self._last_line = now
            rate = (self._done - self._before) / (now - self._started)
            counts = f"{self._done}/{self._total} {self._unit}, {rate:.0f}/s"
            print(f"{self._title}: {counts}, {self._figures(now)}", flush=True)
        self._between()

    def show(self, text: str) -> None:
        """Figures to stand beside the count from the next update on."""
        self._text = text

    def _figures(self, now: float) -> str:
        """Time left with all that comes later, and what is shown."""
        to_do, done = self._total - self._done + self._later, self._done - self._before
        left = f"{format_seconds((now - self._started) * to_do / done)} left" if done else ""
        return "; ".join(part for part in (left, self._text) if part)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()


class Journal:
    """Lines of a run, with their time in ``path``; opened for appending, so a resumed run goes on in the same file.

    ``between`` is called between pieces of work, see ``Progress``. If ``quiet``, the terminal gets nothing.
    """

    def __init__(self, path: Path, between: Callable[[], None] = lambda: None, *, quiet: bool = False) -> None:
        self._file = path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
        self._between, self._quiet = between, quiet

    def position(self) -> int:
        """Length of the file so far, in bytes."""
        return self._file.tell()

    def cut(self, position: int) -> None:
        """Take back what was written after ``position``."""
        if position < self._file.tell():
            self._file.truncate(position)
            self._file.seek(0, os.SEEK_END)

    def say(self, text: str) -> None:
        """To the terminal and the file; several lines are kept as they are."""
        if not self._quiet:
            tqdm.write(text)
            sys.stdout.flush()
        for line in text.splitlines():
            self.note(line)

    def note(self, line: str) -> None:
        """To the file only."""
        self._file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {line}\n")

    def progress(self, title: str, total: int, done: int = 0, *, unit: str = "images", later: int = 0) -> Progress:
        """A bar over ``total`` images, of which ``done`` are done already; ``later``: those that come after them."""
        return Progress(title, total, done, self._between, unit=unit, later=later, quiet=self._quiet)
