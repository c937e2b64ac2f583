"""Signal handling: the handler only sets a flag; training checks it between steps, when its state is consistent."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Generator
from types import FrameType, TracebackType
from typing import Self

from afa.errors import AFAError

_STOP = (signal.SIGTERM, signal.SIGINT)


def exit_on_interrupt() -> None:
    """Make Ctrl-C end the process with one line, until a run or a command handles it.

    A KeyboardInterrupt that is raised inside an import is a long traceback, or aborts the process while torch's
    libraries are loaded. A signal that is ignored stays ignored.
    """

    def end(number: int, frame: FrameType | None) -> None:
        os.write(sys.stderr.fileno(), b"stopped by SIGINT; run the same command again\n")
        os._exit(128 + number)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end)


@contextlib.contextmanager
def interruptible() -> Generator[None]:
    """Raise KeyboardInterrupt on Ctrl-C, so that a command can remove its temporary files."""
    before = signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()  # others cannot install a handler
    if in_main_thread and before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if in_main_thread:
            signal.signal(signal.SIGINT, before)


class StoppedError(AFAError):
    """A signal stopped the run after its state was saved. The exit status is the shell's for that signal."""

    def __init__(self, number: int) -> None:
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name}; run the same command again to resume")
        self.exit_status = 128 + number


class Signals:
    """Context manager: SIGTERM and SIGINT request a stop, SIGUSR1 requests a checkpoint.

    A second SIGINT ends the process at once. Files are replaced atomically, so the last checkpoint stays intact.
    """

    def __init__(self) -> None:
        self.stop_requested = 0
        """Number of the signal that requested a stop; 0 if there was none."""
        self.deferred = False
        """Set when several processes train together: they stop at a step on which all of them agree."""
        self._save_requested = False
        self._previous: dict[int, object] = {}

    def raise_if_stopped(self) -> None:
        """Raise StoppedError if a stop was requested and is not deferred."""
        if self.stop_requested and not self.deferred:
            raise StoppedError(self.stop_requested)

    def take_save_request(self) -> bool:
        """Return whether a checkpoint was requested since the last call."""
        requested, self._save_requested = self._save_requested, False
        return requested

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGUSR1:
            self._save_requested = True
        elif self.stop_requested == number == signal.SIGINT:
            os.write(sys.stderr.fileno(), b"stopped at once; the same command resumes from the last checkpoint\n")
            os._exit(128 + number)
        else:
            self.stop_requested = number

    def __enter__(self) -> Self:
        # Only the main thread may install handlers; in another thread (of a notebook, say) signals stay as they are.
        numbers = (*_STOP, signal.SIGUSR1) if threading.current_thread() is threading.main_thread() else ()
        for number in numbers:
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
