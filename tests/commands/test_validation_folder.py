"""A validation folder: held-out images without a fraction, test images without a test folder."""

import json
import shutil
from pathlib import Path

import pytest

from afa.command_line import main


@pytest.fixture
def dataset(data_dir, tmp_path) -> Path:
    """The tiny data set with a validation folder that lacks a class."""
    folder = tmp_path / "data/tiny"
    shutil.copytree(data_dir / "tiny", folder)
    shutil.copytree(folder / "test", folder / "val")
    shutil.rmtree(folder / "val/sandal")
    return folder


@pytest.fixture
def command(words, dataset) -> list[str]:
    return ["tests/tiny.hocon", *words, "reg_type=l2", f"target_data_dir={dataset.parent}", "exp_id=run", "max_iter=3"]


def result(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "runs/run/result.json").read_text())


def test_it_is_the_held_out_part_and_may_lack_classes(command, dataset, tmp_path, capsys):
    assert main([*command, "dry_run=true"]) == 0
    assert "  6 held-out images, 3 per class\n" in capsys.readouterr().out
    assert main(command) == 0
    out = capsys.readouterr().out
    assert f"{dataset}/val: 1 of the 3 classes have no image: sandal\n" in out
    assert "L2: 12 training images, 6 held-out images, 9 test images, 3 classes\n" in out
    found = result(tmp_path)
    assert (found["selected_on"], found["data"]["held_out"]["images"]) == ("held_out", 6)
    assert [found["data"][split]["images"] for split in ("train", "test")] == [12, 9]
    assert 'validation_folder = "val"' in (tmp_path / "runs/run/settings.log").read_text()
    assert main([str(tmp_path / "runs/run/settings.log")]) == 0
    assert "already finished" in capsys.readouterr().out


def test_a_run_that_was_started_without_it_is_a_run_with_other_settings(command, dataset, tmp_path, capsys):
    shutil.move(dataset / "val", tmp_path / "val")
    assert main(command) == 0
    shutil.move(tmp_path / "val", dataset / "valid")
    assert main(command) == 1
    assert "made with other settings (validation_folder: none, now valid)" in capsys.readouterr().err
    assert main([*command, "dry_run=true"]) == 1


def test_with_a_fraction_it_is_not_used(command, tmp_path):
    assert main([*command, "validation_fraction=0.5"]) == 0
    found = result(tmp_path)
    assert (found["selected_on"], found["data"]["held_out_fraction"]) == ("held_out", 0.5)
    assert "held_out" not in found["data"]


def test_without_a_test_folder_it_contains_the_test_images(command, dataset, tmp_path, capsys):
    shutil.rmtree(dataset / "val")
    (dataset / "test").rename(dataset / "validation")
    line = f"{dataset}: no test folder; validation contains the test images\n"
    assert main(command) == 0
    assert capsys.readouterr().out.count(line) == 1
    assert (result(tmp_path)["selected_on"], result(tmp_path)["data"]["test"]["images"]) == ("test", 9)
    assert main([*command, "mode=eval", f"pre_trained_path={tmp_path / 'runs/run'}", "exp_id=evaluation"]) == 0
    assert capsys.readouterr().out.count(line) == 1
    visualize = ["mode=visualize", f"pre_trained_path={tmp_path / 'runs/run'}", f"output={tmp_path / 'shown'}"]
    assert main([*visualize, "images=1"]) == 0


def test_a_folder_that_cannot_be_meant_is_refused(command, dataset, capsys):
    (dataset / "val/other").mkdir()
    shutil.copy(next((dataset / "val/bag").iterdir()), dataset / "val/other")
    for more, message in (
        (["validation_folder=test"], "validation_folder: test contains other images of the data set"),
        (["validation_folder=nowhere", "exp_id=nowhere"], f"{dataset}/nowhere: no such folder"),
        ([], f"{dataset}/val: has classes that train does not have: other"),
    ):
        assert main([*command, *more]) == 1
        assert capsys.readouterr().err.startswith(message)
    (dataset / "valid").mkdir()
    assert main(command) == 1
    assert capsys.readouterr().err == f"{dataset}: has the folders val, valid; keep one of them\n"
