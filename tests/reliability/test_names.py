"""Class names that are code, markup or no UTF-8 elsewhere: every command works, and no output executes them."""

import csv
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from afa.command_line import main
from afa.files import read_csv

NAMES = ("=cmd|' C calc'!A0", "@SUM(1)", os.fsdecode(b"\xff"), "<blink>\x1b[2J`x`|\n$y")


@pytest.fixture
def dataset(data_dir, tmp_path) -> Path:
    folder = tmp_path / "data/odd"
    for split in ("train", "test"):
        for name, source in zip(NAMES, ("bag", "sandal", "trouser", "bag"), strict=True):
            shutil.copytree(data_dir / "tiny" / split / source, folder / split / name)
    return folder


def test_every_command_accepts_any_name_and_writes_none_as_code(words, dataset, tmp_path, capsys):
    runs = f"outpath={tmp_path / 'runs'}"
    data = [f"target_data_dir={dataset.parent}", f"target_dataset={dataset.name}", "exp_id=run", "max_iter=3"]
    command = ["tests/tiny.hocon", *words, runs, *data, "reg_type=l2", "report=true"]
    out = str(tmp_path / "out")
    for arguments in (
        command,
        command,  # finished: the saved settings are those of the command
        ["mode=predict", "pre_trained_path=run", runs, f"input={dataset / 'test'}", f"output={out}", "gpu_id=cpu"],
        ["mode=export", "pre_trained_path=run", runs, "format=safetensors", f"output={out}"],
        ["mode=export", "pre_trained_path=run", runs, "format=onnx", f"output={out}"],
        ["mode=visualize", "pre_trained_path=run", runs, f"output={tmp_path / 'pictures'}", "gpu_id=cpu"],
        ["prepare=from_folder", f"archive={dataset / 'train'}", f"target_data_dir={tmp_path / 'new'}"],
    ):
        assert main(arguments) == 0, (arguments, capsys.readouterr().err)
        assert "\x1b" not in capsys.readouterr().out
    for table, columns in (("runs/run/predictions.csv", ("true", "top1")), ("out/predictions.csv", ("top1",))):
        with (tmp_path / table).open(newline="") as file:
            cells = {row[column] for row in csv.DictReader(file) for column in columns}
        assert not [cell for cell in cells if cell.startswith(("=", "@"))]
    true = {row["true"] for row in read_csv(tmp_path / "runs/run/predictions.csv")}
    assert true == {name.encode(errors="backslashreplace").decode() for name in NAMES}
    assert json.loads(Path(out, "model.json").read_text())["classes"] == sorted(NAMES)
    card = Path(out, "README.md").read_text()
    assert not re.search(r"(?<!\\)<blink>|\x1b|(?<!\\)`x", card)
    page = (tmp_path / "runs/run/report.html").read_text()
    assert "<blink>" not in page
    assert "&lt;blink&gt;" in page
