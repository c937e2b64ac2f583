"""Killed, stopped, damaged, out of space: a run goes on to the very weights of an undisturbed one, or says why not."""

import contextlib
import errno
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from afa.command_line import main
from afa.errors import CheckpointError
from afa.training import stage as stage_module
from afa.training.checkpoint import load_checkpoint, save_checkpoint
from afa.training.engine import train_step
from afa.training.fixed_weights import load_layer_weights
from afa.training.setup import build_learner, source_start
from tests.processes import Program
from tests.same import assert_the_same

DEMO = Path(__file__).parents[1] / "demo"
AFA = str(DEMO.parent / "hocon_config/AFA/mobilenet_v2_stanford_dogs_120.hocon")
TINY = str(DEMO.parent / "tests/tiny.hocon")
STEPS = 6  # an epoch


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """As ``data_dir``, with enough images that an epoch takes half a second."""
    root = tmp_path_factory.mktemp("more_data")
    for split, count in {"train": 8, "test": 1}.items():
        for name in ("bag", "sandal", "trouser"):
            folder = root / "tiny" / split / name
            folder.mkdir(parents=True)
            for path in sorted((DEMO / "fashion_mnist_20shot" / split / name).iterdir())[:count]:
                shutil.copy(path, folder)
    return root


@pytest.fixture(scope="module")
def words(data) -> list[str]:
    """Two epochs of six steps a stage."""
    return [
        f"target_data_dir={data}",
        "target_dataset=tiny",
        f"source_weights={DEMO / 'mobilenet_v2_source_fp16.pth'}",
        "image_size=32",
        "batch_size=4",
        "max_iter=12",
        "alpha=1e-5",
        "lr=0.001",
        "gpu_id=cpu",
        "num_workers=0",
        "print_freq=1",
        "exp_id=run",
    ]


def commands(words: list[str], outpath: Path) -> dict[str, list[str]]:
    return {name: [config, *words, f"outpath={outpath}"] for name, config in (("one", TINY), ("two", AFA))}


@pytest.fixture(scope="module")
def undisturbed(words, tmp_path_factory) -> dict[str, Path]:
    """Runs of one stage and of two that nothing happened to."""
    runs = {}
    for name in ("one", "two"):
        outpath = tmp_path_factory.mktemp(f"undisturbed_{name}")
        assert main(commands(words, outpath)[name]) == 0
        runs[name] = outpath / "run"
    return runs


@pytest.fixture(scope="module")
def broken_off(words, tmp_path_factory) -> Path:
    """``outpath`` of a run that died after step 5 of the second epoch, with checkpoints of steps 2 and 4 of it."""
    outpath, save_if_due = tmp_path_factory.mktemp("broken_off"), stage_module.StageRun._save_if_due

    def die(run: stage_module.StageRun) -> None:
        if run.state.epoch == 1 and run.state.step == 5:
            raise KeyboardInterrupt
        save_if_due(run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage_module.StageRun, "_save_if_due", die)
        assert main([*commands(words, outpath)["one"], "checkpoint_every=2 steps"]) == 130
    return outpath


@pytest.fixture
def cut(broken_off, tmp_path) -> Path:
    """A copy of ``broken_off``, and its own."""
    return shutil.copytree(broken_off, tmp_path / "cut")


def one_line(text: str) -> str:
    assert text.count("\n") == 1, text
    return text.rstrip("\n")


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
def test_asked_to_end_it_saves_in_the_middle_of_an_epoch(words, undisturbed, tmp_path, number, to_group, extra):
    command = [*commands(words, tmp_path)["one"], *extra]
    program = Program(command, tmp_path)
    program.wait_for_line(tmp_path / "run/experiment.log", "AST epoch 1/2 step 1/")
    program.send(number, to_group=to_group)
    assert program.wait() == 128 + number
    name = signal.Signals(number).name
    assert one_line(program.errors) == f"stopped by {name}; the same command again goes on from here"
    step = load_checkpoint(tmp_path / "run/check_point/last.pth").training["step"]
    assert 1 <= step < STEPS
    assert main(command) == 0
    assert f"going on after epoch 0 of 2 and step {step} of the next" in (tmp_path / "run/experiment.log").read_text()
    assert_the_same(tmp_path / "run", undisturbed["one"])


def test_asked_for_a_checkpoint_it_writes_one_and_goes_on(words, undisturbed, tmp_path):
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
    assert one_line(program.errors) == "stopped at once; the same command goes on from the last checkpoint"
    last = load_checkpoint(tmp_path / "run/check_point/last.pth")
    assert (last.epoch, last.training["step"]) == (0, 0)


def test_ctrl_c_while_torch_is_imported_is_no_traceback(words, tmp_path):
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


