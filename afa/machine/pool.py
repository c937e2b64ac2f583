"""Calls of functions, one after the other in this process, or several at a time in processes of their own (``jobs``).

The processes are forked from a server that has imported torch, so that they start in a fraction of a second and give
back all their memory at their end. This process only waits for them: it passes signals on and shows the progress.
"""

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from multiprocessing import connection, forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import torch

import afa
from afa.errors import AFAError
from afa.machine.signals import STOP, Program, Signals, StoppedError, end_on_signals
from afa.results.journal import Progress

T = TypeVar("T")
Item = TypeVar("Item")
_PRELOAD = ["afa.entry", "afa.machine.server"]
_SIGNALS = (*STOP, signal.SIGUSR1)
_INTERVAL = 0.2
"""Seconds between two looks at the signals and at the processes."""
_ADVICE = "is there enough memory for so many runs at a time (jobs)?"
_THREADS = 100
"""Items of ``map`` that wait for a process, at most."""


class Pool:
    """Calls functions in this process, one after the other."""

    size = 1

    def map(self, title: str, function: Callable[[Item], T], items: Iterable[Item]) -> list[T]:
        """The results of the items in their order. ``title`` names them in the progress."""
        return [function(item) for item in items]

    def call(self, title: str, function: Callable[..., T], *arguments: Any) -> T:
        """The result of a function. ``title`` names the call in the progress."""
        return function(*arguments)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass


class ProcessPool(Pool):
    """Calls each function in a new process with ``threads`` threads, ``len(gpus)`` of them at a time.

    ``map`` calls its function in threads of this process; these functions use ``call``, or ``map`` for items of their
    own. Functions and arguments of ``call`` are pickled. What the processes print is discarded.

    Args:
        gpus: the GPU of each process, as in CUDA_VISIBLE_DEVICES; empty for a CPU.
    """

    def __init__(self, gpus: Sequence[str], threads: int, *, quiet: bool = False) -> None:
        self.size = len(gpus)
        self._free: queue.SimpleQueue[str] = queue.SimpleQueue()
        for gpu in gpus:
            self._free.put(gpu)
        self._threads, self._quiet = threads, quiet
        self._owner = threading.get_ident()
        self._signals, self._stopped = Signals(), 0
        self._lock, self._running = threading.Lock(), dict[BaseProcess, str]()

    def __enter__(self) -> Self:
        _start_server()
        self._signals.__enter__()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._signals.__exit__(kind, error, trace)

    def map(self, title: str, function: Callable[[Item], T], items: Iterable[Item]) -> list[T]:
        """As ``Pool.map``, but an item that fails does not stop the others; its error is raised at the end.

        Raises:
            StoppedError: a signal arrived; it was passed on, and the functions have ended.
        """
        items = list(items)
        with ThreadPoolExecutor(max(min(len(items), _THREADS), 1)) as threads:
            futures = [threads.submit(function, item) for item in items]
            if threading.get_ident() == self._owner:
                self._watch(title, futures)
        if stopped := self._stopped or self._signals.stop_requested:
            raise StoppedError(stopped)
        return [future.result() for future in futures]

    def _watch(self, title: str, futures: Sequence[Future[Any]]) -> None:
        """Pass signals on and show the progress until all functions have ended."""
        running: list[str] = []
        with self._signals.held(), Progress(title, len(futures), unit="runs", quiet=self._quiet) as bar:
            remaining = True
            while remaining:
                remaining = bool(wait(futures, timeout=_INTERVAL).not_done)
                if self._signals.stop_requested and not self._stopped:
                    self._stopped = self._signals.stop_requested
                    self._send(signal.SIGTERM)
                if self._signals.take_save_request():
                    self._send(signal.SIGUSR1)
                if self._stopped:  # what ends now is not completed
                    continue
                done = sum(future.done() for future in futures) - bar.done
                before, running = running, list(self._running.values())
                if done or running != before:
                    bar.show(f"{len(running)} running: {', '.join(running)}" if running else "")
                    bar.update(done)

    def _send(self, number: int) -> None:
        with self._lock:
            for process in self._running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid or 0, number)

    def call(self, title: str, function: Callable[..., T], *arguments: Any) -> T:
        """As ``Pool.call``, in a new process as soon as one may start.

        Raises:
            AFAError: the process died, or a signal stopped it alone.
            StoppedError: the pool was stopped.
        """
        gpu = self._free.get()
        try:
            return self._call_on(gpu, title, function, arguments)
        finally:
            self._free.put(gpu)

    def _call_on(self, gpu: str, title: str, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        context = multiprocessing.get_context("forkserver")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(sender, self._threads, gpu, function, arguments))
        with receiver:
            with self._lock:
                if self._stopped:
                    raise StoppedError(self._stopped)
                process.start()
                self._running[process] = title
            sender.close()  # the process has a copy; without this one, its end closes the pipe
            answer: tuple[Any, BaseException | None] | None = None
            with contextlib.suppress(EOFError, OSError):
                answer = receiver.recv()
            process.join()
        with self._lock:
            del self._running[process]
        result: Any
        result, error = answer or (None, AFAError(f"its process ended with status {process.exitcode}; {_ADVICE}"))
        if self._stopped and (answer is None or isinstance(error, StoppedError)):
            raise StoppedError(self._stopped)
        if isinstance(error, StoppedError):
            raise AFAError(str(error))
        if error is not None:
            raise error
        return result


def _start_server() -> None:
    """Start the server from which the processes are forked, with signals blocked: only its processes receive them."""
    forkserver.set_forkserver_preload(_PRELOAD)
    path, root = os.environ.get("PYTHONPATH"), str(Path(afa.__file__).parents[1])
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, path)))
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.environ.pop("PYTHONPATH")
        if path is not None:
            os.environ["PYTHONPATH"] = path


def _work(
    sender: "connection.Connection[Any, Any]",
    threads: int,
    gpu: str,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    """Call the function in this new process, and send its result and its error."""
    Program.has_reported = Program.is_worker = True
    end_on_signals()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # until there is something to save
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    multiprocessing.set_start_method(None, force=True)  # a DataLoader forks its workers, as without a pool
    torch.set_num_threads(threads)
    if gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    result, failure = None, None
    try:
        result = function(*arguments)
    except BaseException as error:  # raised by the parent
        error.add_note(traceback.format_exc())
        failure = error
    sender.send((result, failure))


def _end_with_parent() -> None:
    """Stop this process as by a signal when its parent has died."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
