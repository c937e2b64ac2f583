"""Output of a running command: a bar on a terminal, otherwise lines, nothing if quiet; the file of the journal."""

import io
import sys
import time
from types import SimpleNamespace

import pytest
from tqdm import tqdm

from afa.command_line import main
from afa.results import journal
from afa.results.journal import Journal, Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets, so that speeds are known."""
    now = [100.0]
    monkeypatch.setattr(journal, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_without_a_terminal_a_line_reports_count_speed_and_time_left(clock, capsys):
    with Progress("AST epoch 2/3", 100, 20, later=100) as bar:
        bar.show("total 1.5, train top-1 40.00 %")
        clock[0] += 1
        bar.update(10)
        assert capsys.readouterr().out == ""
        clock[0] += 9
        bar.update(10)
    # 20 images in 10 seconds; 60 of this epoch and 100 of the next are left.
    line = "AST epoch 2/3: 40/100 images, 2/s, 80 s left, total 1.5, train top-1 40.00 %\n"
    assert capsys.readouterr().out == line


def test_on_a_terminal_a_bar_reports_the_same(clock, capsys, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("AST epoch 2/3", 100, 20, later=100) as bar:
        bar.show("train top-1 40.00 %")
        clock[0] += 10
        time.sleep(0.2)  # tqdm has its own clock, and draws ten times a second
        bar.update(20)
    for text in ("AST epoch 2/3", "40/100", "80 s left, train top-1 40.00 %"):
        assert text in terminal.getvalue()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("columns", [70, 100, 110])
def test_a_bar_keeps_its_width_and_its_line_fits(columns, clock, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(journal, "tqdm", lambda **o: tqdm(**{**o, "ncols": columns, "dynamic_ncols": False}))
    with Progress("AST epoch 12/24", 12000, later=100) as bar:
        for _ in range(3):
            bar.show("cls 2.46, align 1.19e+03, top-1 40.0 %")
            clock[0] += 10
            time.sleep(0.11)  # tqdm has its own clock
            bar.update(4000)
    lines = [line for line in terminal.getvalue().split("\r") if "|" in line]
    assert len(lines) >= 3
    assert {line.index("|", line.index("|") + 1) - line.index("|") for line in lines} == {11}
    assert max(map(len, lines)) <= columns
    if columns >= 100:
        assert lines[-1].rstrip().endswith("top-1 40.0 %")


def test_lines_are_broken_on_a_terminal_alone(tmp_path, monkeypatch):
    for terminal in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stdout", terminal)
        Journal(tmp_path / "experiment.log").log(f"{'word ' * 30}{'x' * 120}\na  table")
        lines = terminal.getvalue().splitlines()
        assert lines[-1] == "a  table"
        if terminal.isatty():
            assert len(lines[0]) <= 100
            assert lines[1].startswith("    word")
            assert lines[-2] == "    " + "x" * 120
        else:
            assert len(lines) == 2


def test_what_stops_the_work_is_asked_after_each_update(tmp_path):
    class StopError(Exception):
        pass

    def between():
        if bar.done == 3:
            raise StopError

    with Journal(tmp_path / "experiment.log", between).progress("reading", 5) as bar:
        bar.update(2)
        with pytest.raises(StopError):
            bar.update(1)


def test_the_file_of_a_resumed_run_is_continued_and_can_be_cut(tmp_path, capsys):
    path = tmp_path / "experiment.log"
    first = Journal(path)
    first.log("two\nlines")
    position = first.position()
    first.note("step 1, in the file only")
    assert position < path.stat().st_size == first.position()
    second = Journal(path, quiet=True)
    second.cut(position)
    second.log("the run resumes")
    assert [line.split("  ", 1)[1] for line in path.read_text().splitlines()] == ["two", "lines", "the run resumes"]
    assert capsys.readouterr().out == "two\nlines\n"


@pytest.mark.parametrize("terminal", [False, True])
def test_a_quiet_run_prints_nothing_and_writes_everything(words, tmp_path, capsys, monkeypatch, terminal):
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


def test_a_run_that_is_not_quiet_prints_its_epochs_and_its_result(words, capsys, monkeypatch):
    monkeypatch.setattr(journal, "_SECONDS_BETWEEN_LINES", 0.0)
    assert main(["tests/tiny.hocon", *words, "alpha=0.01", "exp_id=run", "print_freq=1"]) == 0
    out = capsys.readouterr().out
    for text in ("AST epoch 1/2: 4/12 images, ", " left, cls ", "AST testing: 9/9 images", "test top-1 %"):
        assert text in out
