"""An error of the GPU is one line, wherever it is raised, and the run can be resumed."""

import pytest
import torch

from afa.command_line import main
from afa.training import engine
from afa.training.checkpoint import load_checkpoint

GRID = ["tests/grid/grid.hocon", 'grid.methods=["l2"]']
OUT = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nGPU 0 has 15.77 GiB")
OUT_LINE = (
    "the GPU has not enough memory (CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has 15.77 GiB); "
    "use a smaller batch_size; a run then also needs another exp_id=<name>, or overwrite=true"
)
LOST = torch.AcceleratorError("CUDA error: unspecified launch failure")
LOST_LINE = "the GPU failed: CUDA error: unspecified launch failure"


@pytest.fixture
def errors(monkeypatch):
    """A list of what the following training steps raise; ``None`` is a step that succeeds."""
    train_step, coming = engine.train_step, []

    def failing_step(*arguments):
        if coming and (error := coming.pop(0)):
            raise error
        return train_step(*arguments)

    monkeypatch.setattr(engine, "train_step", failing_step)
    return coming


@pytest.mark.parametrize(("error", "line"), [(OUT, OUT_LINE), (LOST, LOST_LINE)])
def test_a_run_ends_in_one_line_and_is_resumed(words, tmp_path, capsys, errors, error, line):
    command = ["tests/tiny.hocon", *words, "alpha=0.01", "exp_id=run"]
    errors += [None] * 4 + [error]
    assert main(command) == 1
    assert capsys.readouterr().err == f"{line}; the same command resumes from the last checkpoint\n"
    assert load_checkpoint(tmp_path / "runs/run/check_point/last.pth").epoch == 1
    assert main(command) == 0
    assert "resuming after epoch 1 of 2" in capsys.readouterr().out


def test_a_dry_run_ends_in_one_line(words, capsys, errors):
    errors += [OUT] * 2
    assert main(["tests/tiny.hocon", *words, "alpha=0.01", "dry_run=true"]) == 1
    assert capsys.readouterr().err == f"{OUT_LINE}; the same command resumes from the last checkpoint\n"


def test_a_grid_goes_on_and_a_list_shows_the_reason(words, capsys, errors):
    errors += [OUT] * 2
    assert main([*GRID, *words]) == 1
    assert capsys.readouterr().out.count(f": {OUT_LINE}\n") == 4  # two runs, each immediately and at the end
    errors += [OUT] * 2
    assert main([*GRID, *words, "dry_run=true"]) == 0
    out = capsys.readouterr().out
    assert out.count(f": {OUT_LINE}\n") == 1
    assert "not included: 2 runs" in out


def test_a_prediction_ends_in_one_line(words, tmp_path, data_dir, capsys, monkeypatch):
    assert main(["tests/tiny.hocon", *words, "reg_type=l2", "exp_id=run", "max_iter=3"]) == 0

    def fail(*_arguments):
        raise OUT

    monkeypatch.setattr("afa.inference.classifier.predict", fail)
    task = ["mode=predict", f"pre_trained_path={tmp_path / 'runs/run'}", f"input={data_dir}", f"output={tmp_path}"]
    assert main([*task, "gpu_id=cpu"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == OUT_LINE
