"""A trained network as a user wants it: images in, class names and probabilities out."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from afa.config.layout import find_checkpoint
from afa.config.settings import BackboneSettings
from afa.data.cache import load_canvases
from afa.data.folders import ImageFolder
from afa.data.loaders import TestLoader
from afa.data.transforms import Preprocessing
from afa.errors import CheckpointError, ConfigError, DataError
from afa.networks.backbones import BACKBONES, row_of
from afa.networks.build import build_network, head_keys
from afa.networks.features import FeatureNetwork
from afa.training.checkpoint import Checkpoint, load_checkpoint
from afa.training.device import choose_device
from afa.training.engine import predict
from afa.training.setup import build_target

BATCH_SIZE = 64


class Prediction(NamedTuple):
    """An image's likeliest classes, the likeliest first, and their probabilities; at most five."""

    path: Path
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


class Logits(NamedTuple):
    """(N, K) logits of the images ``paths``, and a line for each image that could not be used."""

    paths: list[Path]
    logits: Tensor
    bad: list[str]


@dataclass(frozen=True)
class Classifier:
    """A checkpoint's network and all it takes to use it; made by ``load_classifier``."""

    target: FeatureNetwork
    backbone: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    device: torch.device
    path: Path
    checkpoint: Checkpoint

    def predict(self, images: str | Path | Sequence[str | Path]) -> list[Prediction]:
        """The likeliest classes of one image or several.

        Raises:
            DataError: images that cannot be used, a line each.
        """
        paths = [images] if isinstance(images, str | Path) else images
        found: list[Prediction] = []
        bad: list[str] = []
        for part in self.logits([Path(path) for path in paths]):
            found += self.name(part.paths, part.logits)
            bad += part.bad
        if bad:
            raise DataError(bad)
        return found

    def logits(self, paths: Sequence[Path], batch_size: int = BATCH_SIZE) -> Iterator[Logits]:
        """``batch_size`` images after the other, exactly as an evaluation computes them.

        On the CPU an image's logits are those of the evaluation bit for bit, on a card where
        ``batch_size`` is the evaluation's, see ``engine.predict``.
        """
        for start in range(0, len(paths), batch_size):
            part = paths[start : start + batch_size]
            canvases, bad = load_canvases(part, self.preprocessing.test_canvas, workers=os.cpu_count() or 1)
            good = [path for index, path in enumerate(part) if index not in bad]
            logits = torch.empty(0, len(self.classes))
            if good:
                # The loader knows images of a data set alone; the labels are not looked at.
                folder = ImageFolder(Path(), tuple(good), (0,) * len(good), self.classes)
                loader = TestLoader(
                    folder,
                    self.preprocessing,
                    batch_size=batch_size,
                    device=self.device,
                    num_workers=0,
                    canvases=canvases,
                )
                logits, _ = predict(self.target, loader)
            yield Logits(good, logits, list(bad.values()))

    def name(self, paths: Iterable[Path], logits: Tensor) -> list[Prediction]:
        """(N, K) logits in words."""
        top = logits.softmax(dim=1).topk(min(5, len(self.classes)), dim=1)
        rows = zip(paths, top.indices.tolist(), top.values.tolist(), strict=True)
        return [
            Prediction(path, tuple(self.classes[i] for i in indices), tuple(values)) for path, indices, values in rows
        ]


def load_classifier(
    checkpoint: str | Path,
    *,
    outpath: str = "runs",
    gpu_id: str = "0",
    base_model_name: str = "",
    classes: Sequence[str] = (),
) -> Classifier:
    """The network of a checkpoint.

    Args:
        checkpoint: a file, a run's folder, or the name of a run under ``outpath``.
        gpu_id: CUDA card; ``cpu``: none. Without a card the CPU is used.
        base_model_name, classes: network and class names of a released checkpoint, which holds
            neither; without names the classes are numbered from 0.

    Raises:
        ConfigError: there is no such checkpoint, or the network's name is missing.
        CheckpointError: it is damaged, or does not fit what is said of it.
    """
    path = find_checkpoint(str(checkpoint), outpath)
    content = load_checkpoint(path)
    name = _backbone_name(content, path, base_model_name)
    names = tuple(content.classes) or _class_names(content, path, name, classes)
    backbone = BackboneSettings(name=name)
    device, _ = choose_device(gpu_id)
    size = content.image_size or row_of(name).image_size
    return Classifier(
        target=build_target(backbone, content, path, names).to(device).eval(),
        backbone=name,
        classes=names,
        preprocessing=Preprocessing(size, content.augmentation or "default"),
        device=device,
        path=path,
        checkpoint=content,
    )


def read_classes(file: str) -> list[str]:
    """Class names, one a line; none where no file is named."""
    if not file:
        return []
    try:
        return [line.strip() for line in Path(file).read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read as UTF-8 text: {error}") from None


def _backbone_name(content: Checkpoint, path: Path, given: str) -> str:
    if not content.backbone and not given:
        raise ConfigError(
            f"{path}: a released checkpoint does not say which network it is; give base_model_name=<name>, "
            f"one of {', '.join(BACKBONES)}"
        )
    return content.backbone or given


def _class_names(content: Checkpoint, path: Path, name: str, given: Sequence[str]) -> tuple[str, ...]:
    """``given``, or numbers; as many as the head has outputs."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        bias = head_keys(build_network(name, 1))[-1]
    if bias not in content.model:
        raise CheckpointError(f"{path}: holds no {name}: its head {bias} is missing")
    outputs = len(content.model[bias])
    if given and len(given) != outputs:
        raise CheckpointError(f"{path}: its head has {outputs} classes; {len(given)} names are given")
    return tuple(given) or tuple(str(number) for number in range(outputs))
