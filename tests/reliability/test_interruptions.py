"""Killed or stopped at any moment, a run resumes to the weights of an undisturbed one."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from afa.command_line import main
from afa.training.checkpoint import load_checkpoint
from tests.processes import Program
from tests.reliability.runs import STEPS, commands, one_line
from tests.same import assert_the_same


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


def test_the_second_ctrl_c_ends_within_a_step(words, tmp_path):
    slow = ["image_size=224", "batch_size=24", "checkpoint_every=1 steps"]
    command = [*commands(words, tmp_path)["one"], *slow]
    program = Program(command, tmp_path)
    program.wait_for(lambda: (tmp_path / "run/log.txt").exists())  # written just before the first step
    time.sleep(0.5)
    program.send(signal.SIGINT)
    time.sleep(0.5)
    program.send(signal.SIGINT)
    assert program.wait() == 130
    assert one_line(program.errors) == "stopped at once; the same command resumes from the last checkpoint"
    last = load_checkpoint(tmp_path / "run/check_point/last.pth")
    assert (last.epoch, last.training["step"]) == (0, 0)


def test_ctrl_c_during_the_start_is_one_line(words, tmp_path):
    command = [sys.executable, "main.py", *commands(words, tmp_path)["one"]]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        # As in a terminal; a shell's background job, which the tests may be, ignores it, and so do its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    time.sleep(0.7)
    process.send_signal(signal.SIGINT)
    errors = process.communicate()[1]
    assert process.returncode in (-signal.SIGINT, 130)
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