def test_of_two_runs_in_one_folder_the_second_is_refused(words, tmp_path, capsys):
    command = commands(words, tmp_path)["one"]
    program = Program(command, tmp_path)
    program.wait_for_line(tmp_path / "run/experiment.log", "step 1/")
    for again in (command, [*command, "overwrite=true"]):
        capsys.readouterr()
        assert main(again) == 1
        assert "another run is at work there" in one_line(capsys.readouterr().err)
    assert program.wait() == 0
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["run"]


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [tear, flip_a_bit, Path.unlink])
def test_the_checkpoint_before_stands_in_for_a_damaged_one(words, undisturbed, cut, capsys, damage):
    damage(cut / "run/check_point/last.pth")
    assert main([*commands(words, cut)["one"], "checkpoint_every=2 steps"]) == 0
    output = capsys.readouterr().out
    (said,) = [line for line in output.splitlines() if "going on from previous.pth" in line]
    assert str(cut / "run/check_point/last.pth") in said
    assert "going on after epoch 1 of 2 and step 2 of the next" in output
    assert_the_same(cut / "run", undisturbed["one"])


def test_killed_after_a_damage_the_whole_checkpoint_is_still_there(words, undisturbed, cut, monkeypatch):
    """The next save must not put the damaged file in the whole one's place for a moment. Leftovers do no harm."""
    tear(cut / "run/check_point/last.pth")
    for name in ("last.pth", "previous.pth", "best.pth", "SHA256SUMS"):
        (cut / "run/check_point" / f"{name}.tmp").write_bytes(b"half a")
    for name in ("log.txt", "settings.log", "stage.json", "result.json"):
        (cut / "run" / f"{name}.tmp").write_bytes(b"half a")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    command = [*commands(words, cut)["one"], "checkpoint_every=1 steps"]
    with monkeypatch.context() as patch:
        patch.setattr("afa.training.checkpoint._sync", die)
        assert main(command) == 130
    assert load_checkpoint(cut / "run/check_point/previous.pth").training["step"] == 2
    assert main(command) == 0
    assert_the_same(cut / "run", undisturbed["one"])


def test_with_both_checkpoints_damaged_it_says_so(words, cut, capsys):
    for name in ("last.pth", "previous.pth"):
        tear(cut / "run/check_point" / name)
    assert main(commands(words, cut)["one"]) == 1
    error = one_line(capsys.readouterr().err)
    for text in ("last.pth", "previous.pth", "overwrite=true"):
        assert text in error


SYSTEM_CALLS_OF_A_SAVE = 12


@pytest.mark.parametrize("moment", range(SYSTEM_CALLS_OF_A_SAVE + 1))
def test_killed_before_any_system_call_of_a_save_both_files_are_whole(words, cut, monkeypatch, moment):
    calls = 0

    def counted(call: Callable) -> Callable:
        def count(*arguments: object, **options: object) -> object:
            nonlocal calls
            if calls == moment:
                raise KeyboardInterrupt
            calls += 1
            return call(*arguments, **options)

        return count

    last, previous = (cut / "run/check_point" / name for name in ("last.pth", "previous.pth"))
    old = load_checkpoint(last)
    with monkeypatch.context() as patch:
        for name in ("fsync", "link", "replace", "unlink"):
            patch.setattr(os, name, counted(getattr(os, name)))
        with contextlib.suppress(KeyboardInterrupt):
            save_checkpoint(replace(old, epoch=7), last, keep=previous)
    assert calls == min(moment, SYSTEM_CALLS_OF_A_SAVE)
    assert load_checkpoint(last).epoch in (1, 7)
    assert load_checkpoint(previous).epoch == 1
    save_checkpoint(replace(old, epoch=8), last, keep=previous)
    assert load_checkpoint(last).epoch == 8
    assert load_checkpoint(previous).epoch in (1, 7)


