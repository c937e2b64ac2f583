"""A run refuses to resume with other settings, images or weights, and names what changed."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from afa.command_line import main
from afa.training import loop
from afa.training.checkpoint import load_checkpoint
from tests.processes import Program
from tests.reliability.runs import commands, one_line
from tests.same import assert_the_same


def test_other_settings_are_refused_by_key_and_harmless_ones_accepted(
    words, undisturbed, cut, data, tmp_path, monkeypatch, capsys
):
    command = commands(words, cut)["one"]
    assert main([*command, "alpha=0.02", "lr=0.02", "seed=3", "print_freq=3"]) == 1
    error = one_line(capsys.readouterr().err)
    for text in ("alpha: 1e-05, now 0.02", "lr: 0.001, now 0.02", "seed: 1, now 3"):
        assert text in error
    assert "print_freq" not in error
    moved = shutil.copytree(data, tmp_path / "moved")
    others = [f"target_data_dir={moved}", "num_workers=1", "cache=none", "checkpoint_every=3 minutes"]
    for name in ("load_canvases", "describe_copies"):  # a resumed run does not check the content of all images again
        monkeypatch.delattr(f"afa.commands.image_reader.{name}")
    assert main([*command, *others]) == 0, capsys.readouterr().err
    assert_the_same(cut / "run", undisturbed["one"])


def test_changed_training_images_are_refused(words, cut, data, tmp_path, capsys):
    changed = shutil.copytree(data, tmp_path / "changed")
    folder = changed / "tiny/train/bag"
    first, second = sorted(folder.iterdir())[:2]
    shutil.copy(first, second)
    assert main([*commands(words, cut)["one"], f"target_data_dir={changed}"]) == 1
    assert "the training images changed since its start" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_image_that_vanishes_during_training_is_named(words, data, tmp_path, monkeypatch, capsys, num_workers):
    copy = shutil.copytree(data, tmp_path / "vanishing")
    gone, write_log = sorted((copy / "tiny/train/sandal").iterdir())[3], loop.write_log

    def remove_one(path: Path, history: list) -> None:
        write_log(path, history)
        if len(history) == 1:
            gone.unlink()

    monkeypatch.setattr(loop, "write_log", remove_one)
    command = [*commands(words, tmp_path)["one"], f"target_data_dir={copy}", "cache=none"]
    assert main([*command, f"num_workers={num_workers}"]) == 1
    assert one_line(capsys.readouterr().err) == f"{gone}: no such file"
    assert load_checkpoint(tmp_path / "run/check_point/last.pth").epoch == 1


DELTA = [32, 64, 96, 320]  # channels of MobileNetV2's aligned layers


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
    assert "the fixed weights changed since its start" in one_line(capsys.readouterr().err)


def test_names_that_are_not_utf_8_or_contain_control_characters(words, data, tmp_path, capsys):
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
