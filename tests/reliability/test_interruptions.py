"""Killed or stopped at any moment, a run resumes to the weights of an undisturbed one."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from afa.command_line import main
from afa.machine import signals
from afa.training import loop
from afa.training.checkpoint import load_checkpoint
from tests.processes import Program
from tests.reliability.runs import STEPS, commands, one_line
from tests.same import assert_the_same


def started(command: list[str], handler: Any = signal.SIG_DFL) -> subprocess.Popen:
    """``python main.py`` with signals as in a terminal; the tests may be a background job, which ignores some."""

    def as_in_a_terminal() -> None:
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, handler)

    pipes: dict[str, Any] = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
    return subprocess.Popen([sys.executable, "main.py", *command], preexec_fn=as_in_a_terminal, **pipes)


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < until, "two minutes have passed"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("name", "begins_with", "extra"),
    [
        ("one", "AST epoch 1/2 step", []),
        ("one", "AST epoch 1/2 step 1/", ["num_workers=2", "cache=none"]),
        ("two", "ACT epoch 1/2 step", []),
    ],
    ids=["one_stage", "workers", "stage_two"],
)
def test_killed_at_a_random_moment_and_resumed(words, undisturbed, tmp_path, name, begins_with, extra, capsys):
    command = [*commands(words, tmp_path)[name], "checkpoint_every=2 steps", *extra]
    program = Program(command, tmp_path)
    program.wait_for_line(tmp_path / "run/experiment.log", begins_with)
    time.sleep(random.Random(f"{name} {extra}").uniform(0, 0.5))  # of the second and more that is still to come
    program.send(signal.SIGKILL)
    assert program.wait() == -signal.SIGKILL
    # At once: the workers of the dead run live for seconds yet, and do not hold its lock.
    assert main(command) == 0, capsys.readouterr().err
    assert_the_same(tmp_path / "run", undisturbed[name])


@pytest.mark.parametrize(
    ("number", "to_group", "extra"),
    [
        (signal.SIGTERM, False, []),
        (signal.SIGINT, False, []),
        (signal.SIGTERM, True, ["num_workers=2", "cache=none"]),
    ],
)
def test_stopped_by_a_signal_it_saves_in_the_middle_of_an_epoch(words, undisturbed, tmp_path, number, to_group, extra):
    command = [*commands(words, tmp_path)["one"], *extra]
    program = Program(command, tmp_path)
    program.wait_for_line(tmp_path / "run/experiment.log", "AST epoch 1/2 step 1/")
    program.send(number, to_group=to_group)
    assert program.wait() == 128 + number
    name = signal.Signals(number).name
    assert one_line(program.errors) == f"stopped by {name}; run the same command again to resume"
    step = load_checkpoint(tmp_path / "run/check_point/last.pth").training["step"]
    assert 1 <= step < STEPS
    assert main(command) == 0
    assert f"resuming after epoch 0 of 2 and step {step} of the next" in (tmp_path / "run/experiment.log").read_text()
    assert_the_same(tmp_path / "run", undisturbed["one"])


def test_sigusr1_writes_a_checkpoint_and_training_continues(words, undisturbed, tmp_path):
    program = Program(commands(words, tmp_path)["one"], tmp_path)
    program.wait_for_line(tmp_path / "run/experiment.log", "AST epoch 1/2 step 1/")
    program.send(signal.SIGUSR1)
    program.wait_for_line(tmp_path / "run/experiment.log", "AST: checkpoint written at step ")
    step = load_checkpoint(tmp_path / "run/check_point/last.pth").training["step"]
    assert 1 <= step < STEPS
    assert program.wait() == 0
    assert_the_same(tmp_path / "run", undisturbed["one"])


def test_a_second_signal_ends_within_a_step(words, tmp_path, monkeypatch):
    def signal_twice(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("the step was completed")

    def end_process(number: int, line: str) -> None:
        raise SystemExit(f"{number}: {line}")

    monkeypatch.setattr(loop.StepObserver, "after_step", signal_twice)
    monkeypatch.setattr(signals, "end_process", end_process)
    with pytest.raises(SystemExit, match="15: stopped at once; the same command resumes from the last checkpoint"):
        main([*commands(words, tmp_path)["one"], "checkpoint_every=1 steps"])
    last = load_checkpoint(tmp_path / "run/check_point/last.pth")
    assert (last.epoch, last.training["step"]) == (0, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_the_start_is_one_line(words, tmp_path, number):
    process = started(commands(words, tmp_path)["one"])
    time.sleep(0.7)
    process.send_signal(number)
    errors = process.communicate()[1]
    assert process.returncode in (-number, 128 + number)
    assert len(errors.splitlines()) <= 1


def test_a_second_run_in_the_same_folder_is_refused(words, tmp_path, capsys):
    command = commands(words, tmp_path)["one"]
    program = Program(command, tmp_path)
    program.wait_for_line(tmp_path / "run/experiment.log", "step 1/")
    for again in (command, [*command, "overwrite=true"]):
        capsys.readouterr()
        assert main(again) == 1
        assert "another run is using this folder" in one_line(capsys.readouterr().err)
    assert program.wait() == 0
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["run"]


def test_killed_while_writing_its_first_file(words, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/settings.log.tmp").write_text("target_da")

    def begun(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("afa.commands.algorithm.train_stage", begun)
    assert main(commands(words, tmp_path)["one"]) == 130


def test_a_worker_that_is_killed_is_one_line(words, tmp_path):
    command = [*commands(words, tmp_path)["one"], "cache=none", "num_workers=1"]
    program = Program(command, tmp_path)
    program.wait_for_line(tmp_path / "run/experiment.log", "AST epoch 1/2 step 1/")
    children = Path(f"/proc/{program.pid}/task/{program.pid}/children")
    if not children.exists():
        pytest.skip("no list of a process's children here")
    for child in children.read_text().split():
        os.kill(int(child), signal.SIGKILL)
    assert program.wait() == 1
    assert "a process that decodes images died" in one_line(program.errors)


def test_only_its_result_file_marks_a_stage_as_finished(words, undisturbed, tmp_path, capsys):
    run = shutil.copytree(undisturbed["two"].parent, tmp_path / "copy") / "run"
    (run / "result.json").unlink()
    shutil.rmtree(run / "stage_2")
    command = commands(words, run.parent)["two"]
    assert main(command) == 0
    assert "AST epoch" not in capsys.readouterr().out
    # The log was not cut: nobody takes a stage's folder away but this test.
    assert_the_same(run, undisturbed["two"], log=False)
    for name in ("result.json", "stage_1/stage.json"):
        (run / "result.json").unlink(missing_ok=True)
        (run / name).write_text('{"table": ')
        assert main(command) == 1
        assert f"{name}: modified or incomplete; remove it" in one_line(capsys.readouterr().err)
        (run / name).unlink()
        assert main(command) == 0
    result = json.loads((run / "result.json").read_text())
    for repeats in ([], [[]], [result["repeats"][0][:1]], [*result["repeats"], *result["repeats"]]):
        (run / "result.json").write_text(json.dumps({**result, "repeats": repeats}))
        assert main(command) == 1
        assert "result.json: modified or incomplete; remove it" in one_line(capsys.readouterr().err)


def test_a_signal_ends_a_run_that_waits_for_images(words, tmp_path):
    """Its worker is alive and delivers nothing, as on a file system that does not answer."""
    run = tmp_path / "run"
    options = ["cache=none", "num_workers=1", "max_iter=6000"]
    process = started([*commands(words, tmp_path)["one"], *options])
    wait_until(lambda: (run / "experiment.log").exists() and "step 1/" in (run / "experiment.log").read_text())
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        pytest.skip("no list of a process's children here")
    for child in children.read_text().split():
        os.kill(int(child), signal.SIGSTOP)
    time.sleep(1)  # the batches that it has sent before are used up
    process.send_signal(signal.SIGTERM)
    started_at = time.monotonic()
    errors = process.communicate(timeout=60)[1]
    assert time.monotonic() - started_at < 10 + 5  # the step in progress, on a busy machine
    assert process.returncode == 143
    assert one_line(errors) == "stopped by SIGTERM; run the same command again to resume"
    assert load_checkpoint(run / "check_point/last.pth").training["step"] >= 1


@pytest.mark.parametrize("phase", ["reading", "scoring", "summary"])
def test_a_signal_ends_any_phase_of_a_run(words, tmp_path, monkeypatch, capsys, phase):
    """Also where nothing is checked between two images or steps; the same command continues."""
    name = {
        "reading": "afa.commands.algorithm.Images",
        "scoring": "afa.training.loop.predict",
        "summary": "afa.commands.algorithm._summarise",
    }[phase]

    def hang(*_: object, **options: object) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(30)

    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(name, hang)
            assert main(commands(words, tmp_path)["one"]) == 129
        assert one_line(capsys.readouterr().err) == "stopped by SIGHUP; run the same command again to resume"
        assert main(commands(words, tmp_path)["one"]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_ignored_sighup_stays_ignored(words, tmp_path):
    process = started(commands(words, tmp_path)["one"], handler=signal.SIG_IGN)
    log = tmp_path / "run/experiment.log"
    wait_until(lambda: log.exists() and "step 1/" in log.read_text())
    process.send_signal(signal.SIGHUP)
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 0


def test_a_reader_of_the_output_that_ends_is_no_error_of_a_worker(words, tmp_path):
    command = [sys.executable, "main.py", *commands(words, tmp_path)["one"]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        process.stdout.close()  # as ``head`` does
        errors = process.stderr.read()
    assert process.returncode == 128 + signal.SIGPIPE
    assert errors == ""
