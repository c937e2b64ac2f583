"""Messages of a run, on the terminal and in ``experiment.log``, and its progress."""

import contextlib
import os
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from datetime import datetime
from pathlib import Path
from typing import Self, TextIO

from tqdm import tqdm

from afa.errors import printable
from afa.results.outcomes import format_seconds

_SECONDS_BETWEEN_LINES = 5.0  # without a terminal
_BAR = "{desc} |{bar:10}| {n_fmt}/{total_fmt}{postfix}"
_COLUMNS = 100
"""Width of the lines on a terminal; those of files are not broken."""


def _break_lines(text: str) -> str:
    """The text with line breaks at spaces where a line has more than ``_COLUMNS`` characters."""
    wrapper = textwrap.TextWrapper(
        _COLUMNS, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False, replace_whitespace=False
    )
    return "\n".join(line if len(line) <= _COLUMNS else wrapper.fill(line) for line in text.splitlines())


def say(text: str, *, is_error: bool = False) -> None:
    """Print lines; control characters, for example in a file name, are escaped.

    A closed stream, a full disk or a terminal that no longer exists does not stop a command, a pipe without a reader
    does.

    Raises:
        BrokenPipeError: the reader of the output has ended.
    """
    stream = sys.stderr if is_error else sys.stdout
    if stream is None or stream.closed:
        return
    text = "\n".join(map(printable, text.split("\n")))
    if stream.isatty():
        text = _break_lines(text)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        tqdm.write(text.encode(encoding, "backslashreplace").decode(encoding), file=stream)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError:
        discard_output(stream)


def discard_output(stream: TextIO) -> None:
    """Redirect an unwritable stream to the null device, because Python would report the error at its exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@dataclass
class Progress:
    """Progress of a loop: a bar on a terminal, otherwise a line every five seconds; nothing if ``quiet``.

    Attributes:
        total: number of units.
        done: units that are processed; those processed before the start do not count for the speed.
        between: called after each update; it may raise, to stop the work.
        later: units that follow after this loop; they count for the time left.
    """

    title: str
    total: int
    done: int = 0
    between: Callable[[], None] = lambda: None
    _: KW_ONLY
    unit: str = "images"
    later: int = 0
    quiet: bool = False

    def __post_init__(self) -> None:
        self._started = self._last_line = time.monotonic()
        self._earlier, self._text = self.done, ""
        self._bar = None
        if sys.stderr is not None and sys.stderr.isatty() and not self.quiet:
            options = {"total": self.total, "initial": self.done, "desc": self.title, "bar_format": _BAR}
            self._bar = tqdm(**options, leave=False, dynamic_ncols=True)

    def update(self, count: int) -> None:
        """Report that ``count`` more units are processed; 0: only the text of ``show`` is another one."""
        self.done += count
        now = time.monotonic()
        seconds, processed = now - self._started, self.done - self._earlier
        remaining = self.total - self.done + self.later
        left = f"{format_seconds(seconds * remaining / processed)} left" if processed else ""
        rate = f"{processed / seconds:.0f}/s" if processed > seconds / 2 else ""
        status = ", ".join(text for text in (rate, left, self._text) if text)
        if self._bar is not None:
            with contextlib.suppress(OSError):  # a terminal that no longer exists
                self._bar.set_postfix_str(status, refresh=not count)
                self._bar.update(count)
        elif count and now - self._last_line >= _SECONDS_BETWEEN_LINES and not self.quiet:
            # Not by tqdm: its carriage returns make one long line in a log file.
            self._last_line = now
            say(f"{self.title}: {self.done}/{self.total} {self.unit}, {status}")
        self.between()

    def show(self, text: str) -> None:
        """Set the text after the time left, from the next update on. Up to 50 characters fit in a line."""
        self._text = text

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.close()


class Journal:
    """Messages of a run, written with their time to the file ``path`` and printed unless ``quiet``.

    The file is opened for appending: a resumed run continues it. ``between`` is passed to each ``Progress``.
    ``is_shared``: other processes write to the same file, of which nothing is removed.
    """

    def __init__(
        self, path: Path, between: Callable[[], None] = lambda: None, *, quiet: bool = False, is_shared: bool = False
    ) -> None:
        self._file = path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
        self._between, self._quiet, self._is_shared = between, quiet, is_shared

    def position(self) -> int:
        """Length of the file in bytes; if it is shared, a length that it will not have."""
        return 2**62 if self._is_shared else self._file.tell()

    def cut(self, position: int) -> None:
        """Remove the text that was written after ``position``."""
        if position < self._file.tell() and not self._is_shared:
            self._file.truncate(position)
            self._file.seek(0, os.SEEK_END)

    def log(self, text: str) -> None:
        """Write one or more lines to the terminal and to the file."""
        if not self._quiet:
            say(text)
        for line in text.splitlines():
            self.note(line)

    def note(self, line: str) -> None:
        """Write a line to the file only."""
        self._file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {line}\n")

    def progress(self, title: str, total: int, done: int = 0, *, unit: str = "images", later: int = 0) -> Progress:
        """Progress of a loop of this run; see ``Progress`` for the arguments."""
        return Progress(title, total, done, self._between, unit=unit, later=later, quiet=self._quiet)
