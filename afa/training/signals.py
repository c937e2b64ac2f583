"""Signals: the handler only sets a flag; training looks at it between steps, where its state is whole."""

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Self

from afa.errors import AFAError

_ENDING = (signal.SIGTERM, signal.SIGINT)


class StoppedError(AFAError):
    """The run was asked to end; what it had done is saved. The exit status is the shell's for that signal."""

    def __init__(self, number: int) -> None:
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name}; the same command again goes on from here")
        self.exit_status = 128 + number


class Signals:
    """While entered: SIGTERM and SIGINT ask the run to end, SIGUSR1 asks for a checkpoint.

    A second SIGINT ends the process at once; files are replaced in one step, so the
    last checkpoint stays whole.
    """

    def __init__(self) -> None:
        self._ending = 0
        self._save = False
        self.hold = False
        """Set where several processes work together: they end where all have agreed to, not where one is just then."""
        self._before: dict[int, object] = {}

    @property
    def ending(self) -> int:
        """The signal that asked the run to end; 0: none did."""
        return self._ending

    def raise_if_ending(self) -> None:
        """Raises StoppedError if the run was asked to end."""
        if self._ending and not self.hold:
            raise StoppedError(self._ending)

    def take_save_request(self) -> bool:
        """Whether a checkpoint was asked for since the last call."""
        asked, self._save = self._save, False
        return asked

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGUSR1:
            self._save = True
        elif self._ending == number == signal.SIGINT:
            os.write(sys.stderr.fileno(), b"stopped at once; the same command goes on from the last checkpoint\n")
            os._exit(128 + number)
        else:
            self._ending = number

    def __enter__(self) -> Self:
        # Only the main thread may set handlers; elsewhere (a notebook's worker, say) signals stay as they are.
        numbers = (*_ENDING, signal.SIGUSR1) if threading.current_thread() is threading.main_thread() else ()
        for number in numbers:
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
