"""What is said of the first steps of a stage: made-up losses."""

import re

import pytest
import torch

from afa.commands.first_steps import FirstSteps
from afa.config.settings import StageSettings
from afa.method.objectives import Losses
from afa.training.engine import Step


def first_steps(*losses: tuple[float, float], **options: object) -> FirstSteps:
    """Of AST with alpha 0.1, from the classification loss and the alignment of each step."""
    stage = StageSettings(**{"method": "ast", "alpha": 0.1, **options})
    steps = []
    for classification, alignment in losses:
        total = classification + stage.alpha * alignment
        scalars = [torch.tensor(value) for value in (classification, 0.0, alignment, total)]
        steps.append(Step(Losses(*scalars, torch.zeros(0)), torch.tensor(0.5), torch.tensor(1.0)))
    return FirstSteps("AST", stage, steps)


RELATIVE = ", or alignment_scale = relative with alpha = 10"


@pytest.mark.parametrize(
    ("found", "divergence", "risk"),
    [
        (first_steps((2.0, 100.0), (2.0, 150.0), (1.0, 110.0)), "", ""),
        (first_steps((2.0, 100.0)), "", ""),
        (
            first_steps((2.0, 1000.0), (2.0, 1e5)),
            "AST: the loss grew from 102 to 1e+04 in 2 steps: it diverges; try alpha = 0.01" + RELATIVE,
            None,
        ),
        (
            first_steps((2.0, 10.0), (2.0, 1e5), alignment_scale="relative"),
            "AST: the loss grew from 3 to 1e+04 in 2 steps: it diverges; try alpha = 0.01",
            None,
        ),
        (
            first_steps((2.0, 200.0), (2.0, 500.0)),
            "",
            "AST: the loss grew from 22 to 52 in 2 steps: it may diverge; try alpha = 0.01" + RELATIVE,
        ),
        (
            first_steps((2.0, 2000.0), (2.0, 1900.0)),
            "",
            "AST: alpha * alignment is 100 times the classification loss: the run may learn little; try alpha = 0.005"
            + RELATIVE,
        ),
        (
            first_steps((2.0, 0.0), (30.0, 0.0), method="l2", alpha=0.0, learning_rate=1.0),
            "AST: the loss grew from 2 to 30 in 2 steps: it diverges; try a smaller lr than 1",
            None,
        ),
    ],
)
def test_growth_and_ratio(found, divergence, risk):
    assert found.find_divergence() == divergence
    if risk is not None:
        assert found.find_risk() == risk


def test_alpha_times_the_term_is_next_to_the_classification_loss():
    header, _, *steps = first_steps((2.0, 100.0), (2.5, 50.0)).describe().splitlines()
    assert re.split("  +", header)[1:3] == ["classification", "alpha * alignment"]
    assert [" ".join(line.split()) for line in steps] == ["1 of 2 2 10 0 12 1", "2 of 2 2.5 5 0 7.5 1"]
