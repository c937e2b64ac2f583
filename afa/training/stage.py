"""The inputs of one training stage."""

import gc
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor, nn

from afa.config.settings import Settings, StageSettings
from afa.data.loaders import Split, Splits, TestLoader, TrainLoader
from afa.data.transforms import Preprocessing
from afa.errors import ConfigError
from afa.machine.context import Context
from afa.method.catalogue import METHODS
from afa.results.run_folder import StageFolder
from afa.training.engine import Learner
from afa.training.learner import Start, build_learner, digest, trains_on_one_image
from afa.training.optim import count_epochs


@dataclass(frozen=True)
class Stage:
    """Inputs of one stage of one repeat.

    Attributes:
        settings: of the run; ``index`` selects the stage, counted from 0; ``repeat`` is counted from 1.
        start: weights from which the target starts.
        source_from: weights of the frozen source if they are not those of ``start``.
        fixed_weights: one tensor per layer, for a method whose row asks for them.
    """

    settings: Settings
    index: int
    repeat: int
    splits: Splits
    start: Start
    folder: StageFolder
    title: str
    source_from: Start | None = None
    fixed_weights: tuple[Tensor, ...] = ()

    @property
    def options(self) -> StageSettings:
        return self.settings.stages[self.index]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.splits.train.folder.classes

    @property
    def seed(self) -> int:
        return self.options.seed + self.repeat - 1

    @property
    def preprocessing(self) -> Preprocessing:
        data = self.settings.data
        return Preprocessing(data.image_size, data.augmentation, data.background, data.grey_range)

    @property
    def epochs(self) -> int:
        images, batch_size = len(self.splits.train.folder), self.settings.data.batch_size
        return self.options.epochs or count_epochs(self.options.max_iter, batch_size=batch_size, images=images)

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return -(-len(self.splits.train.folder) // self.settings.data.batch_size)

    @cached_property
    def inputs(self) -> dict[str, str]:
        """Digests of the inputs that determine the result and are not in the settings."""
        inputs = {
            "training images": self.splits.train.folder.fingerprint(),
            f"{self.splits.selected_on} images": self.splits.monitor.folder.fingerprint(),
            "test images": self.splits.test.folder.fingerprint(),
            "start weights": self.start.sha256,
        }
        if self.source_from:
            inputs["source weights"] = self.source_from.sha256
        if self.fixed_weights:
            inputs["fixed weights"] = digest({str(layer): w for layer, w in enumerate(self.fixed_weights)})
        return inputs

    def nested(self, name: str, title: str, options: StageSettings, start: Start) -> "Stage":
        """A stage with other options that runs as a step of this one, in the subfolder ``name``."""
        stages = list(self.settings.stages)
        stages[self.index] = options
        return replace(
            self,
            settings=replace(self.settings, stages=tuple(stages)),
            start=start,
            source_from=None,
            folder=self.folder.nested(name),
            title=f"{self.title}: {title}",
        )

    def train_loader(self, context: Context) -> TrainLoader:
        """Seeded batches of the training images."""
        return TrainLoader(
            self.splits.train.folder,
            self.preprocessing,
            batch_size=self.settings.data.batch_size,
            seed=self.seed,
            device=context.device,
            num_workers=self.settings.data.num_workers,
            canvases=self.splits.train.canvases,
            rows=self.splits.train.rows,
            rank=context.processes.rank,
            world_size=context.processes.size,
        )

    def test_loader(self, split: Split, context: Context) -> TestLoader:
        """Batches of a split's test views; without gradients a batch may have four times the views of a training batch.

        As in training, the processes share a batch: a GPU that can train can score.
        """
        size = -(-self.settings.data.batch_size // context.processes.size)
        return TestLoader(
            split.folder,
            self.preprocessing,
            batch_size=max(4 * size // self.preprocessing.views, 1),
            device=context.device,
            num_workers=self.settings.data.num_workers,
            canvases=split.canvases,
            rank=context.processes.rank,
            world_size=context.processes.size,
        )

    def build_learner(self, context: Context) -> Learner:
        """The stage's learner at its start.

        Raises:
            ConfigError: a batch is too small for batch-norm.
        """
        # Reference cycles of torch.fx keep the networks of an earlier stage or of a failed run in memory until then.
        gc.collect()
        shared = context.processes.size > 1
        learner = build_learner(
            self.settings.backbone,
            self.options,
            start=self.start,
            num_classes=len(self.classes),
            image_size=self.preprocessing.image_size,
            seed=self.seed,
            device=context.device,
            source_from=self.source_from,
            fixed_weights=self.fixed_weights,
            class_images=self.splits.train.folder.class_images,
            compute=self.settings.compute,
            sync_bn=self.settings.run.sync_bn and shared,
        )
        if not (shared and self.settings.run.sync_bn):
            self._check_batch_sizes(learner, context)
        return learner

    def _check_batch_sizes(self, learner: Learner, context: Context) -> None:
        """Batch-norm cannot train on a single value per channel, and its statistics of a few images are inaccurate."""
        images, batch_size = len(self.splits.train.folder), self.settings.data.batch_size
        processes, last = context.processes.size, images % batch_size
        sizes = {min(batch_size, images), last or batch_size}
        if min(sizes) <= processes and not trains_on_one_image(learner.target, self.preprocessing.image_size):
            per_process = f" over {processes} processes" if processes > 1 else ""
            raise ConfigError(
                f"batch_size: with {batch_size} a batch of the {images} images{per_process} has a single image, too "
                f"few for batch-norm at image_size = {self.preprocessing.image_size}; choose another batch_size"
            )
        has_batch_norm = any(isinstance(module, nn.BatchNorm2d) for module in learner.target.modules())
        if (
            0 < last <= batch_size // 4
            and images > batch_size
            and has_batch_norm
            and METHODS[self.options.method].trains_backbone
        ):
            better = next(size for size in range(batch_size, 0, -1) if images % size == 0 or images % size >= size / 2)
            context.journal.log(
                f"warning: {self.title}: the last batch of an epoch has only {last} of {batch_size} images, too few "
                f"for accurate batch-norm statistics; try batch_size={better}"
            )
