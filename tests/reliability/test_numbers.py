"""Losses, gradients and weights that are not finite; collapsed attention; gradient clipping."""

import re

import pytest
import torch

from afa.command_line import main
from afa.training import loop
from afa.training.engine import train_step
from afa.training.learner import build_learner, source_start
from tests.reliability.runs import commands, one_line


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


def test_weights_that_are_not_finite_are_not_saved(words, cut, monkeypatch, capsys):
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


def test_a_collapsed_attention_is_reported_once_per_stage(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "COLLAPSED", 1.1)
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
