"""Every method and recipe from the command line: two steps per stage, interrupted, resumed, evaluated."""

import json

import pytest
import torch

from afa.command_line import main
from afa.method.catalogue import METHODS, RECIPES
from afa.training.checkpoint import load_checkpoint


class InterruptError(Exception):
    """Any error that ends a program."""


@pytest.fixture
def quick(words) -> list[str]:
    """One epoch of two steps per stage."""
    changed = ("batch_size", "max_iter")
    return [
        *(argument for argument in words if argument.partition("=")[0] not in changed),
        "batch_size=6",
        "max_iter=2",
    ]


@pytest.mark.parametrize("name", [*METHODS, *RECIPES])
def test_every_method_trains_resumes_and_is_evaluated(name, quick, tmp_path, monkeypatch, capsys):
    command = ["tests/tiny.hocon", *quick, f"reg_type={name}", "alpha=0.01", "checkpoint_every=1 steps"]
    runs = tmp_path / "runs"
    assert main([*command, "exp_id=full"]) == 0, capsys.readouterr().err

    from afa.training import engine

    train_step, steps = engine.train_step, 0

    def interrupt_after_one_step(*arguments):
        nonlocal steps
        steps += 1
        if steps == 2:
            raise InterruptError
        return train_step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "train_step", interrupt_after_one_step)
        with pytest.raises(InterruptError):
            main([*command, "exp_id=cut"])
    assert main([*command, "exp_id=cut"]) == 0, capsys.readouterr().err
    assert "resuming after" in capsys.readouterr().out
    for stage in ("stage_1", "stage_2") if name in RECIPES else ("",):
        one, two = (load_checkpoint(runs / run / stage / "check_point/last.pth") for run in ("full", "cut"))
        for before, after in ((one.model, two.model), (one.attention, two.attention)):
            assert all(torch.equal(after[key], value) for key, value in before.items())
    result = json.loads((runs / "cut/result.json").read_text())
    assert main([*command[:-3], "mode=eval", "pre_trained_path=cut", "exp_id=eval"]) == 0, capsys.readouterr().err
    evaluation = json.loads((runs / "eval/result.json").read_text())
    assert evaluation["top1"] == result["best_test_top1"]["mean"]
