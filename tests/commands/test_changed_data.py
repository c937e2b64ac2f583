"""Data that changed since a run was started or finished: refused in one line, whatever was changed, and when."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from afa.command_line import main
from afa.training import loop

HELD_OUT = ["validation_fraction=0.25", "batch_size=3"]


@pytest.fixture
def dataset(data_dir, tmp_path) -> Path:
    return shutil.copytree(data_dir / "tiny", tmp_path / "data/tiny")


@pytest.fixture
def command(words, dataset) -> list[str]:
    return ["tests/tiny.hocon", *words, "reg_type=l2", f"target_data_dir={dataset.parent}", "exp_id=run", "max_iter=3"]


def add_class(dataset: Path) -> None:
    for split in ("train", "test"):
        shutil.copytree(dataset / split / "bag", dataset / split / "boot")


def remove(split: str) -> Callable[[Path], None]:
    return lambda dataset: next((dataset / split / "bag").iterdir()).unlink()


def enlarge(dataset: Path) -> None:
    with next((dataset / "test/bag").iterdir()).open("ab") as file:
        file.write(b"x")


def refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The line with which both a dry run and a run are refused."""
    lines = set()
    for arguments in (command, [*command, "dry_run=true"]):
        capsys.readouterr()
        assert main(arguments) == 1
        lines.add(capsys.readouterr().err)
    (line,) = lines
    assert line.count("\n") == 1
    return line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add_class, "made with other data (train images: 12, now 16; test images: 9, now 12)"),
        (remove("train"), "made with other data (train images: 12, now 11)"),
        (remove("test"), "made with other data (test images: 9, now 8)"),
        (enlarge, "made with other data (test images: 9, now 9 with other names or sizes)"),
    ],
)
def test_a_finished_run_is_not_reported_for_other_data(command, dataset, change, message, capsys):
    assert main(command) == 0
    assert main(command) == 0
    assert "already finished" in capsys.readouterr().out
    change(dataset)
    line = refused(command, capsys)
    assert message in line
    assert "overwrite=true" in line


def test_a_finished_run_is_not_reported_for_another_file_of_weights(command, tmp_path, capsys):
    weights = shutil.copy("demo/mobilenet_v2_source_fp16.pth", tmp_path / "source.pth")
    command = [*command, f"source_weights={weights}"]
    assert main(command) == 0
    torch.save({name: value + 1 for name, value in torch.load(weights).items()}, weights)
    assert "made with other data (another file is at source_weights)" in refused(command, capsys)


def test_a_finished_run_whose_data_set_is_gone_is_reported(command, dataset, tmp_path, capsys):
    assert main(command) == 0
    shutil.rmtree(dataset)
    from afa import load_settings, run

    settings = load_settings(tmp_path / "runs/run/settings.log")
    assert run(settings)["data"]["classes"] == 3


def test_skipped_images_and_held_out_images_are_part_of_the_comparison(command, dataset, tmp_path, capsys):
    bad = next((dataset / "train/bag").iterdir())
    bad.write_bytes(bad.read_bytes()[:100])
    shutil.copytree(dataset / "test", dataset / "val")
    command = [*command, "bad_images=skip"]
    assert main(command) == 0
    result = tmp_path / "runs/run/result.json"
    values = json.loads(result.read_text())
    assert values["data"]["train"]["skipped"] == [f"bag/{bad.name}"]
    assert main(command) == 0
    remove("val")(dataset)
    assert "made with other data (held-out images: 9, now 8)" in refused(command, capsys)
    for split in ("train", "test", "held_out"):  # as version 0.1.0 wrote it
        del values["data"][split]["skipped"]
    result.write_text(json.dumps(values))
    assert main(command) == 0
    values["data"] = 3
    result.write_text(json.dumps(values))
    assert "result.json was modified" in refused(command, capsys)


def test_a_finished_evaluation_is_of_its_images_and_its_checkpoint(command, dataset, tmp_path, capsys):
    assert main(command) == 0
    best = shutil.copy(tmp_path / "runs/run/check_point/best.pth", tmp_path / "best.pth")
    command = [*command, "mode=eval", f"pre_trained_path={best}", "exp_id=eval"]
    assert main(command) == 0
    assert main(command) == 0
    shutil.copy(tmp_path / "runs/run/check_point/last.pth", best)
    assert "made with other data (another file is at pre_trained_path)" in refused(command, capsys)
    shutil.copy(tmp_path / "runs/run/check_point/best.pth", best)
    remove("test")(dataset)
    assert "made with other data (test images: 9, now 8)" in refused(command, capsys)


@pytest.mark.parametrize(
    ("options", "die_in", "change", "line"),
    [
        (HELD_OUT, "after_step", remove("test"), "run: cannot resume, the test images"),
        (HELD_OUT, "after_step", remove("train"), "run: cannot resume, the training images, the held_out"),
        (["repeat=2"], "observe_epoch", remove("test"), "repeat_1: cannot resume, the test images"),  # it is finished
        ([], "after_step", add_class, "run: cannot resume, the training images, the test images"),
    ],
)
def test_an_unfinished_run_does_not_go_on_with_other_data(
    command, dataset, options, die_in, change, line, monkeypatch, capsys
):
    calls, original = 0, getattr(loop.StepObserver, die_in)

    def die(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop.StepObserver, die_in, die)
        assert main([*command, *options, "checkpoint_every=1 steps"]) == 130
    change(dataset)
    assert line in refused([*command, *options], capsys)


def test_an_image_of_another_format_or_a_hidden_file_is_no_change(command, dataset):
    assert main(command) == 0
    (dataset / "train/bag/notes.txt").write_text("x")
    (dataset / "train/.DS_Store").write_text("x")
    assert main(command) == 0
    Image.new("RGB", (8, 8)).save(dataset / "train/bag/new", "PNG")
    assert main(command) == 1
