"""Where the attention of a trained stage looks in given images. It plays no part in a prediction."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from afa.config.hocon import load_settings
from afa.config.layout import BEST, find_checkpoint
from afa.config.settings import Settings
from afa.data.images import read_canvas
from afa.data.transforms import normalise
from afa.errors import CheckpointError, ConfigError, one_line
from afa.inference.classifier import Classifier
from afa.method.aligned_maps import Channel, Spatial
from afa.method.term import MapShape
from afa.training.checkpoint import Checkpoint, load_checkpoint
from afa.training.setup import Start, attention_state, build_attention, build_source, source_start


class LayerAttention(NamedTuple):
    """Attention over one layer's map, for B images, on the CPU; the weights of an image sum to 1.

    Attributes:
        layer: the module's name.
        kind: ``spatial``: ``weights`` are (B, H, W); ``channel``: (B, C).
    """

    layer: str
    kind: str
    weights: Tensor


def attention_maps(classifier: Classifier, images: Sequence[str | Path]) -> list[LayerAttention]:
    """The attention that the checkpoint's stage learned, on the source that it learned it with; shallow to deep.

    Empty for a method without attention.

    Raises:
        DataError: an image that cannot be used.
        CheckpointError: the attention is damaged, or the source's weights are no longer where they were.
    """
    _, views = centre_views(classifier, [Path(image) for image in images])
    return attention_to(classifier, views)


def centre_views(classifier: Classifier, paths: Sequence[Path]) -> tuple[list[Image.Image], Tensor]:
    """The middle of each image, as it is shown and as the network sees it: (B, 3, S, S), normalised, on its device."""
    # Of several crops the centre is the last.
    canvases = [read_canvas(path, classifier.preprocessing.test_canvas)[-1] for path in paths]
    pixels = torch.from_numpy(np.stack(canvases)).permute(0, 3, 1, 2)
    return [Image.fromarray(canvas) for canvas in canvases], normalise(pixels.to(classifier.device))


@torch.no_grad()
def attention_to(classifier: Classifier, views: Tensor) -> list[LayerAttention]:
    """As ``attention_maps``, for (B, 3, S, S) normalised views."""
    checkpoint = classifier.checkpoint
    states = {kind: attention_state(checkpoint, kind) for kind in (Spatial, Channel)}
    if not any(states.values()):
        return []
    settings = read_settings(checkpoint, classifier.path)
    start = stage_source(checkpoint, classifier.path)
    source = build_source(settings.backbone, start, {"maps"}, classifier.device)
    assert source is not None
    maps = source(views)
    shapes = [MapShape(*one.shape[1:]) for one in maps]
    found = []
    for kind, state in states.items():
        if not state:
            continue
        term = build_attention(kind, state, shapes, classifier.path, classifier.preprocessing.image_size)
        for place, attend in enumerate(term.to(classifier.device).attentions):
            weights = attend(maps[place]).cpu()
            if kind is Spatial:
                weights = weights.unflatten(1, shapes[place][1:])
            found.append(LayerAttention(checkpoint.aligned_layers[place], kind.name, weights))
    return found


def stage_source(checkpoint: Checkpoint, path: Path) -> Start:
    """The weights of the source that the checkpoint's stage was trained beside.

    Raises:
        ConfigError, CheckpointError: they are no longer where they were.
    """
    settings, folder = read_settings(checkpoint, path), path.absolute().parent.parent
    number = folder.name.removeprefix("stage_")
    index = int(number) - 1 if len(settings.stages) > 1 and number.isdecimal() else 0
    if settings.stages[index].keep_source or not (index or settings.run.pre_trained_path):
        return source_start(settings.backbone)
    before = folder.with_name(f"stage_{index}") / BEST
    if not index:
        before = find_checkpoint(settings.run.pre_trained_path, settings.run.outpath)
    return Start(load_checkpoint(before).model, str(before), with_head=True)


def read_settings(checkpoint: Checkpoint, path: Path) -> Settings:
    """The settings of the run that wrote a checkpoint.

    Raises:
        CheckpointError: it holds none, as a released one, or none that this version can read.
    """
    if not checkpoint.settings:
        raise CheckpointError(f"{path}: does not say how it was trained; only a checkpoint of this program does")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "settings.log")
        file.write_text(checkpoint.settings, encoding="utf-8")
        try:
            return load_settings(file)
        except ConfigError as error:
            raise CheckpointError(f"{path}: its settings cannot be read: {one_line(error)}") from None
