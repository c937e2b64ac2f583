"""A checkpoint, a finished run and an unfinished run of an earlier version are evaluated, reported and resumed."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from afa.command_line import main
from afa.report.page import write_report

BEFORE = Path(__file__).parent / "before"
OPTIONS = [
    "base_model_name=shufflenet_v2_x0_5",
    "target_dataset=tiny",
    "source_weights=tests/before/source.pth",
    'aligned_layers=["stage2.3.branch2.5","stage3.7.branch2.5"]',
    "image_size=64",
    "batch_size=4",
    "gpu_id=cpu",
    "num_workers=0",
    "report=false",
]
TRAINING = ["epochs=3", "lr=0.001", "alpha=0.0001", "print_freq=1"]


@pytest.fixture
def runs(tmp_path) -> Path:
    """A copy of both runs."""
    return shutil.copytree(BEFORE, tmp_path / "runs")


def probabilities(path: Path) -> list[list[float]]:
    with path.open() as file:
        return [[float(row[f"probability{rank}"]) for rank in (1, 2, 3)] for row in csv.DictReader(file)]


def test_its_checkpoint_is_evaluated(runs, data_dir):
    options = [*OPTIONS, f"target_data_dir={data_dir}", f"outpath={runs}", "reg_type=ast", "alpha=0.1"]
    assert main(["tests/tiny.hocon", *options, "mode=eval", "pre_trained_path=finished", "exp_id=eval"]) == 0
    trained, evaluated = (json.loads((runs / name / "result.json").read_text()) for name in ("finished", "eval"))
    assert evaluated["top1"] == trained["best_test_top1"]["mean"]
    assert evaluated["epoch"] == trained["repeats"][0][0]["best"]["epoch"]
    before, now = (probabilities(runs / name / "predictions.csv") for name in ("finished", "eval"))
    assert len(now) == 9
    for one, other in zip(before, now, strict=True):
        assert other == pytest.approx(one, abs=1e-4)


def test_its_finished_run_is_recognised_and_reported(runs, data_dir, capsys):
    options = [*OPTIONS, *TRAINING, f"target_data_dir={data_dir}", f"outpath={runs}", "exp_id=finished"]
    assert main(["tests/tiny.hocon", *options]) == 0
    assert "already finished" in capsys.readouterr().out
    page = write_report(runs / "finished").read_text()
    assert page.count("<svg") >= 5  # four charts at least, and the confusion matrix
    assert "Alignment" in page


def test_its_unfinished_run_is_resumed(runs, data_dir, capsys):
    options = [*OPTIONS, *TRAINING, f"target_data_dir={data_dir}", f"outpath={runs}", "exp_id=unfinished"]
    first_epoch = (runs / "unfinished/log.txt").read_text()
    assert main(["tests/tiny.hocon", *options]) == 0, capsys.readouterr().err
    assert "resuming after epoch 1 of 3 and step 2 of the next" in capsys.readouterr().out
    log = (runs / "unfinished/log.txt").read_text()
    assert log.startswith(first_epoch)
    undisturbed, resumed = (
        [[float(cell) for cell in line.split("\t")] for line in text.splitlines()[1:]]
        for text in ((runs / "finished/log.txt").read_text(), log)
    )
    for one, other in zip(undisturbed, resumed, strict=True):
        assert other == pytest.approx(one, rel=1e-2)
