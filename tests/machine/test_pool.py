"""Processes that call functions: what they return, how they fail, and how they are stopped."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from afa.errors import AFAError, NotFiniteError
from afa.machine.pool import _PRELOAD, ProcessPool
from afa.machine.signals import Signals, StoppedError
from afa.results import journal


def describe(number: int) -> tuple[int, int, int, str | None]:
    print("this would disturb the bar")
    return number, os.getpid(), torch.get_num_threads(), os.environ.get("CUDA_VISIBLE_DEVICES")


def write_later(path: Path, seconds: float) -> None:
    time.sleep(seconds)
    path.touch()


def fail() -> None:
    raise NotFiniteError("step 3: the loss is not finite")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_signal(path: Path) -> None:
    with Signals() as signals:
        path.touch()
        try:
            for _ in range(1200):
                time.sleep(0.05)
                if signals.take_save_request():
                    path.with_suffix(".saved").touch()
        except StoppedError as error:
            path.with_suffix(f".{error.number}").touch()
            raise


def test_results_are_those_of_processes_with_their_threads_and_gpus(capfd):
    with ProcessPool(["5", "7"], threads=3) as pool:
        found = pool.map("runs", lambda number: pool.call("run", describe, number), range(3))
    assert [number for number, *_ in found] == [0, 1, 2]
    assert len({os.getpid(), *(process for _, process, _, _ in found)}) == 4
    assert {threads for _, _, threads, _ in found} == {3}
    assert {gpu for *_, gpu in found} == {"5", "7"}
    assert "disturb" not in capfd.readouterr().out


def test_a_call_that_fails_or_dies_does_not_stop_the_others(tmp_path):
    calls = {"fails": (fail,), "dies": (die,), "works": (write_later, tmp_path / "file", 1.0)}
    errors = {}

    def call(pool: ProcessPool, title: str) -> None:
        try:
            pool.call(title, *calls[title])
        except AFAError as error:
            errors[title] = error

    with ProcessPool(["", ""], threads=1, quiet=True) as pool:
        pool.map("runs", lambda title: call(pool, title), calls)
        with pytest.raises(NotFiniteError, match="step 3"):
            pool.map("runs", lambda function: pool.call("run", function), [fail])
    assert (tmp_path / "file").exists()
    assert errors.keys() == {"fails", "dies"}
    assert "its process ended with status -9; is there enough memory" in str(errors["dies"])


def test_signals_are_passed_on_and_what_waits_does_not_start(tmp_path):
    paths = [tmp_path / name for name in ("one", "two", "three")]

    def send() -> None:
        while not all(path.exists() for path in paths[:2]):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGUSR1)
        while len(list(tmp_path.glob("*.saved"))) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(StoppedError) as stopped, ProcessPool(["", ""], threads=1, quiet=True) as pool:
        pool.map("runs", lambda path: pool.call("run", wait_for_signal, path), paths)
    sender.join()
    assert stopped.value.number == signal.SIGINT
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}{suffix}" for name in ("one", "two") for suffix in ("", ".saved", f".{signal.SIGTERM.value}")
    }


def test_runs_that_a_signal_stops_do_not_count_as_done(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(journal, "_SECONDS_BETWEEN_LINES", 0.0)
    calls = [(write_later, tmp_path / "first", 0.0), *((wait_for_signal, tmp_path / f"{i}") for i in range(30))]

    def send() -> None:
        while "1/31 runs" not in capsys.readouterr().out:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(StoppedError), ProcessPool(["", ""], threads=1) as pool:
        pool.map("runs", lambda call: pool.call("run", *call), calls)
    sender.join()
    assert capsys.readouterr().out == ""


def test_the_server_ends_at_once(tmp_path):
    """Python would need seconds to unload torch, in which the processes of a stopped command were still there."""
    code = "import atexit, pathlib, sys; atexit.register(pathlib.Path(sys.argv[1]).touch); import afa.machine.server"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "late")], check=False).returncode == 0
    assert not (tmp_path / "late").exists()
    assert _PRELOAD[-1] == "afa.machine.server"
