"""A learner on the demo's source, with three classes."""

from typing import Any

import torch
from torch import Tensor

from afa.config.settings import Settings
from afa.networks.build import load_source_weights
from afa.training.engine import Learner
from afa.training.learner import Start, build_learner


def demo_learner(
    settings: Settings, *, image_size: int = 64, seed: int = 1, **more: Any
) -> tuple[Learner, dict[str, Tensor]]:
    """The first stage's learner on the CPU, and the weights that it starts from."""
    state, origin = load_source_weights("mobilenet_v2", settings.backbone.source_weights)
    learner = build_learner(
        settings.backbone,
        settings.stages[0],
        start=Start(state, origin, with_head=False),
        num_classes=3,
        image_size=image_size,
        seed=seed,
        device=torch.device("cpu"),
        **more,
    )
    return learner, state
