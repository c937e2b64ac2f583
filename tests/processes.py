"""Runs in processes of their own, to be killed: forked from a server that has imported torch already."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
PRELOADED = ("torch", "afa.command_line", "afa.commands.algorithm")
CONTEXT.set_forkserver_preload(list(PRELOADED))


def _run(words: Sequence[str], environment: Mapping[str, str], out: str, err: str) -> None:
    os.environ.update(environment)
    from afa.command_line import main

    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored if the tests run in the background
    os.setsid()  # a process group of its own, as a shell gives each command
    for descriptor, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    import torch

    torch.set_num_threads(1)
    sys.exit(main(words))


class Program:
    """``python main.py <words>`` at work."""

    def __init__(self, words: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self._files = folder / "out.txt", folder / "err.txt"
        self._process = CONTEXT.Process(target=_run, args=(list(words), environment or {}, *map(str, self._files)))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def wait(self, seconds: float = 120) -> int:
        """The exit status; minus the signal that killed it."""
        self._process.join(timeout=seconds)
        if self._process.exitcode is None:
            self.end()
            raise AssertionError(f"still at work after {seconds:.0f} seconds")
        return self._process.exitcode

    @property
    def status(self) -> int | None:
        """The exit status so far."""
        return self._process.exitcode

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.join()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Until ``condition`` holds; it must while the program lives."""
        until = time.monotonic() + 60
        while not condition():
            assert self._process.is_alive(), f"ended early: {self.errors}"
            assert time.monotonic() < until, "a minute has passed"
            time.sleep(0.005)

    def wait_for_line(self, log: Path, words: str) -> None:
        """Until ``words`` stand in ``experiment.log``."""
        self.wait_for(lambda: log.exists() and words in log.read_text())

    def send(self, number: int, *, to_group: bool = False) -> None:
        """A signal to the process, or to it and its children."""
        (os.killpg if to_group else os.kill)(self.pid, number)

    @property
    def output(self) -> str:
        """What it wrote to its standard output."""
        return self._files[0].read_text() if self._files[0].exists() else ""

    @property
    def errors(self) -> str:
        """What it wrote to its standard error."""
        return self._files[1].read_text() if self._files[1].exists() else ""
