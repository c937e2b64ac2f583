"""A trained network for inference: computes class names and probabilities from image files."""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from afa.config.settings import BackboneSettings
from afa.data.folders import ImageFolder
from afa.data.images import load_canvases
from afa.data.loaders import TestLoader
from afa.data.transforms import Preprocessing
from afa.errors import CheckpointError, ConfigError, DataError
from afa.files import read_text
from afa.machine.device import choose_device
from afa.networks.backbones import row_of
from afa.networks.features import FeatureNetwork
from afa.results.records import most_probable
from afa.results.run_folder import find_checkpoint
from afa.training.checkpoint import Checkpoint, load_checkpoint
from afa.training.engine import predict
from afa.training.learner import backbone_name, build_target, head_width


class Prediction(NamedTuple):
    """The most likely classes of one image in descending order, at most five, and their probabilities."""

    path: Path
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


class Logits(NamedTuple):
    """(N, K) logits of the images ``paths``, and one line for each image that cannot be used."""

    paths: list[Path]
    logits: Tensor
    problems: list[str]

    def __repr__(self) -> str:
        return f"Logits({' x '.join(map(str, self.logits.shape))}, {len(self.problems)} problems)"


@dataclass(frozen=True)
class Classifier:
    """The network of a checkpoint, its class names and its preprocessing. Created by ``load_classifier``."""

    target: FeatureNetwork
    backbone: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    device: torch.device
    path: Path
    checkpoint: Checkpoint

    def __repr__(self) -> str:
        trained = f"{self.checkpoint.method or 'unknown method'}, epoch {self.checkpoint.epoch or 'unknown'}"
        size = f"{len(self.classes)} classes, {self.preprocessing.image_size} px"
        return f"Classifier({self.backbone}, {size}, {trained}, {self.path}, on {self.device})"

    @functools.cached_property
    def _network(self) -> Callable[[Tensor], Tensor]:
        return self.target.evaluator()

    def predict(self, images: str | Path | Sequence[str | Path]) -> list[Prediction]:
        """Classify one image file or several.

        Raises:
            DataError: images that cannot be used, one line each.
        """
        paths = [Path(path) for path in ([images] if isinstance(images, str | Path) else images)]
        batches = list(self.logits(paths))
        if problems := [line for batch in batches for line in batch.problems]:
            raise DataError(problems)
        return [prediction for batch in batches for prediction in self.to_predictions(batch)]

    def logits(self, paths: Sequence[Path], batch_size: int = 64) -> Iterator[Logits]:
        """Compute the logits of ``batch_size`` images at a time, exactly as an evaluation does.

        On the CPU the logits of an image are bit-identical to those of the evaluation; on a GPU
        they are if ``batch_size`` is that of the evaluation, see ``engine.predict``. The next images are decoded
        meanwhile.
        """
        chunks = [paths[start : start + batch_size] for start in range(0, len(paths), batch_size)]
        load = functools.partial(load_canvases, make_canvas=self.preprocessing.test_canvas, workers=os.cpu_count() or 1)
        with ThreadPoolExecutor(1) as executor:
            decoded = (executor.submit(load, chunk) for chunk in chunks)  # started by ``next``
            following = next(decoded, None)
            for files in chunks:
                current, following = following, next(decoded, None)
                assert current is not None
                canvases, bad = current.result()
                yield self._logits(files, canvases, bad, batch_size)

    def _logits(self, files: Sequence[Path], canvases: np.ndarray, bad: dict[int, str], batch_size: int) -> Logits:
        good = [path for index, path in enumerate(files) if index not in bad]
        logits = torch.empty(0, len(self.classes))
        if good:
            loader = TestLoader(
                ImageFolder(Path(), tuple(good), (0,) * len(good), self.classes),  # the labels are not used
                self.preprocessing,
                batch_size=batch_size,
                device=self.device,
                num_workers=0,
                canvases=canvases,
            )
            logits, _ = predict(self._network, loader)
        return Logits(good, logits, list(bad.values()))

    def to_predictions(self, batch: Logits) -> list[Prediction]:
        """Class names and probabilities of the best five classes of each image."""
        ranked = most_probable(batch.logits).named(self.classes)
        return [Prediction(path, *zip(*best, strict=True)) for path, best in zip(batch.paths, ranked, strict=True)]


def load_classifier(
    checkpoint: str | Path,
    *,
    outpath: str = "runs",
    gpu_id: str = "0",
    base_model_name: str = "",
    classes: Sequence[str] = (),
) -> Classifier:
    """Load the network of a checkpoint for inference.

    Args:
        checkpoint: a file, the folder of a run, or the name of a run in ``outpath``.
        gpu_id: index of the CUDA device, or ``cpu``. Without a GPU the CPU is used.
        base_model_name, classes: name of the network and class names, only for a released checkpoint,
            which contains neither; without ``classes`` the classes are numbered from 0.

    Raises:
        ConfigError: the checkpoint does not exist, or the name of its network is missing.
        CheckpointError: the checkpoint is damaged, or does not match the name or the classes.
    """
    path = find_checkpoint(str(checkpoint), outpath)
    content = load_checkpoint(path)
    name = backbone_name(content, path, base_model_name)
    names = tuple(content.classes)
    if not names:
        outputs = head_width(content, path, name)
        names = tuple(classes or map(str, range(outputs)))
        if len(names) != outputs:
            raise CheckpointError(f"{path}: its head has {outputs} classes, but there are {len(names)} class names")
    device, _ = choose_device(gpu_id)
    target = build_target(BackboneSettings(name=name), content, path, names, device).eval()
    size = content.image_size or row_of(name).image_size
    preprocessing = Preprocessing(size, content.augmentation or "default", content.background, content.grey_range)
    return Classifier(target, name, names, preprocessing, device, path, content)


def read_classes(file: str) -> list[str]:
    """Class names from a text file, one per line; empty if ``file`` is empty."""
    if not file:
        return []
    try:
        return [line.strip() for line in read_text(Path(file), "utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read as UTF-8 text: {error}") from None
