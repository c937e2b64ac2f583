"""What a stage is given."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from afa.config.settings import BackboneSettings, StageSettings
from afa.data.loaders import TestLoader, TrainLoader
from afa.data.transforms import Preprocessing
from afa.networks.weights import sha256
from afa.training.optim import count_epochs
from afa.training.setup import Start
from afa.training.splits import Split, Splits


@dataclass(frozen=True)
class StageJob:
    """Settings, images, weights to start from, and the folder of one stage of one repeat."""

    stage: StageSettings
    backbone: BackboneSettings
    preprocessing: Preprocessing
    splits: Splits
    start: Start
    seed: int
    batch_size: int
    num_workers: int
    print_freq: int
    checkpoint_every: str
    device: torch.device
    folder: Path
    title: str
    settings_text: str

    @property
    def classes(self) -> tuple[str, ...]:
        return self.splits.train.folder.classes

    @property
    def epochs(self) -> int:
        images = len(self.splits.train.folder)
        return count_epochs(self.stage.max_iter, batch_size=self.batch_size, images=images)

    @cached_property
    def inputs(self) -> dict[str, str]:
        """Digests of what is not in the settings and yet decides the result."""
        inputs = {
            "training images": self.splits.train.folder.fingerprint(),
            f"{self.splits.selected_on} images": self.splits.monitor.folder.fingerprint(),
            "start weights": self.start.sha256,
        }
        if self.stage.channel_weight_path:
            inputs["channel weights"] = sha256(Path(self.stage.channel_weight_path))
        return inputs

    def train_loader(self) -> TrainLoader:
        """Seeded batches of the training images."""
        return TrainLoader(
            self.splits.train.folder,
            self.preprocessing,
            batch_size=self.batch_size,
            seed=self.seed,
            device=self.device,
            num_workers=self.num_workers,
            canvases=self.splits.train.canvases,
            rows=self.splits.train.rows,
        )

    def test_loader(self, split: Split) -> TestLoader:
        """Batches of a split's test views; without gradients more images fit in one than in training."""
        return TestLoader(
            split.folder,
            self.preprocessing,
            batch_size=max(4 * self.batch_size // self.preprocessing.views, 1),
            device=self.device,
            num_workers=self.num_workers,
            canvases=split.canvases,
        )
