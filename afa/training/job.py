"""What a stage is given."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from afa.config.settings import BackboneSettings, ComputeSettings, StageSettings
from afa.data.loaders import TestLoader, TrainLoader
from afa.data.transforms import Preprocessing
from afa.errors import ConfigError
from afa.networks.features import FeatureNetwork
from afa.training.distributed import ALONE, World
from afa.training.optim import count_epochs
from afa.training.setup import Start, digest
from afa.training.splits import Split, Splits


@dataclass(frozen=True)
class StageJob:
    """Settings, images, weights to start from, and the folder of one stage of one repeat.

    ``outpath`` and ``repeat`` are where, and of which repeat, another run's checkpoint is looked for;
    ``source_from``: the weights of the frozen source where they are not the start's;
    ``fixed_weights``: one tensor a layer, for a method whose row asks for them;
    ``world``: the processes that do it together, ``sync_bn`` with batch-norm over all their images.
    """

    stage: StageSettings
    backbone: BackboneSettings
    compute: ComputeSettings
    preprocessing: Preprocessing
    splits: Splits
    start: Start
    seed: int
    batch_size: int
    num_workers: int
    print_freq: int
    test_every: int
    checkpoint_every: str
    device: torch.device
    folder: Path
    outpath: str
    repeat: int
    title: str
    settings_text: str
    source_from: Start | None = None
    fixed_weights: tuple[Tensor, ...] = ()
    sync_bn: bool = False
    world: World = ALONE

    @property
    def classes(self) -> tuple[str, ...]:
        return self.splits.train.folder.classes

    @property
    def epochs(self) -> int:
        images = len(self.splits.train.folder)
        return self.stage.epochs or count_epochs(self.stage.max_iter, batch_size=self.batch_size, images=images)

    @cached_property
    def inputs(self) -> dict[str, str]:
        """Digests of what is not in the settings and yet decides the result."""
        inputs = {
            "training images": self.splits.train.folder.fingerprint(),
            f"{self.splits.selected_on} images": self.splits.monitor.folder.fingerprint(),
            "start weights": self.start.sha256,
        }
        if self.source_from:
            inputs["source weights"] = self.source_from.sha256
        if self.fixed_weights:
            inputs["fixed weights"] = digest({str(layer): w for layer, w in enumerate(self.fixed_weights)})
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
            part=self.world.part,
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
            part=self.world.part,
        )


def check_last_batch(job: StageJob, target: FeatureNetwork) -> None:
    """Batch-norm cannot train on a single value a channel: one image with maps of one position.

    Raises:
        ConfigError: a batch, or a process's part of one, is such an image.
    """
    images, processes = len(job.splits.train.folder), job.world.size
    if processes > 1 and not job.sync_bn:
        sizes = {job.batch_size, images % job.batch_size}
        sizes = {part for size in sizes for part in (size // processes, -(-size // processes))}
        if 1 in sizes and _has_maps_of_one_position(job, target):
            raise ConfigError(
                f"batch_size: {job.batch_size} of {images} images over {processes} processes leaves one with a single "
                "image, too few for batch-norm; choose another batch_size, or sync_bn=true"
            )
    elif images % job.batch_size == 1 and _has_maps_of_one_position(job, target):
        raise ConfigError(
            f"batch_size: with {job.batch_size} the last batch of {images} images holds a single one, too few for "
            f"batch-norm at image_size = {job.preprocessing.image_size}; choose another batch_size"
        )


def _has_maps_of_one_position(job: StageJob, target: FeatureNetwork) -> bool:
    return any(s.height * s.width == 1 for s in target.map_shapes(job.preprocessing.image_size))