def test_without_hard_links_the_checkpoint_before_is_kept_too(words, cut, monkeypatch):
    last, previous = (cut / "run/check_point" / name for name in ("last.pth", "previous.pth"))
    old = load_checkpoint(last)

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    save_checkpoint(replace(old, epoch=7), last, keep=previous)
    assert (load_checkpoint(last).epoch, load_checkpoint(previous).epoch) == (7, 1)


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files end at 12 MB: enough for the first checkpoint, not for one with an optimiser."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_checkpoint_that_cannot_be_written_whole(words, cut, small_files, undisturbed, capsys):
    command = [*commands(words, cut)["one"], "checkpoint_every=1 steps"]
    last = cut / "run/check_point/last.pth"
    before = last.read_bytes()
    assert main(command) == 1
    error = one_line(capsys.readouterr().err)
    assert error.startswith(f"{last}: cannot be written")
    assert "what was there before is intact" in error
    assert last.read_bytes() == before
    assert not list(last.parent.glob("*.tmp"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert main(command) == 0
    assert_the_same(cut / "run", undisturbed["one"])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
@pytest.mark.parametrize("megabytes", [8, 24])
def test_a_disk_that_fills_up(words, undisturbed, tmp_path, capsys, megabytes):
    """A small disk of its own: full at the first checkpoint or at the second; then made larger."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", disk], check=False).returncode:
        pytest.skip("no mount allowed here")
    try:
        command = [*commands(words, disk)["one"], "checkpoint_every=4 steps"]
        assert main(command) == 1
        assert "check_point/last.pth: cannot be written" in one_line(capsys.readouterr().err)
        subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
        assert main(command) == 0
        assert_the_same(disk / "run", undisturbed["one"])
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_other_settings_are_refused_key_by_key_and_harmless_ones_taken(words, undisturbed, cut, data, tmp_path, capsys):
    command = commands(words, cut)["one"]
    assert main([*command, "alpha=0.02", "lr=0.02", "seed=3", "print_freq=3"]) == 1
    error = one_line(capsys.readouterr().err)
    for text in ("alpha: 1e-05, now 0.02", "lr: 0.001, now 0.02", "seed: 1, now 3"):
        assert text in error
    assert "print_freq" not in error
    moved = shutil.copytree(data, tmp_path / "moved")
    others = [f"target_data_dir={moved}", "num_workers=1", "cache=none", "checkpoint_every=3 minutes"]
    assert main([*command, *others]) == 0
    assert_the_same(cut / "run", undisturbed["one"])


def test_changed_training_images_are_refused(words, cut, data, tmp_path, capsys):
    changed = shutil.copytree(data, tmp_path / "changed")
    folder = changed / "tiny/train/bag"
    first, second = sorted(folder.iterdir())[:2]
    shutil.copy(first, second)
    assert main([*commands(words, cut)["one"], f"target_data_dir={changed}"]) == 1
    assert "since it began the training images changed" in one_line(capsys.readouterr().err)


def test_a_stage_counts_as_finished_by_its_file_alone(words, undisturbed, tmp_path, capsys):
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
        assert f"{name}: altered or torn; remove it" in one_line(capsys.readouterr().err)
        (run / name).unlink()
        assert main(command) == 0


def test_killed_while_it_wrote_its_very_first_file(words, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/settings.log.tmp").write_text("target_da")

    def begun(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("afa.training.algorithm.run_stage", begun)
    assert main(commands(words, tmp_path)["one"]) == 130


def test_a_loss_that_is_not_finite_leaves_the_last_checkpoint(words, cut, monkeypatch, capsys):
    last = cut / "run/check_point/last.pth"
    before, step_of = last.read_bytes(), train_step

    def poisoned(learner, *batch):
        with torch.no_grad():
            learner.target.head_parameters()[0][0, 0] = torch.inf
        return step_of(learner, *batch)

    monkeypatch.setattr("afa.training.engine.train_step", poisoned)
    assert main([*commands(words, cut)["one"], "checkpoint_every=1 steps"]) == 1
    error = one_line(capsys.readouterr().err)
    assert re.match(
        r"not finite: classification nan, head_penalty inf, alignment [\d.e+]+, total nan, gradient_norm nan; "
        r"AST epoch 2/2 step 5, lr 0.0001, images (\S+/tiny/train/\w+/\d+\.png(, )?){4}; the last checkpoint",
        error,
    ), error
    assert last.read_bytes() == before


def test_weights_that_are_no_numbers_are_not_saved(words, cut, monkeypatch, capsys):
    last = cut / "run/check_point/last.pth"
    before, step_of = last.read_bytes(), train_step

    def ruinous(learner, *batch):
        step = step_of(learner, *batch)
        with torch.no_grad():
            learner.target.head_parameters()[0][0, 0] = torch.nan
        return step

    monkeypatch.setattr("afa.training.engine.train_step", ruinous)
    assert main([*commands(words, cut)["one"], "checkpoint_every=1 steps"]) == 1
    assert "not finite: the weights classifier.1.weight; AST" in one_line(capsys.readouterr().err)
    assert last.read_bytes() == before


def test_a_collapsed_attention_is_said_once_a_stage(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stage_module, "ENTROPY_FLOOR", 1.1)
    assert main(commands(words, tmp_path)["one"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "has collapsed" in line]
    assert [line.split()[2] for line in lines] == [f"spatial_{number}" for number in range(1, 5)]


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_grad_clip_bounds_the_step(settings_for, clip):
    settings = settings_for(grad_clip=clip, lr=1, momentum=0, beta=10)
    learner = build_learner(
        settings.backbone,
        settings.stages[0],
        start=source_start(settings.backbone),
        num_classes=3,
        image_size=32,
        seed=1,
        device=torch.device("cpu"),
    )
    trained = [p for group in learner.optimizer.param_groups for p in group["params"]]
    before = [p.detach().clone() for p in trained]
    step = train_step(learner, torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0]))
    moved = torch.stack([(p.detach() - old).norm() for p, old in zip(trained, before, strict=True)]).norm()
    assert step.gradient_norm > 1
    torch.testing.assert_close(moved, torch.tensor(clip) if clip else step.gradient_norm, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_image_that_vanishes_during_training_is_named(words, data, tmp_path, monkeypatch, capsys, num_workers):
    copy = shutil.copytree(data, tmp_path / "vanishing")
    gone, write_log = sorted((copy / "tiny/train/sandal").iterdir())[3], stage_module.write_log

    def remove_one(path: Path, history: list) -> None:
        write_log(path, history)
        if len(history) == 1:
            gone.unlink()

    monkeypatch.setattr(stage_module, "write_log", remove_one)
    command = [*commands(words, tmp_path)["one"], f"target_data_dir={copy}", "cache=none"]
    assert main([*command, f"num_workers={num_workers}"]) == 1
    assert one_line(capsys.readouterr().err) == f"{gone}: no such file"
    assert load_checkpoint(tmp_path / "run/check_point/last.pth").epoch == 1


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


def test_a_result_that_cannot_be_written_is_one_line(words, cut, capsys):
    (cut / "run/predictions.csv").mkdir()
    assert main(commands(words, cut)["one"]) == 1
    error = one_line(capsys.readouterr().err)
    assert error.startswith(f"{cut / 'run/predictions.csv'}: Is a directory; the same command goes on")


DELTA = [32, 64, 96, 320]  # channels of MobileNetV2's aligned layers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no JSON of channel weights"),
        ("{", "no JSON of channel weights"),
        ("3", "no JSON of channel weights"),
        ("null", "no JSON of channel weights"),
        ('["a"]', "no JSON of channel weights"),
        ("[[null]]", "no JSON of channel weights"),
        ("[[1, [2]]]", "no JSON of channel weights"),
        ("[[" + "9" * 400 + "]]", "no JSON of channel weights"),
        ("[" * 100_000, "no JSON of channel weights"),
        ("\ufeff[]", "no JSON of channel weights"),
        ('{"a": [1]}', "no JSON of channel weights"),
        (json.dumps([[1.0] * c for c in DELTA[:3]]), "holds lists of shapes [(32,), (64,), (96,)]"),
        (json.dumps([[1.0] * 7 for _ in range(1000)]), " and more; the aligned layers have"),
        (json.dumps([[[1.0]] * c for c in DELTA]), "holds lists of shapes [(32, 1)"),
        (json.dumps([[float("nan")] * c for c in DELTA]), "no number from 0 on"),
        (json.dumps([[1e39] * c for c in DELTA]), "no number from 0 on"),
        (json.dumps([[-1.0] * c for c in DELTA]), "no number from 0 on"),
    ],
)
def test_channel_weights_are_checked(tmp_path, text, message):
    path = tmp_path / "weights.json"
    path.write_text(text)
    with pytest.raises(CheckpointError) as error:
        load_layer_weights(path, DELTA)
    assert message in str(error.value)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def test_changed_channel_weights_are_refused_on_resume(words, tmp_path, monkeypatch, capsys):
    path = tmp_path / "weights.json"
    path.write_text(json.dumps([[1.0] * c for c in DELTA]))
    command = [*commands(words, tmp_path)["one"], "reg_type=delta", f"channel_weight_path={path}"]
    program = Program(command, tmp_path)
    program.wait_for_line(tmp_path / "run/experiment.log", "epoch 1/2 step 2/")
    program.send(signal.SIGKILL)
    program.wait()
    path.write_text(json.dumps([[2.0] * c for c in DELTA]))
    assert main(command) == 1
    assert "since it began the fixed weights changed" in one_line(capsys.readouterr().err)


def test_names_that_are_no_utf_8_or_would_steer_the_terminal(words, data, tmp_path, capsys):
    copy = shutil.copytree(data, tmp_path / "data")
    for split in ("train", "test"):
        folder = copy / "tiny" / split
        try:
            (folder / "bag").rename(folder / os.fsdecode(b"ba\xff"))
        except OSError:
            pytest.skip("this file system takes UTF-8 only")
    bad = folder.parent / "train" / os.fsdecode(b"ba\xff") / "\x1b[31m.png"
    bad.write_bytes(b"no image")
    command = [*commands(words, tmp_path)["one"], f"target_data_dir={copy}", "max_iter=1"]
    assert main(command) == 1
    named, _ = capsys.readouterr().err.splitlines()
    assert named.isprintable()
    assert "ba\\udcff/\\x1b[31m.png: not an image" in named
    assert main([*command, "bad_images=skip", "overwrite=true"]) == 0
    assert "ba\\udcff" in (tmp_path / "run/predictions.csv").read_text(encoding="utf-8")
