"""A checkpoint of a network with random weights, as a run writes it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from afa.networks.build import build_network
from afa.training.checkpoint import Checkpoint, save_checkpoint
from tests.conftest import CLASSES


@pytest.fixture
def make_checkpoint(tmp_path) -> Callable[..., Path]:
    """``make_checkpoint(backbone="resnet50", augmentation="improved")`` -> path of the checkpoint."""

    def make(backbone: str = "mobilenet_v2", augmentation: str = "default", image_size: int = 64, **more: str) -> Path:
        torch.manual_seed(0)
        checkpoint = Checkpoint(
            model=build_network(backbone, len(CLASSES)).state_dict(),
            backbone=backbone,
            classes=list(CLASSES),
            image_size=image_size,
            augmentation=augmentation,
            method="ast",
            epoch=2,
            split="test",
            top1=50.0,
            **more,
        )
        path = tmp_path / "best.pth"
        save_checkpoint(checkpoint, path)
        return path

    return make
