"""The attention that a trained stage learned, computed for images. Predictions do not use it."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from afa.config.hocon import parse_settings
from afa.config.settings import Settings
from afa.data.images import read_canvas
from afa.data.transforms import normalise
from afa.errors import CheckpointError, ConfigError, one_line
from afa.inference.classifier import Classifier
from afa.method.aligned_maps import Channel, Spatial
from afa.method.term import MapShape
from afa.results.run_folder import StageFolder, find_checkpoint
from afa.training.checkpoint import Checkpoint, load_checkpoint
from afa.training.learner import Start, aligned_layers, attention_state, build_attention, build_source, source_start
from afa.training.numerics import products_in_tf32


class LayerAttention(NamedTuple):
    """Attention over the map of the aligned module ``layer`` for B images, on the CPU.

    The weights of each image sum to 1. ``kind`` is ``spatial`` with weights (B, H, W) (eq. 5), or ``channel`` with
    weights (B, C) (eq. 7).
    """

    layer: str
    kind: str
    weights: Tensor

    def __repr__(self) -> str:
        return f"LayerAttention({self.layer}, {self.kind}, {' x '.join(map(str, self.weights.shape))})"


def attention_maps(classifier: Classifier, images: Sequence[str | Path]) -> list[LayerAttention]:
    """Attention of the stage that wrote the checkpoint, from shallow to deep layers.

    It is computed from the maps of the source network with which the stage was trained; a method without attention
    has none.

    Raises:
        DataError: an image cannot be used.
        CheckpointError: the attention is damaged, or the weights of the source no longer exist.
    """
    _, views = centre_views(classifier, [Path(image) for image in images])
    return attention_to(classifier, views)


def centre_views(classifier: Classifier, paths: Sequence[Path]) -> tuple[list[Image.Image], Tensor]:
    """The centre crop of each image: as pictures, and as normalised (B, 3, S, S) views on the classifier's device."""
    # If there are several crops, the centre is the last one.
    canvases = [read_canvas(path, classifier.preprocessing.test_canvas)[-1] for path in paths]
    pixels = torch.from_numpy(np.stack(canvases)).permute(0, 3, 1, 2)
    return [Image.fromarray(canvas) for canvas in canvases], normalise(pixels.to(classifier.device))


@products_in_tf32(False)
@torch.no_grad()
def attention_to(classifier: Classifier, views: Tensor) -> list[LayerAttention]:
    """Same as ``attention_maps``, for normalised (B, 3, S, S) views."""
    checkpoint, path = classifier.checkpoint, classifier.path
    states = {kind: state for kind in (Spatial, Channel) if (state := attention_state(checkpoint, kind))}
    if not states:
        return []
    backbone = read_settings(checkpoint, path).backbone
    source = build_source(backbone, stage_source(checkpoint, path), {"maps"}, classifier.device)
    layers = aligned_layers(backbone)
    if tuple(checkpoint.aligned_layers) != layers:
        raise CheckpointError(f"{path}: its aligned layers are not those of its settings")
    maps = source(views).maps
    shapes = [MapShape(*map_.shape[1:]) for map_ in maps]
    result = []
    for kind, state in states.items():
        term = build_attention(kind, state, shapes, path, classifier.preprocessing.image_size).to(classifier.device)
        for layer, map_, attend in zip(layers, maps, term.attentions, strict=True):
            weights = attend(map_).cpu()
            shaped = weights.unflatten(1, map_.shape[2:]) if kind is Spatial else weights
            result.append(LayerAttention(layer, kind.name, shaped))
    return result


def stage_source(checkpoint: Checkpoint, path: Path) -> Start:
    """Weights of the frozen source network with which the stage of a checkpoint was trained.

    Raises:
        ConfigError, CheckpointError: these weights no longer exist.
    """
    settings, folder = read_settings(checkpoint, path), path.absolute().parent.parent
    number = folder.name.removeprefix("stage_")
    index = int(number) - 1 if len(settings.stages) > 1 and number.isdecimal() else 0
    if settings.stages[index].keep_source or not (index or settings.run.pre_trained_path):
        return source_start(settings.backbone)
    if index:
        before = StageFolder(folder.with_name(f"stage_{index}")).best_or_last(settings.stages[index].stage_start)
    else:
        run = folder.parent if folder.name == "stage_1" else folder
        name = run.name.removeprefix("repeat_")
        repeat = int(name) if settings.run.repeat > 1 and name.isdecimal() else 1
        which = settings.stages[0].stage_start
        before = find_checkpoint(settings.run.pre_trained_path, settings.run.outpath, repeat, which=which)
    return Start(load_checkpoint(before).model, str(before), with_head=True)


def read_settings(checkpoint: Checkpoint, path: Path) -> Settings:
    """Settings of the run that wrote the checkpoint at ``path``.

    Raises:
        CheckpointError: it contains none (a released checkpoint), or settings that this version cannot read.
    """
    if not checkpoint.settings:
        raise CheckpointError(f"{path}: contains no settings; only checkpoints written by AFA contain them")
    try:
        return parse_settings(checkpoint.settings)
    except ConfigError as error:
        raise CheckpointError(f"{path}: its settings cannot be read: {one_line(error)}") from None
