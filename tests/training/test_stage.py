"""The inputs of a stage."""

from types import SimpleNamespace

import pytest
from torch import nn

from afa.training.stage import Stage


@pytest.mark.parametrize(
    ("images", "method", "line"),
    [
        (98, "ast", "warning: AST: the last batch of an epoch has only 2 of 32 images, too few for accurate batch-norm "
         "statistics; try batch_size=28"),
        (120, "ast", None),  # the last batch has 24 images
        (98, "l2_fe", None),  # the statistics are frozen
        (2, "ast", None),  # the only batch
    ],
)  # fmt: skip
def test_a_small_last_batch_is_reported(images, method, line):
    lines: list[str] = []
    stage = SimpleNamespace(
        title="AST",
        settings=SimpleNamespace(data=SimpleNamespace(batch_size=32)),
        options=SimpleNamespace(method=method),
        splits=SimpleNamespace(train=SimpleNamespace(folder=range(images))),
    )
    context = SimpleNamespace(processes=SimpleNamespace(size=1), journal=SimpleNamespace(log=lines.append))
    Stage._check_batch_sizes(stage, SimpleNamespace(target=nn.BatchNorm2d(3)), context)
    assert lines == ([line] if line else [])
