"""What is seen while a run is at work: a bar on a terminal, lines elsewhere, nothing if quiet."""

import io
import sys
import time
from types import SimpleNamespace

import pytest

from afa.command_line import main
from afa.results import journal
from afa.results.journal import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets, so that speeds are known."""
    now = [100.0]
    monkeypatch.setattr(journal, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_where_there_is_no_terminal_a_line_says_where_it_is_and_what_is_left(clock, capsys):
    with Progress("AST epoch 2/3", 100, 20, later=100) as bar:
        bar.show("total 1.5, train top-1 40.00 %")
        clock[0] += 1
        bar.update(10)
        assert capsys.readouterr().out == ""
        clock[0] += 9
        bar.update(10)
    # 20 images in 10 seconds; 60 of this epoch and 100 of the next are left.
    line = "AST epoch 2/3: 40/100 images, 2/s, 80 s left; total 1.5, train top-1 40.00 %\n"
    assert capsys.readouterr().out == line


def test_on_a_terminal_a_bar_says_the_same(clock, capsys, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("AST epoch 2/3", 100, 20, later=100) as bar:
        bar.show("train top-1 40.00 %")
        clock[0] += 10
        time.sleep(0.2)  # tqdm has its own clock, and draws ten times a second
        bar.update(20)
    for text in ("AST epoch 2/3", "40/100", "80 s left; train top-1 40.00 %"):
        assert text in terminal.getvalue()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("terminal", [False, True])
def test_a_quiet_run_says_nothing_and_writes_all(words, tmp_path, capsys, monkeypatch, terminal):
    monkeypatch.setattr(journal, "_SECONDS_BETWEEN_LINES", 0.0)
    stderr = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    command = ["tests/tiny.hocon", *words, "alpha=0.01", "exp_id=run", "print_freq=1", "quiet=true", "report=true"]
    assert main(command) == 0
    assert capsys.readouterr().out == stderr.getvalue() == ""
    log = (tmp_path / "runs/run/experiment.log").read_text()
    for text in ("AST epoch 2/2 step 3/3: classification", "train top-1", "images/s", "written to"):
        assert text in log
    assert main([*command, "alpha=0.02"]) == 1
    assert "made with other settings" in stderr.getvalue()


def test_a_run_that_is_not_quiet_says_its_epochs_and_its_result(words, capsys, monkeypatch):
    monkeypatch.setattr(journal, "_SECONDS_BETWEEN_LINES", 0.0)
    assert main(["tests/tiny.hocon", *words, "alpha=0.01", "exp_id=run", "print_freq=1"]) == 0
    out = capsys.readouterr().out
    for text in ("AST epoch 1/2: 4/12 images, ", " left; classification ", "AST testing: 9/9 images", "best top-1 %"):
        assert text in out
