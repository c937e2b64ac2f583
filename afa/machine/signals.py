"""Signals: SIGTERM, SIGINT and SIGHUP stop a command, SIGUSR1 requests a checkpoint.

The handler raises ``StoppedError`` at once, except while a training step or a save is in progress: then it only sets
a flag, which is checked when the state is consistent.
"""

import _thread
import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from enum import Enum
from types import FrameType, TracebackType
from typing import Self, TypeVar

from afa.machine.launch import read_launch

T = TypeVar("T")
STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PATIENCE = 6.0
"""Seconds after which a command that has to stop is ended, whatever holds it: native code, a thread, a hung disk."""
_CLEANUP = 2.0
"""The same, once the state is saved."""
_REPEATED = 2.0
"""Seconds within which a second signal is a copy of the first one, by torchrun or by the parent of a worker."""


class StoppedError(KeyboardInterrupt):
    """A signal stopped the command; the exit status is the shell's for that signal.

    As it can be raised anywhere, it is not an Exception: no ``except Exception`` takes it for a damaged file.
    """

    def __init__(self, number: int) -> None:
        super().__init__(_line(number))
        self.number = number
        self.exit_status = 128 + number
        self.lines = [str(self)]

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return StoppedError, (self.number,)


class Program:
    """State of the command line: whether it runs in this process, which may then be ended, and has reported why.

    ``is_worker``: this is a process of ``machine/pool.py``, to which its parent passes signals on.
    """

    is_running = False
    has_reported = False
    is_worker = False


class State(Enum):
    """The effect of a stop signal."""

    FREE = "raises StoppedError; the process is ended if that takes too long"
    OPEN = "raises StoppedError, and the state is saved"
    HELD = "sets a flag"
    WAITING = "sets a flag; the process is ended if it still waits after some time"


def _line(number: int) -> str:
    return f"stopped by {signal.Signals(number).name}; run the same command again"


def end_process(number: int, line: str) -> None:
    """End the process and its workers without any cleanup, with a line if none was printed.

    Files are replaced atomically and stay intact.
    """
    if not Program.has_reported:
        with contextlib.suppress(OSError):
            os.write(2, f"{line}\n".encode())
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(128 + number)


def _install(handler: object) -> dict[int, object]:
    """Install a handler of the stop signals; returns the previous ones. An ignored signal (nohup) stays ignored.

    Only the main thread may do that; in another thread, for example of a notebook, signals stay as they are.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    numbers = [number for number in STOP if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in numbers}  # type: ignore[arg-type]


def end_on_signals() -> None:
    """Make a stop signal end the command line with one line until ``Signals`` handles it.

    An exception inside an import is a long traceback, or aborts the process while torch's libraries are loaded.
    """
    Program.is_running = True
    _install(lambda number, frame: end_process(number, _line(number)))


def _end_later(number: int, condition: Callable[[], bool], seconds: float = _PATIENCE) -> None:
    """End the process after some seconds if ``condition`` holds then."""

    def wait() -> None:
        time.sleep(seconds)
        if condition():
            end_process(number, _line(number))

    _thread.start_new_thread(wait, ())  # not threading: the handler may interrupt a holder of its locks


class Signals:
    """Context manager that handles the signals. A second stop signal ends the process at once.

    Files are replaced atomically, so the last checkpoint stays intact.
    """

    def __init__(self) -> None:
        self.stop_requested = 0
        """Number of the signal that requested a stop; 0 if there was none."""
        self._state = State.FREE
        self._is_shared = read_launch().size > 1
        self._pid = os.getpid()
        self._since = 0.0
        self._save_requested = False
        self._previous: dict[int, object] = {}

    @contextlib.contextmanager
    def _in(self, state: State) -> Generator[None]:
        before, self._state = self._state, state
        try:
            yield
        finally:
            self._state = before

    def held(self) -> contextlib.AbstractContextManager[None]:
        """In this context, a stop signal only sets ``stop_requested``, because an operation must be completed."""
        return self._in(State.HELD)

    @contextlib.contextmanager
    def opened(self) -> Generator[None]:
        """In this context inside ``held``, a stop signal raises StoppedError."""
        with self._in(State.OPEN):
            self.raise_if_stopped()
            yield

    def watch(self, items: Iterable[T]) -> Iterator[T]:
        """Yield ``items``; a stop signal ends the wait for the next one.

        With several processes it ends after the next one, as they stop at a step on which all of them agree.
        """
        iterator = iter(items)
        while True:
            with self._in(State.WAITING) if self._is_shared else self.opened():
                if self.stop_requested:
                    self._end_if_waiting()
                item = next(iterator, None)
            if item is None:
                return
            yield item

    def raise_if_stopped(self) -> None:
        """Raise StoppedError if a stop was requested, unless several processes have to agree on it."""
        if self.stop_requested and not (self._is_shared and self._state in (State.HELD, State.WAITING)):
            raise StoppedError(self.stop_requested)

    def take_save_request(self) -> bool:
        """Return whether a checkpoint was requested since the last call."""
        requested, self._save_requested = self._save_requested, False
        return requested

    def _end_if_waiting(self) -> None:
        _end_later(self.stop_requested, lambda: self._state is State.WAITING)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a worker that has just been forked
            return
        if number == signal.SIGUSR1:
            self._save_requested = True
            return
        if self.stop_requested:
            # A parent passes a signal on to processes that have received it already, as members of its group.
            if not (self._is_shared or Program.is_worker) or time.monotonic() - self._since > _REPEATED:
                end_process(number, "stopped at once; the same command resumes from the last checkpoint")
            return
        self.stop_requested, self._since = number, time.monotonic()
        if self._state is State.WAITING:
            self._end_if_waiting()
        if self._state in (State.FREE, State.OPEN):
            if self._state is State.FREE:
                _end_later(number, lambda: Program.is_running)
            raise StoppedError(number)

    def __enter__(self) -> Self:
        self._previous = _install(self._handle)
        if threading.current_thread() is threading.main_thread():
            self._previous[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, self._handle)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        if isinstance(error, StoppedError) and Program.is_running:
            end_on_signals()
            _end_later(error.number, lambda: True, _CLEANUP)
